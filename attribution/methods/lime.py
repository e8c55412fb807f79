"""LIME: the linear model that fits best near the whole prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.errors import BudgetError
from attribution.method import Method
from attribution.methods._coalitions import random_coalitions
from attribution.methods._game import Game, count_distinct, count_known
from attribution.methods._options import real, whole
from attribution.methods._regression import fit
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class LIME(Method):
    """Coefficient of a unit in the linear model that fits best near the whole prompt, in the target's unit.

    The whole prompt and `samples - 1` random ablations of it are asked, each with 1 to all units removed, as many as
    any other number. An ablation weighs the less the farther it is from the prompt: sqrt(exp(-d² / width²)), where d is
    100 times the cosine distance of the masks and `width` is `kernel_width`. Ridge regression, with the penalty
    `alpha`. All as the authors' package has it for texts, for all units and any target. Errors are those of the sample;
    that a penalty draws coefficients towards 0 is not in them. Ribeiro, Singh and Guestrin, "Why Should I Trust You?"
    (2016).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset()
    extra: ClassVar[str | None] = "sklearn"

    samples: int = 512
    kernel_width: float = 25.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", whole("samples", self.samples, at_least=2))
        object.__setattr__(self, "kernel_width", real("kernel_width", self.kernel_width))
        object.__setattr__(self, "alpha", real("alpha", self.alpha))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=min(2**n_units, self.samples))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        n = game.n_players
        uniform = rng.random((self.samples - 1, n + 1))
        kept = n - 1 - (uniform[:, 0] * n).astype(int)
        keep = np.concatenate([np.ones((1, n), bool), random_coalitions(kept, uniform[:, 1:])])
        values = game.value(keep)
        known = count_known(values)
        if known < 2:
            raise BudgetError("The budget ended before the first ablation was asked. Allow more forwards.")
        keep, values = keep[:known], values[:known]
        problem.notes["evaluations"] = count_distinct(keep)
        distance = 100 * (1 - np.sqrt(keep.mean(1)))
        weights = np.sqrt(np.exp(-((distance / self.kernel_width) ** 2)))
        found = fit(keep.astype(float), values, weights, intercept=True, penalty=self.alpha)
        problem.errors = game.to_units(found.errors(np.eye(n)))
        return game.to_units(found.coefficients)
