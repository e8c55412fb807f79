"""Rank correlations of scores with what is known exactly: leave-one-out and Shapley values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import comb
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._options import check_choice
from attribution.faithfulness.metrics._subject import ROUNDING, Subject, subject_of
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.ranking import Correlation, correlate, settled
from attribution.result import Attribution

MOST = 12
"""Of more units Shapley values take too long: 4,096 masks for twelve."""


@dataclass(frozen=True)
class LeaveOneOutCorrelation(Metric):
    """Rank correlation of the scores with exact leave-one-out, from -1 to 1.

    Spearman's correlation, or `by="kendall"` Kendall's tau-b, of the scores with the drop of the target when each unit
    is removed alone, over the units that can be removed. 1 for the same ranking, -1 for the opposite, around 0 for one
    by chance; ties have average ranks; NaN where either side is constant. Units that stand in for one another have no
    drop, so that a better explanation than leave-one-out does not reach 1. After Jain and Wallace, "Attention is not
    Explanation" (2019). It takes a mask for each unit and one more.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"
    low: ClassVar[float | None] = -1.0
    high: ClassVar[float | None] = 1.0

    by: Correlation = "spearman"

    def __post_init__(self) -> None:
        check_choice("by", self.by, "spearman", "kendall")

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        n = subject.n_players
        values = subject.value(np.concatenate([np.ones((1, n), bool), ~np.eye(n, dtype=bool)]))
        drops = settled(values[0] - values[1:], ROUNDING * float(np.abs(values).max()))
        return correlate(subject.scores, drops, self.by) if n else math.nan


@dataclass(frozen=True)
class ShapleyCorrelation(Metric):
    """Rank correlation of the scores with exact Shapley values, from -1 to 1; NaN beyond 12 units.

    Spearman's correlation, or `by="kendall"` Kendall's tau-b, of the scores with what each unit adds to the target,
    averaged over all orders in which units can come (Shapley, "A Value for n-Person Games", 1953). Read as
    `LeaveOneOutCorrelation`. It takes all 2^n masks of the n units that can be removed, so that it is NaN, and asks
    none, beyond 12 of them.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"
    low: ClassVar[float | None] = -1.0
    high: ClassVar[float | None] = 1.0

    by: Correlation = "spearman"

    def __post_init__(self) -> None:
        check_choice("by", self.by, "spearman", "kendall")

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        if not 0 < subject.n_players <= MOST:
            return math.nan
        return correlate(subject.scores, shapley_values(subject), self.by)


def shapley_values(subject: Subject) -> Float64[np.ndarray, " player"]:
    """What each player adds, averaged over all orders; values that only rounding tells apart are the same."""
    n = subject.n_players
    keep = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    values, sizes = subject.value(keep), keep.sum(1)
    weights = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])
    found = np.empty(n)
    for player in range(n):
        without = np.flatnonzero(~keep[:, player])
        found[player] = weights[sizes[without]] @ (values[without + 2**player] - values[without])
    return settled(found, ROUNDING * float(np.abs(values).max()))
