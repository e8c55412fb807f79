"""The terminal that something is written to: which colours it has, and what a pipe gets."""

from __future__ import annotations

from io import StringIO
from typing import Any, Literal

from rich.console import Console

Colours = Literal["truecolor", "256", "16", "none", "plain"]
"""What a terminal can show; "none" still has bold and underlined text, "plain" has not."""


def colours_of(console: Console) -> Colours:
    """What this terminal can show."""
    system = console.color_system
    if system is None:
        return "plain"
    if console.no_color:
        return "none"
    return "truecolor" if system == "truecolor" else "256" if system == "256" else "16"


def plain(renderable: Any, width: int = 100) -> str:
    """What a pipe would get of it: no colours, no codes."""
    written = StringIO()
    Console(file=written, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(renderable)
    return "\n".join(line.rstrip() for line in written.getvalue().split("\n")).rstrip("\n")
