"""ContextCite: a sparse linear model of the output's log-odds under random ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from attribution.errors import BudgetError
from attribution.method import Method
from attribution.methods._game import Game, count_distinct, count_known
from attribution.methods._options import real, whole
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class ContextCite(Method):
    """Weight of a unit in a sparse linear model of the output's log-odds under random ablations, in log-odds.

    Each of `ablations` masks keeps every unit with probability a half. The log-odds are those of the mean probability
    of an output token, which is exp(m) where m is the mean of their log-probabilities; they are bounded where float32
    ends, at 87. LASSO with the penalty `alpha` on standardised masks makes most weights 0. Standard errors, and 95%
    percentile intervals in `notes["intervals"]`, are from `resamples` fits to ablations drawn anew from those asked.
    Rows of single output tokens have weights of their own, which do not add up; `per_output=False` is the paper's.

    Cohen-Wang, Shah, Georgiev and Mądry, "ContextCite: Attributing Model Generation to Context" (2024). Their package
    takes the log-odds of the output as a whole; for an output of one token that is the same.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset()
    extra: ClassVar[str | None] = "sklearn"
    unit: ClassVar[str] = "log-odds"
    targets: ClassVar[frozenset[str] | None] = frozenset({"logprob"})

    ablations: int = 64
    alpha: float = 0.01
    resamples: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "ablations", whole("ablations", self.ablations, at_least=2))
        object.__setattr__(self, "alpha", real("alpha", self.alpha))
        object.__setattr__(self, "resamples", whole("resamples", self.resamples, at_least=2))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=min(2**n_units, self.ablations + 1))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        keep = rng.random((self.ablations, game.n_players)) < 0.5
        values = game.value(np.concatenate([np.ones((1, game.n_players), bool), keep]))[1:]
        known = count_known(values)
        if known < 2:
            raise BudgetError("The budget ended before two ablations were asked. Allow more forwards.")
        keep, odds = keep[:known], log_odds(values[:known] / problem.n_outputs)
        again = rng.spawn(1)[0].integers(known, size=(self.resamples, known))
        fits = np.stack([self._weights(keep[rows], odds[rows]) for rows in again])
        low, high = np.quantile(fits, [0.025, 0.975], axis=0)
        intervals = {"low": game.to_units(low).tolist(), "high": game.to_units(high).tolist()}
        problem.notes.update(evaluations=count_distinct(keep), intervals={"confidence": 0.95, **intervals})
        problem.errors = game.to_units(fits.std(0, ddof=1))
        return game.to_units(self._weights(keep, odds))

    def _weights(
        self, keep: Bool[np.ndarray, "mask player"], odds: Float64[np.ndarray, "mask target"]
    ) -> Float64[np.ndarray, "target player"]:
        from sklearn.linear_model import Lasso

        scale = keep.std(0)
        scale[scale == 0] = 1  # always there or never: nothing is known of it, and its weight is 0
        lasso = Lasso(alpha=self.alpha, max_iter=100_000, random_state=0)  # 1,000 steps are too few for much noise
        return lasso.fit((keep - keep.mean(0)) / scale, odds).coef_.reshape(odds.shape[1], -1) / scale


def log_odds(logprob: Float64[np.ndarray, "mask target"]) -> Float64[np.ndarray, "mask target"]:
    """log(p / (1 - p)) of log(p), finite also where p rounds to 1."""
    below = np.minimum(logprob, -float(np.finfo(np.float32).tiny))
    return below - np.log(-np.expm1(below))
