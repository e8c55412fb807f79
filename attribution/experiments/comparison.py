"""compare: two results side by side, unit by unit, on one scale."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from attribution.errors import InputError
from attribution.frames import frame
from attribution.outputs import Outputs
from attribution.result import Attribution, Unit
from attribution.surfaces import Surfaces

if TYPE_CHECKING:
    from attribution.views.terminal.comparison import ComparisonView
    from attribution.views.web.html import HtmlView

SCHEMA = 1
"""Version of the layout of `Comparison.to_dict`."""

SHARE = "share of the strongest"
"""What scores are measured in where the two results measure differently, or different things."""

_MOST_COMPARED = 100_000
"""Pairs of units within one replaced stretch that are weighed against each other; beyond, they pair up in order."""

_MOST_STEPS = 10_000_000
"""Places of equal units that are looked at in search of what both prompts have in common, some seconds' worth. What was
not looked at when they are spent pairs up in order."""

Kind = Literal["same", "changed", "only first", "only second"]
Array = np.ndarray


@dataclass(frozen=True)
class Label:
    """What one side of a comparison is: the names of its method, model and target, and the output it explains.

    `quantity` is the kind of the target: "contrast" whatever the other texts are, "mean of prob" where there is one row
    of scores for the mean over the output.
    """

    method: str
    model: str
    target: str
    output: str
    quantity: str


@dataclass(frozen=True)
class Pair:
    """A unit of the first result and the one in its place in the second, each given by its index; None where missing.

    Scores are in the comparison's `unit`.
    """

    first: int | None
    second: int | None
    text_first: str | None
    text_second: str | None
    score_first: float | None
    score_second: float | None
    kind: Kind
    special: bool = False
    """Whether the tokenizer added it; such pairs stand outside the scale."""

    @property
    def difference(self) -> float:
        """Second minus first, where a missing unit has a score of 0."""
        return (self.score_second or 0.0) - (self.score_first or 0.0)


@dataclass(frozen=True)
class Comparison(Surfaces):
    """Two results on one scale: which units have each other's place, and how far apart their scores are.

    `pairs` go in the order of the prompts and hold every unit of both exactly once. Scores are in `unit`, summed over
    the outputs of each side; where `share`, the two results measure differently or explain different quantities, and
    the scores of each side were divided by its own strongest one, so that only their shares can be compared. `scale`
    is the strongest score of both sides, special units not counted.
    """

    first: Attribution
    second: Attribution
    labels: tuple[Label, Label]
    outputs: tuple[tuple[int, ...], tuple[int, ...]]
    """Indices of the output tokens of each side that the scores are summed over."""
    pairs: tuple[Pair, ...]
    scale: float
    unit: str
    share: bool

    @property
    def differences(self) -> tuple[Pair, ...]:
        """All pairs but those of special units, the one with the largest absolute difference first."""
        ordinary = [pair for pair in self.pairs if not pair.special]
        return tuple(sorted(ordinary, key=lambda pair: -abs(pair.difference)))

    @property
    def agreement(self) -> float | None:
        """Rank correlation (Spearman) of the units that both sides have, -1 to 1, special ones not counted.

        Sizes are ranked where one side has no signs. None where it is undefined: fewer than two pairs, or a side whose
        scores are all equal.
        """
        both = [
            (pair.score_first, pair.score_second)
            for pair in self.pairs
            if not pair.special and pair.score_first is not None and pair.score_second is not None
        ]
        scores = np.array(both, np.float64).reshape(-1, 2)
        if self.first.method["signed"] != self.second.method["signed"]:
            scores = np.abs(scores)
        return _rank_correlation(scores[:, 0], scores[:, 1])

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON; both results whole."""
        return {
            "schema": SCHEMA,
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "labels": [asdict(label) for label in self.labels],
            "outputs": [list(outputs) for outputs in self.outputs],
            "pairs": [asdict(pair) | {"difference": pair.difference} for pair in self.pairs],
            "scale": self.scale,
            "unit": self.unit,
            "share": self.share,
            "agreement": self.agreement,
        }

    def to_frame(self) -> Any:
        """A table with one row per pair, in the order of the prompts.

        It is of pandas where that is installed, else of polars.

        Raises `MissingExtraError` where neither is.
        """
        names = (
            *("first", "second", "text_first", "text_second"),
            *("score_first", "score_second", "difference", "kind", "special"),
        )
        columns = {name: [getattr(pair, name) for pair in self.pairs] for name in names}
        return frame(columns)

    def text_view(self) -> ComparisonView:
        """What a terminal shows. `rich` prints it, `str` makes plain text of it."""
        from attribution.views.terminal.comparison import ComparisonView

        return ComparisonView(self.to_dict())

    def html_view(self) -> HtmlView:
        """What a browser shows: `page()` is a whole page, `notebook()` what fits into a notebook."""
        from attribution.views.web.html import HtmlView
        from attribution.views.web.payload import comparison_payload

        return HtmlView(comparison_payload(self.to_dict()), str(self))


