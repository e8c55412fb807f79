"""What a terminal shows: the prompt as running text shaded by score, the output, and the strongest units.

Prompts and outputs are untrusted: whatever could move a cursor, change a colour or turn the writing direction is shown
as a visible mark, and no text is ever parsed as markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.text import Text

from attribution.views.remarks import remarks
from attribution.views.scale import NEGLIGIBLE, fit
from attribution.views.terminal.console import Colours, colours_of, plain
from attribution.views.terminal.prose import prose
from attribution.views.terminal.shading import bar, clipped, ink, legend, shade
from attribution.views.words import cut, cut_names, kind, number, visible

LISTED = 10
"""How many units the ranked list names at most."""

_PASSES = ("forwards", "backwards")
_BAR = 20
"""Width of the longest bar, in cells."""

_NAME = 12  # cells that a name has before the bar gives way
_LABEL = 40  # cells at most for a name within a sentence
_PLACE = 17  # cells before a bar: the place in the list and the score
_INSTEAD = 3  # alternatives to an output token that are told at most


class TextView:
    """A result for the terminal: `rich` prints it with colours, `str` gives plain text.

    `payload` is the dict of a result, `outputs` are the indices of the output tokens whose scores are summed; a result
    with scores for the output as a whole shows these. A long prompt is folded around what matters, unless `full`.
    """

    def __init__(self, payload: Mapping[str, Any], outputs: Sequence[int], full: bool = False) -> None:
        self._payload = payload
        self._outputs = outputs
        self._full = full
        units = payload["units"]
        rows = outputs if payload["per_output"] else [0]
        self._signed: bool = payload["method"]["signed"]
        self._scores = [sum((payload["scores"][row][u] for row in rows), 0.0) for u in range(len(units))]
        # Errors of a sum are at most the sum of errors.
        errors = payload["errors"]
        self._errors = errors and [sum((errors[row][u] for row in rows), 0.0) for u in range(len(units))]
        self._ordinary = [u for u, unit in enumerate(units) if not unit["special"]]
        self._scale = fit(
            [self._scores[u] for u in self._ordinary],
            payload["method"]["unit"],
            anywhere=max((abs(row[u]) for row in payload["scores"] for u in self._ordinary), default=0.0),
            errors=self._errors and [self._errors[u] for u in self._ordinary],
        )
        self._strongest = self._scale.strongest

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        colours, width = colours_of(console), options.max_width
        yield self._heading()
        yield Text()
        yield self._prompt(colours, width)
        yield Text()
        yield self._output(colours)
        yield from self._instead()
        yield Text()
        yield from self._ranking(colours, width)
        yield from self._outside()
        yield from self._pairs(width)
        for sentence, warning in remarks(self._payload, self._outputs):
            yield Text(f"    {sentence}", "bold" if warning else "dim")

    @cached_property
    def _listed(self) -> list[int]:
        """The strongest units, that are named."""
        ranked = sorted(self._ordinary, key=lambda u: -abs(self._scores[u]))
        return [u for u in ranked if self._scores[u] and abs(self._scores[u]) >= NEGLIGIBLE * self._strongest][:LISTED]

    def _heading(self) -> Text:
        payload = self._payload
        parts = [payload["method"]["name"], payload["model"]["name"], payload["target"]]
        if payload["ablation"]:
            parts.append(f"absent: {payload['ablation']}")
        cost = payload["cost"]
        passes = [f"{cost[each]} {each.removesuffix('s' * (cost[each] == 1))}" for each in _PASSES if cost[each]]
        return Text(visible(" · ".join([*parts, " + ".join(passes)])), style="dim")

    def _prompt(self, colours: Colours, width: int) -> Text:
        """The prompt in its own layout, every unit shaded by its score."""
        payload, limit = self._payload, 0.0 if self._scale.weak else self._scale.limit
        styles = [
            Style(dim=unit["role"] == "template") if unit["special"] else shade(score, limit, colours)
            for unit, score in zip(payload["units"], self._scores, strict=True)
        ]
        hits = None if self._full else self._listed
        return prose(payload["prompt"], payload["units"], styles, payload["granularity"], hits=hits, width=width)

    def _output(self, colours: Colours) -> Text:
        """The output after an arrow, the explained tokens in bold where they are not all of it."""
        outputs = self._payload["outputs"]
        chosen = set(self._outputs)
        return answer(outputs, chosen if len(chosen) < len(outputs) else set(), colours)

    def _instead(self) -> Iterator[Text]:
        """Of a single token, how probable it was, and what the model might have written instead."""
        if len(set(self._outputs)) != 1:
            return
        output = self._payload["outputs"][self._outputs[0]]
        others: list[tuple[str, float]] = [(text, logprob) for text, logprob in output.get("alternatives", ())]
        if not others or output["logprob"] is None:
            return
        own = [each for each in others if each[0] == output["text"]]
        if own:
            # Several tokens may read the same: this one is the one that is as probable.
            others.remove(min(own, key=lambda each: abs(each[1] - output["logprob"])))
        told = [
            f"{cut(visible(text).strip() or '␣', _LABEL)} ({_probability(logprob)})"
            for text, logprob in others[:_INSTEAD]
        ]
        instead = f"; instead: {', '.join(told)}" if told else ""
        yield Text(f"  p = {_probability(output['logprob'])}{instead}", style="dim")

    def _asked(self) -> str:
        """What is explained, as the list's heading calls it."""
        outputs = self._payload["outputs"]
        if len(set(self._outputs)) == len(outputs):
            return "the output"
        return repr(cut(visible("".join(outputs[o]["text"] for o in self._outputs)).strip(), _LABEL))

    def _ranking(self, colours: Colours, width: int) -> Iterator[Text]:
        """The legend, and below it the strongest units."""
        units, granularity = self._payload["units"], self._payload["granularity"]
        unit_of_scores = self._payload["method"]["unit"]
        if self._strongest == 0:
            yield Text(f"No {kind(granularity, 1)} of the prompt matters for {self._asked()}: every score is 0.")
            return
        beyond = len(list(clipped([self._scores[u] for u in self._ordinary], self._scale)))
        counted = f"{beyond} {kind(granularity, beyond)}" if beyond else ""
        yield legend(self._scale, unit_of_scores, colours, signed=self._signed, clipped=counted)
        yield Text()
        several = self._payload["per_output"] and len(self._outputs) > 1
        sampled = "" if self._errors is None else ", ± standard error" + ", at most" * several
        yield Text(f"Strongest {kind(granularity, 2)} for {self._asked()}, in {visible(unit_of_scores)}{sampled}:")
        roles = len({units[u]["role"] for u in self._ordinary}) > 1
        tails = {u: self._tail(u, roles) for u in self._listed}
        # The bars are as long as names, roles and errors leave room for them, and begin and end in one column.
        room = width - _PLACE - max((cell_len(tail.plain) for tail in tails.values()), default=0)
        bars = 0 if self._scale.weak else min(_BAR, room - 2 - _NAME)
        bars = bars if bars >= 4 else 0
        names = self._names(room - (bars + 2) * bool(bars))
        for place, u in enumerate(self._listed, 1):
            text = Text(f"{place:3d}  {self._number(self._scores[u]):>10}  ")
            if bars:
                text.append_text(bar(self._scores[u], self._scale, bars, colours)).append("  ")
            yield text.append(names[u]).append_text(tails[u])
        if len(self._ordinary) > len(self._listed):
            yield Text(f"    and {len(self._ordinary) - len(self._listed):,} weaker", style="dim")

    def _tail(self, unit: int, role: bool) -> Text:
        """What stands after a unit's name."""
        text = Text(style="dim")
        if role:
            text.append(f"  {cut(visible(self._payload['units'][unit]['role']), _NAME)}")
        if self._errors is not None:
            text.append(f"  ± {self._number(self._errors[unit]).removeprefix('+')}")
        return text

    def _outside(self) -> Iterator[Text]:
        """What the special units have, which are on no scale."""
        outside: dict[str, float] = {}
        for name, unit, score in zip(self._names(_LABEL), self._payload["units"], self._scores, strict=True):
            if unit["special"]:
                called = name if unit["role"] == "special" else visible(unit["role"])
                outside[called] = outside.get(called, 0.0) + score
        if any(outside.values()):
            shown = ", ".join(f"{name} {self._number(score)}" for name, score in outside.items())
            yield Text(f"    outside the scale: {shown}", style="dim")

    def _pairs(self, width: int) -> Iterator[Text]:
        """The pairs of units that stand out."""
        if not self._payload["interactions"]:
            return
        yield Text("Pairs that only work together (+) or replace one another (-):")
        rows = self._outputs if self._payload["per_output"] else [0]
        pairs = [(sum(pair["values"][row] for row in rows), pair) for pair in self._payload["interactions"]]
        pairs = [(value, pair) for value, pair in pairs if abs(value) >= NEGLIGIBLE * self._strongest]
        names = self._names((width - _PLACE - len(" and ")) // 2)
        for place, (value, pair) in enumerate(sorted(pairs, key=lambda each: -abs(each[0]))[:LISTED], 1):
            yield Text(f"{place:3d}  {self._number(value):>10}  {names[pair['first']]} and {names[pair['second']]}")
        if len(pairs) > LISTED:
            yield Text(f"    and {len(pairs) - LISTED:,} weaker", style="dim")

    def _names(self, cells: int) -> list[str]:
        """What every unit is called, in so many cells."""
        return cut_names([visible(unit["name"] or unit["text"]) for unit in self._payload["units"]], cells)

    def _number(self, score: float) -> str:
        return number(score, self._strongest, signed=self._signed)


def answer(outputs: Sequence[Mapping[str, Any]], chosen: set[int], colours: Colours) -> Text:
    """An output after an arrow, the chosen tokens reversed."""
    text, begun, told = Text("→ ", style="bold"), False, ink("answer", colours)
    for index, output in enumerate(outputs):
        # Newlines before the first word would only push it away from the arrow.
        shown = visible(output["text"], layout=begun)
        begun = begun or not output["text"].isspace()
        text.append(shown, told + Style(bold=index in chosen, reverse=index in chosen))
    return text


def _probability(logprob: float) -> str:
    value = math.exp(min(logprob, 0.0))
    return f"{value:.2f}" if value >= 0.01 else "<0.01"
