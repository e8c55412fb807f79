"""Texts and numbers as every view writes them: without anything that a terminal would act upon, and told apart.

Prompts, outputs and names are untrusted: whatever could move a cursor, change a colour or turn the writing direction is
shown as a visible mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import regex
from rich.cells import cell_len, set_cell_size

_HIDDEN = regex.compile(r"[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]")
"""Controls, formatting, halves of characters, separators of lines, and whatever else is not to be seen."""

_JOINING = regex.compile(r"(?<=[^\x00-\x7f])(?:[\u200c\u200d](?=[^\x00-\x7f])|[\ufe0e\ufe0f])")
"""Joiners and variants within emoji, and in scripts that join; anywhere else they would only hide something."""


def visible(text: str, *, layout: bool = False) -> str:
    """`text` with a visible mark for every character that a terminal would act upon.

    With `layout` newlines stay and tabs become spaces; without, the result is one line.
    """
    joining = {found.start() for found in _JOINING.finditer(text)}
    return _HIDDEN.sub(lambda found: found[0] if found.start() in joining else _mark(found[0], layout), text)


def _mark(character: str, layout: bool) -> str:
    code = ord(character)
    if character == "\n":
        return "\n" if layout else "⏎"
    if character == "\t":
        return "    " if layout else "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


def seen(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without the white space around it; as it is where there is nothing else."""
    own = text[start:end]
    if not own.strip():
        return start, end
    return start + len(own) - len(own.lstrip()), start + len(own.rstrip())


def kind(granularity: str, count: int) -> str:
    """What so many units are called: "list item", or "list items"."""
    name = visible(granularity).replace("_", " ")
    return name if count == 1 else name + ("es" if name.endswith("ch") else "s")


def number(score: float, strongest: float, *, signed: bool = True) -> str:
    """Three decimals, or powers of ten where the strongest score is small; with a sign where there is one to tell."""
    digits = f"{score:+.3f}" if strongest >= 0.1 else f"{score:+.2e}"
    return digits if signed else digits.removeprefix("+")


def numbered(names: Sequence[str]) -> list[str]:
    """The names, repeated ones told apart by their place: "apples (2 of 2)"."""
    count, met = Counter(names), Counter[str]()
    told: list[str] = []
    for name in names:
        met[name] += 1
        told.append(f"{name} ({met[name]} of {count[name]})" if count[name] > 1 else name)
    return told


def cut(text: str, cells: int) -> str:
    """The text in at most so many cells of a terminal, with an ellipsis where it is cut."""
    if cell_len(text) <= cells:
        return text
    return "" if cells < 1 else set_cell_size(text, cells - 1).rstrip() + "…"


def cut_names(names: Sequence[str], cells: int) -> list[str]:
    """The names told apart by their place (see `numbered`), each in so many cells; the place is never cut."""
    told: list[str] = []
    for name, whole in zip(names, numbered(names), strict=True):
        place = whole.removeprefix(name)
        told.append(cut(name, max(cells - cell_len(place), 2)) + place)
    return told
