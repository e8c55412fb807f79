"""Surfaces: where a finding can be looked at. Terminal, notebook, web page and file show the same."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Container
from typing import TYPE_CHECKING, Any, cast

from attribution.files import check_file, write_file

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable

    from attribution.views.web.html import HtmlView


class Surfaces(ABC):
    """What can be printed, shown in a notebook, and written as a page or as JSON; a finding says what is on them."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON."""

    @abstractmethod
    def text_view(self) -> ConsoleRenderable:
        """What a terminal shows. `rich` prints it, `str` makes plain text of it."""

    @abstractmethod
    def html_view(self) -> HtmlView:
        """What a browser shows: `page()` is a whole page, `notebook()` what fits into a notebook."""

    def __str__(self) -> str:
        return str(self.text_view())

    def __rich__(self) -> ConsoleRenderable:
        return self.text_view()

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """What a notebook shows: the view, or its text where there is no HTML."""
        makers = {"text/html": lambda: self.html_view().notebook(), "text/plain": lambda: str(self)}
        asked = [kind for kind in makers if not include or kind in include]
        return {kind: makers[kind]() for kind in asked if not exclude or kind not in exclude}

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes a page that needs nothing else, and opens without a network.

        Raises `InputError` where the folder does not exist, `ResultFileError` where the file cannot be written.
        """
        file = check_file(path)
        write_file(file, encoded(self.html_view().page()))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_dict` as JSON; raises what `to_html` raises.

        Numbers that JSON has none for, NaN and infinity, are null.
        """
        file = check_file(path)
        write_file(file, (as_json(self.to_dict()) + "\n").encode())


def as_json(content: Any) -> str:
    """JSON of it in ASCII, half characters escaped; null for NaN and infinity, which JSON does not have."""
    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(content), allow_nan=False)


def encoded(text: str) -> bytes:
    r"""The text in UTF-8, with `\ud800` for half a character, which UTF-8 does not have."""
    return text.encode("utf-8", "backslashreplace")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in cast("dict[Any, Any]", content).items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in cast("list[Any]", content)]
    return None if isinstance(content, float) and not math.isfinite(content) else content
