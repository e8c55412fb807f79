"""KernelSHAP: Shapley values as the weighted least squares fit to coalitions."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._coalitions import coalitions_up_to, random_coalitions
from attribution.methods._game import Game, count_distinct, count_known
from attribution.methods._options import check_samples, whole
from attribution.methods._regression import fit
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class KernelSHAP(Method):
    """Shapley value of a unit, by the weighted linear fit to the values of coalitions, in the target's unit.

    Exact where all coalitions are no more than `samples`, besides the whole prompt and the empty one. Else so many
    random coalitions are asked, each with its complement; they are drawn with the fit's weights, so that those of the
    sample are equal. The scores of a target always add up to its value with all units minus that with none. Takes more
    than two samples for each unit, and is much better with several times that.

    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017); pairs, and errors with the pairs as
    clusters: Covert and Lee, "Improving KernelSHAP: Practical Shapley Value Estimation via Linear Regression" (2021).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"additive", "complete"})
    extra: ClassVar[str | None] = "sklearn"

    samples: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", whole("samples", self.samples, at_least=2))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=min(2**n_units, self.samples // 2 * 2 + 2))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        n = game.n_players
        check_samples(self.samples, n)
        everything, nothing = game.ends()
        if n < 2:
            problem.notes.update(evaluations=2**n, exact=True)
            problem.errors = game.to_units(np.zeros((problem.n_targets, n)))
            return game.to_units(np.repeat((everything - nothing)[:, None], n, axis=1))
        # How often a size is drawn: its number of coalitions times their weight 1 / (comb(n, size) size (n - size)).
        sizes = np.arange(1, n)
        by_size = 1 / (sizes * (n - sizes))
        uniform = rng.random((self.samples // 2, n + 1))
        drawn = 1 + np.searchsorted(by_size.cumsum()[:-1] / by_size.sum(), uniform[:, 0], side="right")
        keep = random_coalitions(drawn, uniform[:, 1:])
        keep = np.stack([keep, ~keep], axis=1).reshape(-1, n)
        coalitions = coalitions_up_to(self.samples + 2, n)[1:-1]
        # All are asked after the sample, which is what is left where a budget ends before.
        values = game.value(np.concatenate([keep, coalitions]))
        exact = len(coalitions) > 0 and not np.isnan(values).any()
        if exact:
            keep, values = coalitions, values[len(keep) :]
            weights = np.array([1 / (comb(n, size) * size * (n - size)) for size in coalitions.sum(1).tolist()])
        else:
            known = min(count_known(values), len(keep)) // 2 * 2
            keep, values, weights = keep[:known], values[:known], np.ones(known)
        problem.notes.update(evaluations=count_distinct(keep) + 2, exact=exact)
        # That scores add up makes the last unit's the rest, which leaves a fit without conditions for the others.
        rise, last = everything - nothing, keep[:, -1:].astype(float)
        found = fit(keep[:, :-1] - last, values - nothing - last * rise, weights, intercept=False)
        combine = np.concatenate([np.eye(n - 1), -np.ones((1, n - 1))])
        errors = np.zeros((problem.n_targets, n)) if exact else found.errors(combine, rows_together=2)
        problem.errors = game.to_units(errors)
        scores = found.coefficients @ combine.T
        scores[:, -1] += rise
        return game.to_units(scores)
