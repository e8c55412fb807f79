"""Two results in a terminal: both prompts shaded on one scale, both outputs, and where they differ most.

As in the view of one result, no text is parsed as markup, and nothing in it reaches the terminal but as a visible mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.text import Text

from attribution.views.text import LISTED, NEGLIGIBLE, kind, numbered, plain, seen, shade, visible

_SIDES = ("first", "second")
_NUMBER = 10  # cells for a number and the heading above it
_BAR = 10  # cells for the longest bar


class ComparisonView:
    """Two results for the terminal: `rich` prints them with colours, `str` gives plain text.

    `payload` is the dict of a comparison.
    """

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload
        self._scale: float = payload["scale"]
        self._names = {side: numbered([_name(unit) for unit in payload[side]["units"]]) for side in _SIDES}
        pairs = [pair for pair in payload["pairs"] if not pair["special"]]
        self._ranked = sorted(pairs, key=lambda pair: -abs(pair["difference"]))

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place in range(2):
            yield self._heading(place)
        yield Text()
        for place, side in enumerate(_SIDES):
            yield self._prompt(side)
            yield self._output(place)
            yield Text()
        yield from self._differences()
        yield from self._remarks()

    def _heading(self, place: int) -> Text:
        result = self._payload[_SIDES[place]]
        parts = [result["method"]["name"], result["model"]["name"], result["target"]]
        if result["ablation"]:
            parts.append(f"absent: {result['ablation']}")
        text = Text(f"{_SIDES[place]:6}  ", style="bold")
        return text.append(visible(" · ".join(parts)), Style(bold=False, dim=True))

    def _prompt(self, side: str) -> Text:
        """The prompt in its own layout, what is seen of every unit shaded by its score."""
        result, text, reached = self._payload[side], Text(), 0
        prompt: str = result["prompt"]
        scores = {pair[side]: pair[f"score_{side}"] for pair in self._payload["pairs"] if pair[side] is not None}
        for index, unit in enumerate(result["units"]):
            start, end = seen(prompt, unit["start"], unit["end"])
            if unit["special"] or start == end:
                continue
            text.append(visible(prompt[reached:start], layout=True))
            text.append(visible(prompt[start:end], layout=True), shade(scores[index], self._scale))
            reached = end
        text.append(visible(prompt[reached:], layout=True))
        return text

    def _output(self, place: int) -> Text:
        """The output after an arrow, the compared tokens in bold where they are not all of it."""
        outputs = self._payload[_SIDES[place]]["outputs"]
        chosen = set(self._payload["outputs"][place])
        some, begun = len(chosen) < len(outputs), False
        text = Text("→ ", style="bold")
        for index, output in enumerate(outputs):
            shown = visible(output["text"], layout=begun)
            begun = begun or not output["text"].isspace()
            told = some and index in chosen
            text.append(shown, Style(color="green", bold=told, reverse=told))
        return text

    def _differences(self) -> Iterator[Text]:
        """Both numbers of the pairs that are furthest apart."""
        one, unit_of_scores = kind(self._payload["first"]["granularity"], 1), visible(self._payload["unit"])
        asked = self._asked()
        if self._scale == 0:
            yield Text(f"No {one} of either prompt matters for {asked}: every score is 0.")
            return
        listed = [pair for pair in self._ranked if abs(pair["difference"]) >= NEGLIGIBLE * self._scale][:LISTED]
        if not listed:
            yield Text(f"No {one} differs for {asked} by more than {NEGLIGIBLE:.0%} of the strongest score.")
            return
        measured = "as" if self._payload["share"] else "in"
        yield Text(f"Largest differences for {asked}, {measured} {unit_of_scores}:")
        titles = "  ".join(f"{title:>{_NUMBER}}" for title in (*_SIDES, "difference"))
        yield Text(f"     {titles}", style="dim")
        largest = abs(listed[0]["difference"])
        for place, pair in enumerate(listed, 1):
            yield self._row(place, pair, largest)
        if len(self._ranked) > len(listed):
            yield Text(f"    and {len(self._ranked) - len(listed)} smaller", style="dim")

    def _row(self, place: int, pair: Mapping[str, Any], largest: float) -> Text:
        text = Text(f"{place:3d}  ")
        for side in _SIDES:
            score = pair[f"score_{side}"]
            number = "–" if score is None else self._number(score, self._payload[side]["method"]["signed"])
            text.append(" " * (_NUMBER - len(number)))
            text.append(number, shade(score or 0.0, self._scale)).append("  ")
        difference = pair["difference"]
        text.append(f"{self._number(difference):>{_NUMBER}}  ")
        # Full blocks for more in the second, hatched ones for less.
        bar = ("█" if difference > 0 else "▒") * max(round(abs(difference) / largest * _BAR), 1)
        text.append(bar.ljust(_BAR), Style(color="blue" if difference > 0 else "dark_orange"))
        text.append(f"  {self._named(pair)}")
        if pair["kind"].startswith("only"):
            text.append(f"  {pair['kind']}", style="dim")
        return text

    def _named(self, pair: Mapping[str, Any]) -> str:
        """What the pair's units are called: "Sam (2 of 2)", or "apples → oranges"."""
        first, second = (None if pair[side] is None else self._names[side][pair[side]] for side in _SIDES)
        if first is None or second is None:
            return first or second or ""
        if pair["kind"] == "changed":
            return f"{first} → {second}"
        # One text, but not as often in both prompts.
        return first if first == second else f"{first} / {second}"

    def _remarks(self) -> Iterator[Text]:
        """On which scale this is, how far both agree, and what stands outside."""
        first, second = (self._payload[side] for side in _SIDES)
        quantities = [label["quantity"] for label in self._payload["labels"]]
        measures = [
            result["method"]["unit"]
            + f" of {quantity}" * (len(set(quantities)) > 1)
            + ", without signs" * (not result["method"]["signed"])
            for result, quantity in zip((first, second), quantities, strict=True)
        ]
        if self._payload["share"]:
            told = visible(f"the first is in {measures[0]}, the second in {measures[1]}")
            yield Text(f"    measured differently ({told}): each is divided by its own strongest score", style="dim")
        else:
            end = self._number(self._scale, signed=False)
            yield Text(f"    both on one scale, which ends at {end} {visible(measures[0])}", style="dim")
        if self._payload["agreement"] is not None:
            both = sum(pair["kind"] in ("same", "changed") for pair in self._ranked)
            counted = f"{both} {kind(first['granularity'], both)}"
            told = f"rank correlation of the {counted} in both: {self._payload['agreement']:+.2f}"
            yield Text(f"    {told}", style="dim")
        special = [pair for pair in self._payload["pairs"] if pair["special"]]
        special = [pair for pair in special if pair["score_first"] or pair["score_second"]]
        if special:
            told = [f"{self._named(pair)} {self._numbers(pair)}" for pair in special]
            yield Text(f"    special tokens, outside the scale: {', '.join(told)}", style="dim")

    def _numbers(self, pair: Mapping[str, Any]) -> str:
        scores = [(side, pair[f"score_{side}"]) for side in _SIDES if pair[f"score_{side}"] is not None]
        return " and ".join(self._number(score, self._payload[side]["method"]["signed"]) for side, score in scores)

    def _asked(self) -> str:
        """The outputs that are compared, where they are not whole."""
        told: list[str] = []
        for place, side in enumerate(_SIDES):
            whole = len(set(self._payload["outputs"][place])) == len(self._payload[side]["outputs"])
            told.append("the output" if whole else repr(visible(self._payload["labels"][place]["output"].strip())))
        return told[0] if told[0] == told[1] else " and ".join(told)

    def _number(self, score: float, signed: bool = True) -> str:
        """Three decimals, or powers of ten where all scores are small."""
        digits = f"{score:+.3f}" if self._scale >= 0.1 else f"{score:+.2e}"
        return digits if signed else digits.removeprefix("+")


def _name(unit: Mapping[str, Any]) -> str:
    text: str = unit["text"]
    return visible(text.strip() or text)
