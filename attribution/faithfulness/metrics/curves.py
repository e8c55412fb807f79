"""Curves: the target as units are removed one after another, by their scores, and the areas of these curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from attribution.checks import check_count
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._options import By, check_choice
from attribution.faithfulness.metrics._orders import orders_of, without_first
from attribution.faithfulness.metrics._subject import Subject, subject_of
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.result import Attribution


class Curve(NamedTuple):
    """The target along a share of what can be removed, from 0 to 1; between its points it is straight."""

    shares: Float64[np.ndarray, " point"]
    values: Float64[np.ndarray, " point"]

    @property
    def area(self) -> float:
        """The area under it, which is its mean height."""
        return float(np.diff(self.shares) @ (self.values[1:] + self.values[:-1]) / 2)


def removal_curve(
    result: Attribution,
    problem: Problem,
    *,
    outputs: Outputs = None,
    first: Literal["most", "least"] = "most",
    by: By = "token",
    tie_orders: int = 10,
    seed: int = 0,
) -> Curve:
    """The target, in its unit, over the share of tokens that is removed, the most or the least relevant units first.

    The share is of the units that can be removed, counted in tokens, or `by="unit"`. Where scores are tied the curve is
    the mean over all orders of the tied units, or over `tie_orders` random ones where these are more than 120. It takes
    a mask for every unit and one more, and as many again for each further order. Empty where no unit can be removed.

    Raises `InputError` for other choices, and where result and problem do not belong together.
    """
    check_choice("first", first, "most", "least")
    check_choice("by", by, "token", "unit")
    subject = subject_of(result, problem, outputs)
    return curve_of(subject, subject.scores if first == "most" else -subject.scores, by, tie_orders, seed)


def insertion_curve(
    result: Attribution,
    problem: Problem,
    *,
    outputs: Outputs = None,
    by: By = "token",
    tie_orders: int = 10,
    seed: int = 0,
) -> Curve:
    """The target, in its unit, over the share of tokens that is there, the most relevant units first.

    It is `removal_curve` of the least relevant units, read from its end.
    """
    shares, values = removal_curve(
        result, problem, outputs=outputs, first="least", by=by, tie_orders=tie_orders, seed=seed
    )
    return Curve(1 - shares[::-1], values[::-1])


def curve_of(subject: Subject, strength: Float64[np.ndarray, " player"], by: By, tie_orders: int, seed: int) -> Curve:
    """The mean curve as players are removed from the strongest on."""
    n = subject.n_players
    if not n:
        return Curve(np.empty(0), np.empty(0))
    orders = orders_of(strength, check_count("tie_orders", tie_orders), seed)
    counts = np.broadcast_to(np.arange(n + 1), (len(orders), n + 1))
    values = subject.value(without_first(orders, counts).reshape(-1, n)).reshape(len(orders), n + 1)
    shares = np.concatenate([np.zeros((len(orders), 1)), subject.sizes(by)[orders].cumsum(1)], axis=1)
    shares = np.round(shares, 12)  # the same units make the same share, in whatever order they are added up
    grid = np.unique(shares)
    lines = [np.interp(grid, own, value) for own, value in zip(shares, values, strict=True)]
    return Curve(grid, np.mean(lines, axis=0))


@dataclass(frozen=True)
class _Area(Metric):
    """What is read of the curve of an order."""

    by: By = "token"
    tie_orders: int = 10

    def __post_init__(self) -> None:
        check_choice("by", self.by, "token", "unit")
        object.__setattr__(self, "tie_orders", check_count("tie_orders", self.tie_orders))

    def _curve(
        self, result: Attribution, problem: Problem, first: Literal["most", "least"], outputs: Outputs, seed: int
    ) -> Curve | None:
        """The curve as the most or the least relevant are removed first; None where no unit can be removed."""
        found = removal_curve(
            result, problem, outputs=outputs, first=first, by=self.by, tie_orders=self.tie_orders, seed=seed
        )
        return found if len(found.shares) else None


@dataclass(frozen=True)
class Morf(_Area):
    """Mean drop of the target while units are removed, the most relevant first (MoRF), in the target's unit.

    The mean of `full - value` over the share of tokens removed, from none to all: the area between the height of the
    whole prompt and `removal_curve`, by trapezoids. With `by="unit"` over the share of units. Large where what scores
    highest matters most; without limits. Constant scores give what a random order gives. Samek et al., "Evaluating the
    Visualization of What a Deep Neural Network Has Learned" (2017), call it the area over the perturbation curve, AOPC;
    theirs is the mean over the steps, the one with nothing removed included.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        return _drop(self._curve(result, problem, "most", outputs, seed))


@dataclass(frozen=True)
class Lerf(_Area):
    """Mean drop of the target while units are removed, the least relevant first (LeRF), in the target's unit.

    As `Morf`, in the opposite order. Small where what scores lowest does not matter; without limits. Samek et al.,
    "Evaluating the Visualization of What a Deep Neural Network Has Learned" (2017).
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        return _drop(self._curve(result, problem, "least", outputs, seed))


@dataclass(frozen=True)
class MorfLerfDifference(_Area):
    """Area between the curves with the least and with the most relevant units removed first, in the target's unit.

    `Morf` minus `Lerf`: how much sooner the target falls where the scores say so than where they say the opposite.
    Reversed scores give the opposite number, constant ones exactly 0; without limits. Also known as the symmetric
    relevance gain: Blücher, Vielhaben and Strodthoff, "Decoupling Pixel Flipping and Occlusion Strategy for Consistent
    XAI Benchmarks" (2024).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        most, least = (self._curve(result, problem, first, outputs, seed) for first in ("most", "least"))
        return _drop(most) - _drop(least)


@dataclass(frozen=True)
class Deletion(_Area):
    """Area under the target's curve while units are deleted, the most relevant first, in the target's unit.

    The mean of the target over the share of tokens removed, by trapezoids; small where what scores highest matters
    most. It is the whole prompt's target minus `Morf`; without limits. Petsiuk, Das and Saenko, "RISE: Randomized Input
    Sampling for Explanation of Black-box Models" (2018).
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        found = self._curve(result, problem, "most", outputs, seed)
        return math.nan if found is None else found.area


@dataclass(frozen=True)
class Insertion(_Area):
    """Area under the target's curve while units are put in, the most relevant first, in the target's unit.

    The mean of the target over the share of tokens that is there, from none to all, by trapezoids (`insertion_curve`);
    large where what scores highest suffices. It is the whole prompt's target minus `Lerf`; without limits. Petsiuk, Das
    and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        found = self._curve(result, problem, "least", outputs, seed)
        return math.nan if found is None else found.area


def _drop(curve: Curve | None) -> float:
    """The mean of how far the curve is below its beginning."""
    return math.nan if curve is None else float(curve.values[0]) - curve.area
