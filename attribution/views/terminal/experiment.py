"""Experiments in a terminal: what the model says after each change of the prompt, side by side.

As in the view of a result, no text is parsed as markup, and nothing in it reaches the terminal but as a visible mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attribution.views.terminal.console import Colours, colours_of, plain
from attribution.views.terminal.shading import ink
from attribution.views.words import cut, visible

ANSWER, EDIT = 200, 400
"""Cells at most for an answer and for an edit in a table."""


class WhatIfView:
    """Edits and what became of the answer: `rich` prints them with colours, `str` gives plain text.

    `payload` is the dict of a `WhatIf`.
    """

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        payload, colours = self._payload, colours_of(console)
        yield Text(visible(f"what if · {payload['model']['name']} · {payload['target']}"), style="dim")
        yield Text()
        yield shown_prompt(payload["prompt"])
        yield Text()
        yield shown_output(payload["answer"], colours)
        yield Text()
        asked = cut(visible(payload["asked"]).strip(), ANSWER)
        meant = "the output" if payload["asked"] == payload["output"] else repr(asked)
        yield Text(f"{meant} has {payload['value']:+.3f} {visible(payload['unit'])}; after each change:")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("change", justify="right", no_wrap=True)
        table.add_column("answer")
        table.add_column("edit")
        for variant in payload["variants"]:
            style = Style(bold=True) + ink("opposes", colours) if variant["changed"] else Style(dim=True)
            answer = visible(variant["output"]).strip("⏎ ") if variant["changed"] else "the same"
            answer, edit = cut(answer, ANSWER) or "(nothing)", cut(visible(variant["edit"]), EDIT)
            table.add_row(Text(f"{variant['change']:+.3f}"), Text(answer, style), Text(edit))
        yield table


def shown_prompt(prompt: Any) -> Text:
    """A prompt as a person wrote it: a text, or messages with their roles before them."""
    if isinstance(prompt, dict):
        prompt = prompt.get("text", prompt.get("messages"))
    if isinstance(prompt, str):
        return Text(visible(prompt, layout=True))
    text = Text()
    for number, message in enumerate(prompt):
        text.append("\n" * bool(number) + visible(str(message["role"])) + ": ", style="bold")
        content = message.get("content") or message.get("tool_calls") or ""
        text.append(visible(content if isinstance(content, str) else str(content), layout=True))
    return text


def shown_output(output: str, colours: Colours) -> Text:
    """An output after an arrow."""
    return Text("→ ", style="bold").append(visible(output.lstrip("\r\n"), layout=True), ink("answer", colours))
