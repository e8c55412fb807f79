"""Banzhaf values: what a unit adds where every other unit is there or not by the toss of a coin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._coalitions import coalitions_up_to, mean_gains
from attribution.methods._game import Game, count_distinct, count_known
from attribution.methods._options import check_samples, whole
from attribution.methods._regression import fit
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class Banzhaf(Method):
    """What a unit adds to the target on average over all sets of the other units, in the target's unit.

    Exact where all sets are no more than `samples`. Else the linear fit to as many random masks, each of which keeps
    every unit with probability a half: its coefficients are the Banzhaf values (Hammer and Holzman, "Approximations of
    Pseudo-Boolean Functions", 1992), every mask serves all units, and what the others do linearly adds no noise, as it
    would to the mean difference of masks with and without the unit (Wang and Jia, "Data Banzhaf", 2023). Takes more
    than as many samples as there are units. Noise in the values changes the order of the scores less than that of
    Shapley values, but in general they do not add up to anything.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"additive", "complete"})
    extra: ClassVar[str | None] = "sklearn"

    samples: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", whole("samples", self.samples))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=min(2**n_units, self.samples + 1))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        n = game.n_players
        check_samples(self.samples, n)
        keep = rng.random((self.samples, n)) < 0.5
        everyone = np.ones((1, n), bool)
        coalitions = coalitions_up_to(self.samples, n)
        # All are asked after the sample, which is what is left where a budget ends before.
        values = game.value(np.concatenate([everyone, keep, coalitions]))
        table = values[len(values) - len(coalitions) :]
        exact = len(coalitions) > 0 and not np.isnan(table).any()
        problem.notes["exact"] = exact
        if exact:
            problem.notes["evaluations"] = len(table)
            problem.errors = game.to_units(np.zeros((problem.n_targets, n)))
            return game.to_units(mean_gains(table, np.ones(n)))
        known = min(count_known(values[1:]), self.samples)
        problem.notes["evaluations"] = count_distinct(keep[:known])
        found = fit(keep[:known] - 0.5, values[1 : known + 1], np.ones(known), intercept=True)
        problem.errors = game.to_units(found.errors(np.eye(n)))
        return game.to_units(found.coefficients)
