"""Shapley sampling: what units add one after another, in random orders."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.errors import BudgetError, InputError
from attribution.method import Method
from attribution.methods._game import Game, count_distinct
from attribution.methods._options import real, whole
from attribution.methods._orders import chains, gains
from attribution.problem import Cost, Need, Problem

FIRST_ROUND = 16  # permutations: from fewer, an error is hardly known


@dataclass(frozen=True)
class ShapleySampling(Method):
    """Shapley value of a unit, as the mean of what it adds in random orders of the units, in the target's unit.

    Every order comes with its reverse, whose luck is the opposite; standard errors are those of the mean over such
    pairs. At most `permutations` orders are asked, each of one forward less than there are units. With `error`, the
    largest standard error asked for, it takes rounds, and stops as soon as no score has a larger one;
    `notes["error_reached"]` says whether it came to that. The scores of a target add up to its value with all units
    minus that with none.

    Castro, Gómez and Tejada, "Polynomial calculation of the Shapley value based on sampling" (2009); pairs as in
    Mitchell, Cooper, Frank and Holmes, "Sampling Permutations for Shapley Value Estimation" (2022).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"dummy", "additive", "complete"})

    permutations: int = 32
    error: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "permutations", whole("permutations", self.permutations, at_least=2))
        if self.permutations % 2:
            raise InputError(f"Expected an even number of permutations, since they come in pairs: {self.permutations}.")
        if self.error is not None:
            object.__setattr__(self, "error", real("error", self.error))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=min(2**n_units, self.permutations * max(n_units - 1, 0) + 2))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        n, most = game.n_players, self.permutations // 2
        game.ends()
        ranks = np.empty((0, n), int)
        added = np.empty((0, problem.n_targets, n))
        allowed = self.error or 0.0
        wanted = most if self.error is None else min(FIRST_ROUND // 2, most)
        while True:
            ranks = np.concatenate([ranks, rng.random((wanted - len(ranks), n)).argsort(1)])
            added = np.concatenate([added, gains(game, ranks[len(added) :])])
            errors = added.std(0, ddof=1) / np.sqrt(len(added)) if len(added) > 1 else None
            worst = np.inf if errors is None else float(errors.max(initial=0.0))
            if len(added) < wanted or wanted == most or worst <= allowed:
                break
            # As many as it should take, but no more than twice as many, since the error is itself uncertain.
            wanted = min(most, ceil(len(added) * min(2.0, max(1.25, (worst / allowed) ** 2))))
        if not len(added):
            raise BudgetError(f"The budget ended within the first two orders. Allow {2 * n} forwards or more.")
        asked = chains(ranks[: len(added)]).reshape(2 * len(added) * (n + 1), n)
        problem.notes.update(evaluations=count_distinct(asked), permutations=2 * len(added))
        if self.error is not None:
            problem.notes["error_reached"] = worst <= allowed
        problem.errors = None if errors is None else game.to_units(errors)
        return game.to_units(added.mean(0))