def compare(
    a: Attribution,
    b: Attribution,
    *,
    outputs_a: Outputs = None,
    outputs_b: Outputs = None,
) -> Comparison:
    """Two results unit by unit on one scale: of two prompts, or of one prompt by two methods or models.

    Made for the same question about apples and about oranges: units that both prompts have pair up, and so do those
    that stand in each other's place. Scores are summed over the given outputs of each side, all of them by default (as
    `Attribution.total` takes them). They stay as they are where both results explain the same quantity in the same
    unit, both with signs or both without (contrasts with different texts are the same quantity); else those of each
    side are divided by its own strongest one.

        first = at.explain("demo", "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?")
        second = at.explain("demo", "Sam has 3 apples and Tom has 5 oranges. How many oranges does Tom have?")
        print(at.compare(first, second, outputs_a="3", outputs_b="5"))

    Raises `InputError` for anything but results, for results over different kinds of units, for prompts that have
    nothing in common, and for outputs that a result does not have.
    """
    for place, given in (("first", a), ("second", b)):
        if not isinstance(given, Attribution):
            raise InputError(
                f"Expected two results, got {type(given).__name__} as the {place}. Type compare(explain(...), "
                "explain(...)), or read a saved one with Attribution.load."
            )
    if a.granularity != b.granularity:
        raise InputError(
            f"Expected two results over the same kind of units, got {a.granularity!r} and {b.granularity!r}. Type "
            "explain(..., units=...) with the same units for both."
        )
    scores = [a.total(outputs_a).astype(np.float64), b.total(outputs_b).astype(np.float64)]
    strongest = [_strongest(one, result.units) for one, result in zip(scores, (a, b), strict=True)]
    share = _measure(a) != _measure(b)
    if share:
        scores = [one / most if most > 0 else one for one, most in zip(scores, strongest, strict=True)]
        strongest = [float(most > 0) for most in strongest]
    pairs = tuple(
        _pair(a.units, b.units, i, j, *scores)
        for i, j in _aligned([_key(u) for u in a.units], [_key(u) for u in b.units])
    )
    if not any(_in_common(pair) for pair in pairs):
        raise InputError(
            f"Expected two prompts with something in common, got {_short(a.prompt)} and {_short(b.prompt)}. Compare "
            "prompts of which parts are the same, or print both results."
        )
    outputs = tuple(a.output_indices(outputs_a)), tuple(b.output_indices(outputs_b))
    return Comparison(
        first=a,
        second=b,
        labels=(_label(a, outputs[0]), _label(b, outputs[1])),
        outputs=outputs,
        pairs=pairs,
        scale=max(strongest),
        unit=SHARE if share else str(a.method["unit"]),
        share=share,
    )


def _strongest(scores: Float64[Array, " unit"], units: Sequence[Unit]) -> float:
    """The largest absolute score, special units not counted."""
    return max((abs(float(s)) for s, unit in zip(scores, units, strict=True) if not unit.special), default=0.0)


class _Measure(NamedTuple):
    """What a number of a result is of: numbers of one measure can stand side by side."""

    unit: str
    signed: bool
    quantity: str


def _measure(result: Attribution) -> _Measure:
    reduction = "sum" if result.per_output else str(result.question.get("over_outputs", "sum"))
    kind = result.target if reduction == "sum" else result.target.removeprefix(f"{reduction} of ")
    kind = "contrast" if kind.startswith("logprob - ") else kind  # whatever the other texts are
    quantity = kind if reduction == "sum" else f"{reduction} of {kind}"
    return _Measure(str(result.method["unit"]), bool(result.method["signed"]), quantity)


def _label(result: Attribution, outputs: Sequence[int]) -> Label:
    explained = "".join(result.outputs[index].text for index in outputs)
    return Label(
        str(result.method["name"]), str(result.model["name"]), result.target, explained, _measure(result).quantity
    )


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:59]}…")


# Which units have each other's place

Key = tuple[bool, str]
"""Whether a unit is special, and its text without the space around it: what makes two units the same."""


def _key(unit: Unit) -> Key:
    return unit.special, unit.text.strip() or unit.text


def _aligned(first: Sequence[Key], second: Sequence[Key]) -> list[tuple[int | None, int | None]]:
    """Pairs of indices in order, each index once; what has no counterpart is paired with None."""
    found: list[tuple[int | None, int | None]] = []
    i = j = 0
    for a0, b0, size in (*_same(first, second), (len(first), len(second), 0)):
        for one, other in _replaced(first[i:a0], second[j:b0]):
            found.append((None if one is None else i + one, None if other is None else j + other))
        i, j = a0 + size, b0 + size
        found += zip(range(a0, i), range(b0, j), strict=True)
    return found


