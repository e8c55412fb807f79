"""Two results in a terminal: both prompts shaded on one scale, both outputs, and where they differ most.

As in the view of one result, no text is parsed as markup, and nothing in it reaches the terminal but as a visible mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.text import Text

from attribution.views.scale import NEGLIGIBLE, Scale, fit
from attribution.views.terminal.console import Colours, colours_of, plain
from attribution.views.terminal.prose import prose
from attribution.views.terminal.result import LISTED, answer
from attribution.views.terminal.shading import clipped, ink, legend, shade
from attribution.views.words import cut, cut_names, kind, number, visible

_SIDES = ("first", "second")
_NUMBER = 10  # cells for a number and the heading above it
_BAR = 10  # cells for the longest bar
_PLACE = 5 + 3 * (_NUMBER + 2)  # cells before a bar
_LABEL = 40  # cells at most for a name within a sentence

_Names = dict[str, list[str]]
"""What the units of each side are called."""


class ComparisonView:
    """Two results for the terminal: `rich` prints them with colours, `str` gives plain text.

    `payload` is the dict of a comparison. Long prompts are folded around the largest differences, unless `full`.
    """

    def __init__(self, payload: Mapping[str, Any], full: bool = False) -> None:
        self._payload = payload
        self._full = full
        # What differences are measured by.
        self._strongest: float = payload["scale"]
        self._scale = _fit(payload)
        pairs = [pair for pair in payload["pairs"] if not pair["special"]]
        self._ranked = sorted(pairs, key=lambda pair: -abs(pair["difference"]))
        least = NEGLIGIBLE * self._strongest
        self._listed = [pair for pair in self._ranked if pair["difference"] and abs(pair["difference"]) >= least]
        self._listed = self._listed[:LISTED]

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        colours, width = colours_of(console), options.max_width
        for place in range(2):
            yield self._heading(place)
        yield Text()
        for place, side in enumerate(_SIDES):
            yield self._prompt(side, colours, width)
            outputs, chosen = self._payload[side]["outputs"], set(self._payload["outputs"][place])
            yield answer(outputs, chosen if len(chosen) < len(outputs) else set(), colours)
            yield Text()
        if self._strongest:
            yield self._legend(colours)
            yield Text()
        yield from self._differences(colours, width)
        yield from self._remarks()

    def _heading(self, place: int) -> Text:
        result = self._payload[_SIDES[place]]
        parts = [result["method"]["name"], result["model"]["name"], result["target"]]
        if result["ablation"]:
            parts.append(f"absent: {result['ablation']}")
        text = Text(f"{_SIDES[place]:6}  ", style="bold")
        return text.append(visible(" · ".join(parts)), Style(bold=False, dim=True))

    def _prompt(self, side: str, colours: Colours, width: int) -> Text:
        """The prompt in its own layout, what is seen of every unit shaded by its score."""
        result, limit = self._payload[side], 0.0 if self._scale.weak else self._scale.limit
        scores = {pair[side]: pair[f"score_{side}"] for pair in self._payload["pairs"] if pair[side] is not None}
        styles = [
            Style() if unit["special"] else shade(scores[index], limit, colours)
            for index, unit in enumerate(result["units"])
        ]
        hits = None if self._full else [pair[side] for pair in self._listed if pair[side] is not None]
        return prose(result["prompt"], result["units"], styles, result["granularity"], hits=hits, width=width)

    def _legend(self, colours: Colours) -> Text:
        """What the shades of both prompts mean."""
        beyond = len(list(clipped(_scores(self._payload), self._scale)))
        counted = f"{beyond} {kind(self._payload['first']['granularity'], beyond)}" if beyond else ""
        signed = any(self._payload[side]["method"]["signed"] for side in _SIDES)
        return legend(self._scale, self._payload["unit"], colours, signed=signed, clipped=counted)

    def _differences(self, colours: Colours, width: int) -> Iterator[Text]:
        """Both numbers of the pairs that are furthest apart."""
        one, unit_of_scores = kind(self._payload["first"]["granularity"], 1), visible(self._payload["unit"])
        asked = self._asked()
        if self._strongest == 0:
            yield Text(f"No {one} of either prompt matters for {asked}: every score is 0.")
            return
        if not self._listed:
            yield Text(f"No {one} differs for {asked} by more than {NEGLIGIBLE:.0%} of the strongest score.")
            return
        measured = "as" if self._payload["share"] else "in"
        yield Text(f"Largest differences for {asked}, {measured} {unit_of_scores}:")
        titles = "  ".join(f"{title:>{_NUMBER}}" for title in (*_SIDES, "difference"))
        yield Text(f"     {titles}", style="dim")
        # Beside a name there is a bar where there is room for both.
        bars = _BAR if width >= _PLACE + _BAR + 2 + _BAR else 0
        names = {side: self._names(side, width) for side in _SIDES}
        for place, pair in enumerate(self._listed, 1):
            yield self._row(place, pair, names, bars, width, colours)
        if len(self._ranked) > len(self._listed):
            yield Text(f"    and {len(self._ranked) - len(self._listed):,} smaller", style="dim")

    def _row(self, place: int, pair: Mapping[str, Any], names: _Names, bars: int, width: int, colours: Colours) -> Text:
        text, limit = Text(f"{place:3d}  "), 0.0 if self._scale.weak else self._scale.limit
        for side in _SIDES:
            score = pair[f"score_{side}"]
            told = "–" if score is None else self._number(score, self._payload[side]["method"]["signed"])
            text.append(" " * (_NUMBER - len(told)))
            text.append(told, shade(score or 0.0, limit, colours)).append("  ")
        difference, largest = pair["difference"], abs(self._listed[0]["difference"])
        text.append(f"{self._number(difference):>{_NUMBER}}  ")
        if bars:
            # Full blocks for more in the second, hatched ones for less.
            bar = ("█" if difference > 0 else "▒") * max(round(abs(difference) / largest * bars), 1)
            bar = "" if self._scale.weak else bar
            text.append(bar.ljust(bars), ink("supports" if difference > 0 else "opposes", colours)).append("  ")
        only = f"  {pair['kind']}" if pair["kind"].startswith("only") else ""
        room = max(width - text.cell_len - len(only), _BAR)
        return text.append(self._named(pair, names, room)).append(only, style="dim")

    def _names(self, side: str, cells: int) -> list[str]:
        return cut_names([_name(unit) for unit in self._payload[side]["units"]], cells)

    def _named(self, pair: Mapping[str, Any], names: _Names, room: int) -> str:
        """What the pair's units are called, in so many cells: "Sam (2 of 2)", or "apples → oranges"."""
        first, second = (None if pair[side] is None else names[side][pair[side]] for side in _SIDES)
        if first is None or second is None:
            return cut(first or second or "", room)
        if pair["kind"] != "changed" and first == second:
            return cut(first, room)
        # One text, but not as often in both prompts, has two names too.
        between = " → " if pair["kind"] == "changed" else " / "
        half = (room - len(between)) // 2
        first = cut(first, max(half, room - len(between) - cell_len(second)))
        return first + between + cut(second, room - len(between) - cell_len(first))

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
            end = self._number(self._scale.limit, signed=False)
            yield Text(f"    both on one scale, which ends at {end} {visible(measures[0])}", style="dim")
        if self._payload["agreement"] is not None:
            both = sum(pair["kind"] in ("same", "changed") for pair in self._ranked)
            counted = f"{both} {kind(first['granularity'], both)}"
            told = f"rank correlation of the {counted} in both: {self._payload['agreement']:+.2f}"
            yield Text(f"    {told}", style="dim")
        special = [pair for pair in self._payload["pairs"] if pair["special"]]
        special = [pair for pair in special if pair["score_first"] or pair["score_second"]]
        if special:
            names = {side: self._names(side, _LABEL) for side in _SIDES}
            told = [f"{self._named(pair, names, _LABEL)} {self._numbers(pair)}" for pair in special]
            yield Text(f"    special tokens, outside the scale: {', '.join(told)}", style="dim")

    def _numbers(self, pair: Mapping[str, Any]) -> str:
        scores = [(side, pair[f"score_{side}"]) for side in _SIDES if pair[f"score_{side}"] is not None]
        return " and ".join(self._number(score, self._payload[side]["method"]["signed"]) for side, score in scores)

    def _asked(self) -> str:
        """The outputs that are compared, where they are not whole."""
        told: list[str] = []
        for place, side in enumerate(_SIDES):
            whole = len(set(self._payload["outputs"][place])) == len(self._payload[side]["outputs"])
            told.append(
                "the output" if whole else repr(cut(visible(self._payload["labels"][place]["output"].strip()), _LABEL))
            )
        return told[0] if told[0] == told[1] else " and ".join(told)

    def _number(self, score: float, signed: bool = True) -> str:
        """Three decimals, or powers of ten where all scores are small."""
        return number(score, self._strongest, signed=signed)


def _scores(payload: Mapping[str, Any]) -> list[float]:
    """All that is shaded, of both sides."""
    pairs = [pair for pair in payload["pairs"] if not pair["special"]]
    scores = (pair[f"score_{side}"] for pair in pairs for side in _SIDES)
    return [score for score in scores if score is not None]


def _fit(payload: Mapping[str, Any]) -> Scale:
    """One scale for both sides; shares have no noise floor, since nobody can say what they are shares of."""
    return fit(_scores(payload), payload["unit"])


def _name(unit: Mapping[str, Any]) -> str:
    text: str = unit["text"]
    return visible(text.strip() or text)
