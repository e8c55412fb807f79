"""A verification in a terminal: the verdict in words, the two halves in numbers, and the units it is about.

As in the view of a result, no text is parsed as markup, and nothing in it reaches the terminal but as a visible mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attribution.views.findings import compared
from attribution.views.terminal.console import plain
from attribution.views.terminal.result import LISTED
from attribution.views.words import cut, cut_names, kind, number, visible

_PLACE = 17  # cells before the name of a unit: its place in the list and its score
_LABEL = 40  # cells at most for a text within a sentence
_HALVES = (("lost when removed", "removed"), ("won when kept alone", "alone"))


class VerificationView:
    """A verification for the terminal: `rich` prints it with colours, `str` gives plain text.

    `payload` is the dict of a verification.
    """

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload
        self._result: Mapping[str, Any] = payload["result"]
        self._count = len(payload["strongest"])
        self._largest = max(abs(payload[half]["effect"]) for _, half in _HALVES)

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self._sentence()
        yield Text()
        yield self._table()
        yield from self._levels()
        yield Text()
        yield from self._strongest(options.max_width)
        yield from self._remarks()

    def _sentence(self) -> Text:
        """The verdict, and why."""
        text = Text(style="bold")
        if self._payload["held"] is None:
            text.append(f"Whether the explanation holds for {self._asked()} cannot be told:")
            return text.append(f" {self._too_few()}", Style(bold=False))
        text.append(f"The explanation {self._payload['verdict'].partition(':')[0]} for {self._asked()}:")
        necessary, sufficient = self._payload["necessary"], self._payload["sufficient"]
        if self._count > 1:
            named, chance = f"its {self._count} strongest {self._kinds()}", "random ones"
            missed = f"are {'' if necessary else 'not clearly '}missed more than {chance}"
            alone = f"they {'bring' if sufficient else 'do not clearly bring'} more than {chance}"
        else:
            named, chance = f"its strongest {self._kinds()}", "a random one"
            missed = f"is {'' if necessary else 'not clearly '}missed more than {chance}"
            alone = f"it {'brings' if sufficient else 'does not clearly bring'} more than {chance}"
        joined = "and" if necessary == sufficient else "but"
        told = f" {named} {missed} when removed, {joined} {alone} when kept alone."
        if sufficient and not necessary and self._payload["drop"] < self._payload["kept"] / 2:
            told += " Others may do the same work."
        return text.append(told, Style(bold=False))

    def _too_few(self) -> str:
        """Why it cannot be told, and what to do about that."""
        asked, exist = len(self._payload["sets"]), self._payload["n_sets"]
        if exist > asked:
            return f"{asked} random sets are too few. Take a larger n_random."
        are = "are" if exist > 1 else "is"
        other = "no other set" if exist == 0 else f"only {exist} other set{'s' * (exist != 1)}"
        return f"there {are} {other} of {self._count} {self._kinds()}, too few. Take another top, or smaller units."

    def _table(self) -> Table:
        """Both halves, beside what random sets did."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(Text(f"in {visible(self._payload['unit'])}"))
        for title in ("strongest", "random", "95% of random", "p"):
            table.add_column(title, justify="right")
        for title, half in _HALVES:
            trial = self._payload[half]
            mean, between = "–", "–"
            if trial["mean"] is not None:
                mean = number(trial["mean"], self._largest)
                between = " to ".join(number(end, self._largest) for end in trial["interval"])
            effect = Text(number(trial["effect"], self._largest), "bold" if trial["holds"] else "")
            table.add_row(title, effect, mean, between, f"{trial['p']:.3f}")
        return table

    def _levels(self) -> Iterator[Text]:
        """The numbers that these are differences of."""
        payload = self._payload
        numbers = {
            "whole prompt": payload["full"],
            "without these": payload["removed"]["value"],
            "these alone": payload["alone"]["value"],
            "nothing": payload["nothing"],
        }
        yield Text(" · ".join(f"{name} {number(n, self._largest)}" for name, n in numbers.items()), style="dim")
        if payload["share"] is not None:
            named = "Alone they bring" if self._count > 1 else "Alone it brings"
            yield Text(f"{named} {payload['share']:.0%} of what the whole prompt brings.")

    def _strongest(self, width: int) -> Iterator[Text]:
        method, payload = self._result["method"], self._payload
        names = [visible(unit["name"] or unit["text"].strip() or unit["text"]) for unit in self._result["units"]]
        names = cut_names(names, width - _PLACE)
        told = visible(" · ".join([method["name"], self._result["model"]["name"], self._result["target"]]))
        yield Text(f"Strongest {self._kinds()}, in {visible(method['unit'])} ({told}):")
        pairs = list(zip(payload["strongest"], payload["scores"], strict=True))
        for place, (unit, score) in enumerate(pairs[:LISTED], 1):
            told = number(score, abs(pairs[0][1]), signed=method["signed"])
            yield Text(f"{place:3d}  {told:>10}  {names[unit]}")
        if len(pairs) > LISTED:
            yield Text(f"    and {len(pairs) - LISTED} weaker", style="dim")

    def _remarks(self) -> Iterator[Text]:
        """What it was compared with, and what that took."""
        yield Text(f"    {compared(self._payload)}", style="dim")

    def _asked(self) -> str:
        outputs, chosen = self._result["outputs"], self._payload["outputs"]
        if len(set(chosen)) == len(outputs):
            return "the output"
        return repr(cut(visible("".join(outputs[o]["text"] for o in chosen)).strip(), _LABEL))

    def _kinds(self) -> str:
        """What the strongest units are: "word", or "words"."""
        return kind(self._result["granularity"], self._count)
