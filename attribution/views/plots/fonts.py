"""Texts in figures: in the fonts that there are, and literally, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, cast

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from attribution.views.words import visible

_FALLBACKS = (
    *("DejaVu Sans", "Noto Sans", "Arial Unicode MS"),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "SimHei", "Malgun Gothic", "Apple SD Gothic Neo"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI"),
    *("Noto Sans Symbols", "Noto Sans Symbols 2", "Noto Sans Math", "Noto Emoji", "Segoe UI Symbol", "Symbola"),
    *("Unifont", "FreeSans", "FreeSerif"),
)
"""Fonts that are asked for a character, after the one that is set; not those of coloured emoji, which matplotlib cannot
draw."""


@cache
def _files(family: tuple[str, ...]) -> dict[str, Any]:
    """The installed fonts by name, and where they are: those of the family that is set, then the fallbacks."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    own = font_manager.findfont(FontProperties(family=list(family)))
    found = {font_manager.get_font(own).family_name: own}
    for name in _FALLBACKS:
        if name in installed and name not in found:
            found[name] = font_manager.findfont(FontProperties(family=[name]))
    return found


def _family() -> dict[str, Any]:
    return _files(tuple(FontProperties().get_family()))


@cache
def _drawn(character: str, files: tuple[Any, ...]) -> bool:
    """Whether any of these fonts has it."""
    return any(font_manager.get_font(file).get_char_index(ord(character)) for file in files)


def drawable(text: str) -> str:
    """One line of visible text, with a mark for every character that no font here has."""
    files = tuple(_family().values())
    return "".join(c if _drawn(c, files) else f"<U+{ord(c):04X}>" for c in visible(text))


def literally(texts: Iterable[Any]) -> None:
    """Has these texts of matplotlib drawn as they are: `$x$` is no formula, and TeX is never asked."""
    names = list(_family())
    for text in cast(Iterable[Text], texts):
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_fontfamily(names)