def _same(first: Sequence[Key], second: Sequence[Key]) -> list[tuple[int, int, int]]:
    """Stretches that both have, in order: where they begin in the first and in the second, and how long they are.

    What both begin and end with, and of the rest the longest stretch that both have, then the longest on either side of
    that, and so on: Ratcliff and Metzener, "Pattern Matching: The Gestalt Approach" (1988). Texts that repeat
    themselves make that cubic, so that it ends after `_MOST_STEPS`.
    """
    shorter = min(len(first), len(second))
    head = _alike(zip(first, second, strict=False))
    tail = min(_alike(zip(reversed(first), reversed(second), strict=False)), shorter - head)
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    often = Counter(second)
    steps = [0, *accumulate(1 + often[key] for key in first)]
    left = _MOST_STEPS
    found = [(0, 0, head), (len(first) - tail, len(second) - tail, tail)]
    waiting = deque([(head, len(first) - tail, head, len(second) - tail)])
    while waiting:
        a0, a1, b0, b1 = waiting.popleft()
        cost = steps[a1] - steps[a0]
        if a0 == a1 or b0 == b1 or cost > left:
            continue
        left -= cost
        i, j, size = matcher.find_longest_match(a0, a1, b0, b1)
        if size:
            found.append((i, j, size))
            waiting += [(a0, i, b0, j), (i + size, a1, j + size, b1)]
    return sorted(found)


def _alike(pairs: Iterable[tuple[Key, Key]]) -> int:
    """How many pairs there are before the first two that differ."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _replaced(first: Sequence[Key], second: Sequence[Key]) -> list[tuple[int | None, int | None]]:
    """The same within a stretch without such: as many pairs as there can be, then as similar ones."""
    if [special for special, _ in first] == [special for special, _ in second]:
        return [(i, i) for i in range(len(first))]
    worth = _worth(first, second)
    best = np.zeros((0, 0) if worth is None else (len(first) + 1, len(second) + 1))
    if worth is not None:
        for i in reversed(range(len(first))):
            for j in reversed(range(len(second))):
                best[i, j] = max(worth[i, j] + best[i + 1, j + 1], best[i + 1, j], best[i, j + 1])
    found: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < len(first) and j < len(second):
        alike = first[i][0] == second[j][0]
        if alike and (worth is None or best[i, j] == worth[i, j] + best[i + 1, j + 1]):
            found.append((i, j))
            i, j = i + 1, j + 1
        elif first[i][0] if worth is None else best[i, j] == best[i + 1, j]:
            found.append((i, None))
            i += 1
        else:
            found.append((None, j))
            j += 1
    return [*found, *((k, None) for k in range(i, len(first))), *((None, k) for k in range(j, len(second)))]


def _worth(first: Sequence[Key], second: Sequence[Key]) -> Float64[Array, "first second"] | None:
    """What each pair is worth: 1, and a little for what both texts share; never a special unit with an ordinary one.

    All similarities together stay below one more pair. None where there are too many pairs to weigh.
    """
    if len(first) * len(second) > _MOST_COMPARED:
        return None
    # Longer units share words, single words share letters.
    by_words = any(len(text.split()) > 1 for _, text in (*first, *second))
    parts = [[Counter(text.split() if by_words else text) for _, text in keys] for keys in (first, second)]
    most = min(len(first), len(second)) + 1
    worth = np.full((len(first), len(second)), -np.inf)
    for i, one in enumerate(parts[0]):
        for j, other in enumerate(parts[1]):
            if first[i][0] == second[j][0]:
                # Dice (1945): what is shared, of what there is.
                shared = 2 * (one & other).total() / max(one.total() + other.total(), 1)
                worth[i, j] = 1 + shared / most
    return worth


def _pair(
    first: Sequence[Unit],
    second: Sequence[Unit],
    i: int | None,
    j: int | None,
    scores_first: Float64[Array, " first"],
    scores_second: Float64[Array, " second"],
) -> Pair:
    one, other = None if i is None else first[i], None if j is None else second[j]
    kind: Kind
    if one is not None and other is not None:
        kind = "same" if _key(one) == _key(other) else "changed"
    else:
        kind = "only second" if one is None else "only first"
    return Pair(
        first=i,
        second=j,
        text_first=one and one.text,
        text_second=other and other.text,
        score_first=None if i is None else float(scores_first[i]),
        score_second=None if j is None else float(scores_second[j]),
        kind=kind,
        special=any(unit is not None and unit.special for unit in (one, other)),
    )


def _in_common(pair: Pair) -> bool:
    """Whether it shows that the prompts are akin: the same unit, or two that share a word."""
    if pair.special or pair.text_first is None or pair.text_second is None:
        return False
    words = [set(text.casefold().split()) for text in (pair.text_first, pair.text_second)]
    return pair.kind == "same" or bool(words[0] & words[1])


# How far two rankings agree


def _rank_correlation(first: Float64[Array, " pair"], second: Float64[Array, " pair"]) -> float | None:
    """Spearman's (1904): the correlation of ranks; equal numbers share the mean of their ranks."""
    if len(first) < 2:
        return None
    one, other = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    spread = float(np.sqrt((one @ one) * (other @ other)))
    return float(np.clip((one @ other) / spread, -1.0, 1.0)) if spread > 0 else None


def _ranks(values: Float64[Array, " pair"]) -> Float64[Array, " pair"]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
