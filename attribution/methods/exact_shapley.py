"""Exact Shapley values: what a unit adds, averaged over all orders in which units can come."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._coalitions import all_coalitions, mean_gains
from attribution.methods._game import Game
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class ExactShapley(Method):
    """What a unit adds to the target, averaged over all orders in which units can come, in the target's unit.

    Every one of the 2^n coalitions of n units is asked, so there is no error. The scores of a target add up to its
    value with all units minus that with none. Where a budget ends before, the largest and smallest coalitions are
    known, and a score is the mean over what a unit is known to add, with the exact weights divided by their sum;
    `notes["exact"]` is then False. Shapley, "A Value for n-Person Games" (1953).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy", "additive", "complete"})
    max_units: ClassVar[int | None] = 12

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=2**n_units)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        n = game.n_players
        keep = all_coalitions(n)
        sizes = keep.sum(1)
        # From both ends inwards, the larger first: there every budget reaches all units alike, and weights are large.
        order = np.lexsort([-sizes, np.minimum(sizes, n - sizes)])
        table = np.empty((len(keep), problem.n_targets))
        table[order] = game.value(keep[order])
        known = int((~np.isnan(table).any(1)).sum())
        problem.notes.update(evaluations=known, exact=known == len(keep))
        by_size = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])
        return game.to_units(mean_gains(table, by_size))
