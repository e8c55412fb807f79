"""Counterfactuals in a terminal: the changes that lead to another answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from attribution.views.experiment import shown_output, shown_prompt
from attribution.views.text import plain, visible

_ALLOWANCES = {"max_tries": "more tries", "beam": "a wider beam"}
"""What each option that left something out could be given more of."""


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
        result, found = payload["attribution"], payload["found"]
        yield Text(visible(f"counterfactuals · {result['model']['name']} · {payload['tried']} prompts tried"), "dim")
        yield Text()
        yield shown_prompt(payload["prompt"])
        yield Text()
        yield shown_output(payload["output"])
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
                answer = visible(each["output"]).strip("⏎ ") or "(nothing)"
                change = Text(f"{each['change']:+.3f}")
                table.add_row(str(place), change, Text(answer, "bold dark_orange"), Text(visible(each["edit"])))
            yield table
        yield from self._left_out()

    def _left_out(self) -> Iterator[Text]:
        """What the search did not look at, and which option would let it."""
        limited = self._payload["limited_by"]
        if "keep" in limited:
            yield Text(f"    more than {len(self._payload['found'])} were found: raise keep", style="dim")
        allowed = [words for name, words in _ALLOWANCES.items() if name in limited]
        if allowed:
            yield Text(f"    not everything was tried: allow {', or '.join(allowed)}", style="dim")
