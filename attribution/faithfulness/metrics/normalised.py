"""Normalised AOPC: an area between the smallest and the largest that any order of these units has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from attribution.checks import check_count
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._options import By, check_choice
from attribution.faithfulness.metrics._subject import ROUNDING, Subject, subject_of
from attribution.faithfulness.metrics.curves import curve_of
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.result import Attribution


@dataclass(frozen=True)
class NormalisedAopc(Metric):
    """Mean drop of the target while units are removed, the most relevant first, between the bounds of any order.

    `(Morf - lower) / (upper - lower)`, where the bounds are the smallest and the largest that `Morf` can be for this
    prompt, whatever the scores. They are looked for by beam search over orders: of the sets that come of removing one
    more unit the `beam` best are followed, by their area if the target stayed as it then is. So it is from 0, the worst
    order, to 1, the best, and can be compared between prompts and models; where the search misses a bound it can be a
    little beyond. With a beam as wide as there are sets of one size (70 for 8 units) no bound is missed. NaN where all
    orders are alike.

    It takes up to `beam * n_units²` masks: 2,000 for 20 units. Edin et al., "Normalized AOPC: Fixing Misleading
    Faithfulness Metrics for Feature Attribution Explainability" (2024).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    beam: int = 5
    by: By = "token"
    tie_orders: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "beam", check_count("beam", self.beam))
        check_choice("by", self.by, "token", "unit")
        object.__setattr__(self, "tie_orders", check_count("tie_orders", self.tie_orders))

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        if not subject.n_players:
            return math.nan
        lower, upper = (area_bound(subject, self.by, self.beam, largest=largest) for largest in (False, True))
        curve = curve_of(subject, subject.scores, self.by, self.tie_orders, seed)
        own = float(curve.values[0]) - curve.area
        if upper - lower <= ROUNDING * float(np.abs(curve.values).max()):
            return math.nan
        return (own - lower) / (upper - lower)


def area_bound(subject: Subject, by: By, beam: int, *, largest: bool) -> float:
    """The largest or the smallest mean drop over all orders in which players are removed, as a beam search finds it."""
    n, sizes, sign = subject.n_players, subject.sizes(by), 1.0 if largest else -1.0
    full = float(subject.value(np.ones((1, n), bool))[0])
    keep, areas, drops = np.ones((1, n), bool), np.zeros(1), np.zeros(1)
    for _ in range(n):
        parents, removed = np.nonzero(keep)
        left = keep[parents]
        left[np.arange(len(left)), removed] = False
        sets, own = np.unique(left, axis=0, return_inverse=True)
        own = own.ravel()
        found = full - subject.value(sets)
        area = areas[parents] + sizes[removed] * (drops[parents] + found[own]) / 2
        # Whatever comes after a set depends on it alone: of the orders that lead to it only the best can win.
        best = np.full(len(sets), -np.inf)
        np.maximum.at(best, own, sign * area)
        promise = best + sign * (sets @ sizes) * found
        chosen = np.argsort(-promise, kind="stable")[:beam]
        keep, areas, drops = sets[chosen], sign * best[chosen], found[chosen]
    return float(areas[0])
