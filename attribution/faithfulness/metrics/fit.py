"""Fit: whether the scores, added up, say what ablated prompts do that no method has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from attribution.checks import check_count
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._masks import held_out_masks
from attribution.faithfulness.metrics._subject import ROUNDING, subject_of
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.ranking import correlate, settled
from attribution.result import Attribution


@dataclass(frozen=True)
class LinearDatamodelingScore(Metric):
    """Rank correlation of what the scores predict for held-out ablated prompts and what the model does, -1 to 1.

    Spearman's correlation, over random masks, of the sum of the scores of the kept units with the target when only they
    are there. 1 where the scores order all ablated prompts as the model does; around 0 for scores by chance; NaN where
    either side is constant, as for scores of 0. `masks` are drawn and equal ones counted once; in them kept and removed
    units come in runs of neighbours, about three long. No method of ours draws so: those that fit to random masks draw
    them with all units alike, so that a fit is never tested on its own sample's distribution. `Infidelity` asks the
    same masks.

    Park et al., "TRAK: Attributing Model Behavior at Scale" (2023); for parts of a prompt, Cohen-Wang, Shah, Georgiev
    and Mądry, "ContextCite: Attributing Model Generation to Context" (2024).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"
    low: ClassVar[float | None] = -1.0
    high: ClassVar[float | None] = 1.0

    masks: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", check_count("masks", self.masks))

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        if not subject.n_players:
            return math.nan
        keep = np.unique(held_out_masks(subject.n_players, self.masks, seed), axis=0)
        predicted, true = keep @ subject.scores, subject.value(keep)
        return correlate(_settled(predicted), _settled(true))


@dataclass(frozen=True)
class Infidelity(Metric):
    """Share of what removing units does to the target that the scores, added up, do not tell; 0 to 1.

    Over random masks, the mean of `(factor * predicted - drop)²` divided by the mean of `drop²`, where `predicted` is
    the sum of the scores of the removed units and `drop` what the target falls by without them. `factor`, one for all
    masks, is the number from 0 on with which this is least, so that scores in another unit than the target's are not
    punished; one below 0 would excuse wrong signs. 0 where every drop is the sum of its units' scores, whatever they
    are multiplied by; 1 for scores of 0, and for the opposite of good ones; NaN where no mask changes the target.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (2019), with removed units as the perturbation and
    their optimal scaling; theirs is not divided, so that it cannot be compared between prompts. `masks` are drawn as
    for `LinearDatamodelingScore`, which asks the same ones.
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"
    low: ClassVar[float | None] = 0.0
    high: ClassVar[float | None] = 1.0

    masks: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", check_count("masks", self.masks))

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        keep = held_out_masks(subject.n_players, self.masks, seed)
        values = subject.value(np.concatenate([np.ones((1, subject.n_players), bool), keep]))
        drops, predicted = values[0] - values[1:], ~keep @ subject.scores
        if float(np.abs(drops).max()) <= ROUNDING * float(np.abs(values).max()):
            return math.nan
        told = float(predicted @ predicted)
        factor = max(0.0, float(predicted @ drops)) / told if told else 0.0
        return float(((factor * predicted - drops) ** 2).sum() / (drops**2).sum())


def _settled(values: Float64[np.ndarray, " mask"]) -> Float64[np.ndarray, " mask"]:
    """Sums that only rounding tells apart are the same."""
    return settled(values, ROUNDING * float(np.abs(values).max()))


@dataclass(frozen=True)
class CompletenessError(Metric):
    """How far the scores are from adding up to what the prompt as a whole does, as a share of that; from 0 on.

    `|sum of scores - (full - nothing)| / |full - nothing|`, over the units that can be removed; `nothing` is the target
    without all of them. 0 where the scores add up, 1 for scores of 0, 2 for the opposite of scores that add up; NaN
    where the whole prompt does nothing. It is about the problem's meaning of absent, so that a method that is complete
    for another one (a baseline in embedding space) has an error here. Sundararajan, Taly and Yan, "Axiomatic
    Attribution for Deep Networks" (2017), have the axiom. It takes two masks.
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"
    low: ClassVar[float | None] = 0.0

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        subject = subject_of(result, problem, outputs)
        full, nothing = subject.ends()
        if abs(full - nothing) <= ROUNDING * max(abs(full), abs(nothing)):
            return math.nan
        return abs(float(subject.scores.sum()) - (full - nothing)) / abs(full - nothing)
