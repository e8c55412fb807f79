"""Soft removal: elements of the embeddings are set to 0 by chance, the more of them the less a unit scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from attribution.checks import check_count
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._options import check_choice
from attribution.faithfulness.metrics._subject import ROUNDING, Subject, subject_of
from attribution.outputs import Outputs
from attribution.problem import Need, Place, Problem, here
from attribution.ranking import average_ranks
from attribution.result import Attribution

Mapping = Literal["range", "rank"]
"""How scores become probabilities. "range": (score - smallest) / (largest - smallest). "rank": how many units score
less, and half of how many others as much, of all others. A half for every unit where all scores are tied."""


def probabilities(scores: Float64[np.ndarray, " player"], mapping: Mapping) -> Float64[np.ndarray, " player"]:
    """The scores from 0 to 1 (see `Mapping`)."""
    found = average_ranks(scores) if mapping == "rank" else scores
    rise = np.ptp(found) if len(found) else 0.0
    return (found - found.min()) / rise if rise else np.full(len(scores), 0.5)


def thinned(keep: Float64[np.ndarray, " token"], seed: Sequence[int]) -> Place:
    """The text with elements of its embeddings set to 0, each of a token's with its probability kept.

    Tokens beyond those that have a probability stay. A place may be asked again, and is the same then.
    """

    def place(embeddings: Float[Tensor, "token embed"]) -> tuple[Tensor, Tensor]:
        chance = np.random.default_rng(seed).random(tuple(embeddings.shape), dtype=np.float32)
        share = np.ones(len(chance))
        share[: len(keep)] = keep[: len(chance)]
        kept = torch.from_numpy(chance < share[:, None]).to(embeddings.device)
        return torch.where(kept, embeddings, 0.0), embeddings.new_ones(())

    return place


@dataclass(frozen=True)
class _Soft(Metric):
    """What becomes of the target at embeddings thinned by the scores."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    perturbs: ClassVar[Literal["prompt", "embeddings", "weights"]] = "embeddings"

    draws: int = 16
    mapping: Mapping = "range"

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", check_count("draws", self.draws))
        check_choice("mapping", self.mapping, "range", "rank")

    def _lost(self, result: Attribution, problem: Problem, outputs: Outputs, seed: int, *, removes: bool) -> float:
        """What is lost at thinned embeddings, as a share of what is lost at empty ones; the mean over the draws.

        Each element is kept with its unit's probability or, where it `removes`, dropped with it.
        """
        subject = subject_of(result, problem, outputs)
        kept = probabilities(subject.scores, self.mapping)
        chances = _by_token(result, subject, 1 - kept if removes else kept)
        nothing = _by_token(result, subject, np.zeros_like(kept))
        places = [here, thinned(nothing, [seed]), *(thinned(chances, [seed, draw]) for draw in range(self.draws))]
        values = problem.value_at(places).double().numpy()[:, list(subject.rows)].sum(1)
        whole = values[0] - values[1]
        if whole <= ROUNDING * float(np.abs(values).max()):
            return math.nan
        return float(np.maximum(0.0, values[0] - values[2:]).mean() / whole)


def _by_token(
    result: Attribution, subject: Subject, probability: Float64[np.ndarray, " player"]
) -> Float64[np.ndarray, " token"]:
    """The probability of each player for all of its tokens; 1 for tokens of units that stay."""
    found = np.ones(max((unit.last_token for unit in result.units), default=0))
    for player, each in zip(subject.players.tolist(), probability.tolist(), strict=True):
        found[result.units[player].first_token : result.units[player].last_token] = each
    return found


@dataclass(frozen=True)
class SoftSufficiency(_Soft):
    """How much of the target stays where embeddings are kept in proportion to the scores (Soft-NS); at most 1.

    Every element of a token's embedding is kept with its unit's probability and otherwise set to 0; probabilities are
    the scores mapped to 0 to 1 by `mapping`. With `full` the target of the whole prompt, `zero` with all embeddings of
    removable units at 0, it is `1 - max(0, full - value) / (full - zero)`, the mean over `draws`: the sufficiency of
    the thinned prompt, normalised so that of `zero` is 0. 1 where nothing is lost, below 0 where more is lost than at
    `zero`; NaN where `full` is not above `zero`. Scores that are all tied keep half of everything. With
    `mapping="range"` scores of which many are high keep more than others; `"rank"` keeps half of the units for all.

    It takes `draws + 2` forward passes. Zhao and Aletras, "Incorporating Attribution Importance for Improving
    Faithfulness Metrics" (2023), for probabilities; here for any target.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"
    high: ClassVar[float | None] = 1.0

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        return 1 - self._lost(result, problem, outputs, seed, removes=False)


@dataclass(frozen=True)
class SoftComprehensiveness(_Soft):
    """How much of the target is lost where embeddings are dropped in proportion to the scores (Soft-NC); from 0 on.

    As `SoftSufficiency`, with every element dropped, not kept, with its unit's probability:
    `max(0, full - value) / (full - zero)`, the mean over `draws`. 0 where nothing is lost, 1 where as much as with all
    embeddings of removable units at 0; NaN where `full` is not above `zero`. It takes `draws + 2` forward passes. Zhao
    and Aletras, "Incorporating Attribution Importance for Improving Faithfulness Metrics" (2023).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"
    low: ClassVar[float | None] = 0.0

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        return self._lost(result, problem, outputs, seed, removes=True)
