"""Counterfactuals in a terminal: the changes that lead to another answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attribution.views.findings import left_out
from attribution.views.terminal.console import colours_of, plain
from attribution.views.terminal.experiment import ANSWER, EDIT, shown_output, shown_prompt
from attribution.views.terminal.shading import ink
from attribution.views.words import cut, visible


class CounterfactualsView:
    """What would have had to be different: `rich` prints it with colours, `str` gives plain text.

    `payload` is the dict of `Counterfactuals`.
    """

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        payload = self._payload
        result, found, colours = payload["attribution"], payload["found"], colours_of(console)
        yield Text(visible(f"counterfactuals · {result['model']['name']} · {payload['tried']} prompts tried"), "dim")
        yield Text()
        yield shown_prompt(payload["prompt"])
        yield Text()
        yield shown_output(payload["output"], colours)
        yield Text()
        if not found:
            yield Text("No change that was tried leads to another answer.")
        else:
            size = len(found[0]["changes"])
            yield Text(f"With {size} change{'s' * (size > 1)} the answer is another:")
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for name in ("", "nats", "answer", "change"):
                table.add_column(name, justify="right" if name in ("", "nats") else "left", no_wrap=name == "nats")
            for place, each in enumerate(found, 1):
                answer = cut(visible(each["output"]).strip("⏎ "), ANSWER) or "(nothing)"
                change = Text(f"{each['change']:+.3f}")
                told = Text(answer, Style(bold=True) + ink("opposes", colours))
                table.add_row(str(place), change, told, Text(cut(visible(each["edit"]), EDIT)))
            yield table
        yield from self._left_out()

    def _left_out(self) -> Iterator[Text]:
        """What the search did not look at, and which option would let it."""
        for told in left_out(self._payload):
            yield Text(f"    {told}", style="dim")
