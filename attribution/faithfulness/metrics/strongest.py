"""The strongest units: what becomes of the target without them, and with nothing but them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64, Int

from attribution.checks import check_count
from attribution.errors import InputError
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._options import By, check_choice, check_share
from attribution.faithfulness.metrics._orders import orders_of, without_first
from attribution.faithfulness.metrics._subject import Subject, subject_of
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.result import Attribution

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the tokens, over which an AOPC is the mean: ERASER's."""


def counts_within(
    sizes: Float64[np.ndarray, "order player"], shares: Sequence[float]
) -> Int[np.ndarray, "order share"]:
    """How many of the first of each order are at most so large together; at least one."""
    reached = sizes.cumsum(1)[:, None, :] <= np.array(shares)[None, :, None] + 1e-9
    return np.maximum(1, reached.sum(2))


def _fall(subject: Subject, shares: Sequence[float], by: By, tie_orders: int, seed: int, *, kept: bool) -> float:
    """How far the target falls without the strongest, or with them alone: the mean over shares and tied orders."""
    if not subject.n_players:
        return math.nan
    orders = orders_of(subject.scores, tie_orders, seed)
    left = without_first(orders, counts_within(subject.sizes(by)[orders], shares)).reshape(-1, subject.n_players)
    values = subject.value(np.concatenate([np.ones((1, subject.n_players), bool), ~left if kept else left]))
    return float(values[0] - values[1:].mean())


@dataclass(frozen=True)
class _AtShare(Metric):
    """What is read at one share of the tokens."""

    share: float = 0.2
    by: By = "token"
    tie_orders: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", check_share(self.share))
        check_choice("by", self.by, "token", "unit")
        object.__setattr__(self, "tie_orders", check_count("tie_orders", self.tie_orders))


@dataclass(frozen=True)
class _OverShares(Metric):
    """What is read at several shares of the tokens, and averaged."""

    shares: tuple[float, ...] = SHARES
    by: By = "token"
    tie_orders: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.shares, (tuple, list)) or not self.shares:
            raise InputError(f"Expected shares as a tuple of numbers above 0 and at most 1, got {self.shares!r}.")
        object.__setattr__(self, "shares", tuple(map(check_share, self.shares)))
        check_choice("by", self.by, "token", "unit")
        object.__setattr__(self, "tie_orders", check_count("tie_orders", self.tie_orders))


@dataclass(frozen=True)
class Comprehensiveness(_AtShare):
    """Drop of the target when the strongest units are removed, a fifth of the tokens, in the target's unit.

    The whole prompt's target minus that without the strongest units: of the order by score as many as have at most
    `share` of the tokens of all units that can be removed, at least one unit. With `by="unit"` the share is of the
    units. Large where what scores highest is needed; without limits. It takes two masks, and one more for each further
    order of tied units. DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models" (2020).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        return _fall(subject, [self.share], self.by, self.tie_orders, seed, kept=False)


@dataclass(frozen=True)
class Sufficiency(_AtShare):
    """Drop of the target when only the strongest units are there, a fifth of the tokens, in the target's unit.

    The whole prompt's target minus that with nothing but the strongest units, chosen as for `Comprehensiveness`. Small
    where what scores highest suffices; below 0 where it does better alone; without limits. DeYoung et al., "ERASER: A
    Benchmark to Evaluate Rationalized NLP Models" (2020).
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        return _fall(subject, [self.share], self.by, self.tie_orders, seed, kept=True)


@dataclass(frozen=True)
class AopcComprehensiveness(_OverShares):
    """Mean comprehensiveness over 1, 5, 10, 20 and 50% of the tokens (its AOPC), in the target's unit.

    The mean of `Comprehensiveness` over `shares`, at each of which at least one unit is removed. Large where what
    scores highest is needed; without limits. DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models"
    (2020), who call it the area over the perturbation curve.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        return _fall(subject, self.shares, self.by, self.tie_orders, seed, kept=False)


@dataclass(frozen=True)
class AopcSufficiency(_OverShares):
    """Mean sufficiency over 1, 5, 10, 20 and 50% of the tokens (its AOPC), in the target's unit.

    The mean of `Sufficiency` over `shares`, at each of which at least one unit is kept. Small where what scores highest
    suffices; without limits. DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models" (2020).
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        return _fall(subject, self.shares, self.by, self.tie_orders, seed, kept=True)


@dataclass(frozen=True)
class TopKDrop(Metric):
    """Drop of the target when the k strongest units are removed, in the target's unit (nats of a log-probability).

    The whole prompt's target minus that without the `k` units of the largest scores; all units, where there are fewer.
    Large where what scores highest is needed; without limits. Cohen-Wang, Shah, Georgiev and Mądry, "ContextCite:
    Attributing Model Generation to Context" (2024).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    k: int = 3
    tie_orders: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", check_count("k", self.k))
        object.__setattr__(self, "tie_orders", check_count("tie_orders", self.tie_orders))

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        share = min(1.0, self.k / max(1, subject.n_players))
        return _fall(subject, [share], "unit", self.tie_orders, seed, kept=False)
