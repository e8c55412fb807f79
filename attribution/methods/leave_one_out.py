"""Leave-one-out: what is lost when one unit is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribution.errors import BudgetError
from attribution.method import Method
from attribution.methods._game import Game
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class LeaveOneOut(Method):
    """Drop of the target when one unit is deleted from the prompt, in the target's unit.

    Exact: every prompt without one unit is asked for itself. Units that stand in for one another hide each other, since
    either one alone suffices. Where a budget ends first, units that were not reached score 0, and
    `notes["not_looked_into"]` names them. Also known as occlusion; see Li, Monroe and Jurafsky, "Understanding Neural
    Networks through Representation Erasure" (2016).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy", "additive", "complete"})

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=n_units + 1)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        without_one = ~np.eye(game.n_players, dtype=bool)
        values = game.value(np.concatenate([np.ones((1, game.n_players), bool), without_one]))
        drops = values[0] - values[1:]
        unknown = np.isnan(drops).any(1)
        if unknown.all():
            raise BudgetError("The budget ended before any unit was deleted. Allow more.")
        if unknown.any():
            units = problem.removable.nonzero()[:, 0][torch.from_numpy(unknown)].tolist()
            problem.notes["not_looked_into"] = [{"units": [unit, unit + 1], "why": "budget"} for unit in units]
        return game.to_units(np.where(unknown[:, None], 0.0, drops).T)
