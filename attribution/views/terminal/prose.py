"""A prompt as running text in its own layout, its units styled; long ones folded around what matters in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from attribution.views.words import kind, seen, visible

LINES = 40
"""How many lines a prompt may have before it is folded."""

_CONTEXT = 200  # characters shown before and after what matters
_CONTEXT_LINES = 3  # but not more lines than these
_SHORTEST_FOLD = 80  # characters: less is shown, since the sentence about it would be as long


def prose(
    prompt: str,
    units: Sequence[Mapping[str, Any]],
    styles: Sequence[Style],
    granularity: str,
    *,
    hits: Iterable[int] | None = None,
    width: int = 80,
) -> Text:
    """The prompt, what is seen of every unit in its style.

    Given `hits`, indices of units, a prompt of more than `LINES` lines of `width` cells shows the stretches around
    these only, and says between them how much is folded; without any hits its beginning and its end.
    """
    stretches = [(0, len(prompt))]
    if hits is not None and _lines(prompt, width) > LINES:
        stretches = _stretches(prompt, units, hits)
    text, reached = Text(), 0
    for start, end in [*stretches, (len(prompt), len(prompt))]:
        folded = _folded(units, reached, start, granularity)
        if folded:
            if text:
                text.append("\n")
            text.append(f"… {folded} folded …", "dim")
            if start < len(prompt):
                text.append("\n")
        stretch = _stretch(prompt, units, styles, start, end)
        # An empty line beside the fold would look like one of the prompt's, and a space like an indentation.
        space = " \n" if prompt[start - 1 : start] != "\n" else "\n"
        text.append_text(stretch[len(stretch) - len(stretch.plain.lstrip(space)) :] if folded else stretch)
        if end < len(prompt):
            text.rstrip()
        reached = end
    return text


def _lines(prompt: str, width: int) -> int:
    """About how many lines of a terminal it takes."""
    lines = visible(prompt, layout=True).split("\n")
    return sum(max(1, -(-cell_len(line) // max(width, 1))) for line in lines)


def _stretch(prompt: str, units: Sequence[Mapping[str, Any]], styles: Sequence[Style], first: int, last: int) -> Text:
    """What stands from one character to another."""
    text, reached = Text(), first
    for unit, style in zip(units, styles, strict=True):
        if unit["end"] <= first or unit["start"] >= last:
            continue
        start, end = (min(max(place, reached), last) for place in seen(prompt, unit["start"], unit["end"]))
        text.append(visible(prompt[reached:start], layout=True))
        text.append(visible(prompt[start:end], layout=True), style)
        reached = max(reached, end)
    return text.append(visible(prompt[reached:last], layout=True))


def _stretches(prompt: str, units: Sequence[Mapping[str, Any]], hits: Iterable[int]) -> list[tuple[int, int]]:
    """Which characters to show: those around the hits, of long units their beginnings and ends."""
    edges = sorted({edge for unit in units for edge in (unit["start"], unit["end"])})
    wanted: list[tuple[int, int]] = []
    places = [seen(prompt, units[hit]["start"], units[hit]["end"]) for hit in hits]
    for start, end in places:
        before, after = _before(prompt, start, edges), _after(prompt, end, edges)
        if end - start > 2 * _CONTEXT + _SHORTEST_FOLD:
            wanted += [(before, start + _CONTEXT), (end - _CONTEXT, after)]
        else:
            wanted.append((before, after))
    if not places:
        wanted = [(0, _after(prompt, 0, edges)), (_before(prompt, len(prompt), edges), len(prompt))]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(wanted):
        start, end = (
            (0 if start < _SHORTEST_FOLD else start),
            (len(prompt) if len(prompt) - end < _SHORTEST_FOLD else end),
        )
        if joined and start - joined[-1][1] < _SHORTEST_FOLD:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def _before(prompt: str, place: int, edges: Sequence[int]) -> int:
    """Where the stretch that leads to this place begins: at a line, at the edge of a unit, or within a long unit."""
    earliest = max(place - _CONTEXT, 0)
    begins = place
    for _ in range(_CONTEXT_LINES):
        begins = prompt.rfind("\n", earliest, begins)
        if begins < 0:
            at = bisect_left(edges, earliest)
            return edges[at] if at < len(edges) and edges[at] <= place else earliest
    return begins + 1


def _after(prompt: str, place: int, edges: Sequence[int]) -> int:
    """Where the stretch that follows this place ends."""
    latest = min(place + _CONTEXT, len(prompt))
    ends = place
    for _ in range(_CONTEXT_LINES):
        ends = prompt.find("\n", ends, latest) + 1
        if ends < 1:
            at = bisect_right(edges, latest) - 1
            return edges[at] if at >= 0 and edges[at] >= place else latest
    return ends


def _folded(units: Sequence[Mapping[str, Any]], start: int, end: int, granularity: str) -> str:
    """What lies between two characters, in words: "1,234 words"; "" for nothing."""
    if start >= end:
        return ""
    ordinary = special = characters = 0
    for unit in units:
        within = min(unit["end"], end) - max(unit["start"], start)
        if within <= 0:
            continue
        if within < unit["end"] - unit["start"]:
            characters += within
        elif unit["special"]:
            special += 1
        else:
            ordinary += 1
    told = [f"{ordinary:,} {kind(granularity, ordinary)}"] * bool(ordinary)
    told += [f"{special:,} outside the scale"] * bool(special)
    # Units that are cut, and what is in no unit.
    told += [f"{characters:,} character{'s' * (characters != 1)}"] * bool(characters)
    return " and ".join(told) or f"{end - start:,} character{'s' * (end - start != 1)}"
