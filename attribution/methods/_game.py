"""A problem as the cooperative game that ablation methods play: its players are the units that can be removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from attribution.errors import BudgetError
from attribution.problem import Problem


class Game:
    """Values of coalitions of players, in float64; scores of players become scores of units."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._players = problem.removable.nonzero()[:, 0]

    @property
    def n_players(self) -> int:
        """How many units can be removed."""
        return len(self._players)

    def value(self, keep: Bool[np.ndarray, "batch player"]) -> Float64[np.ndarray, "batch target"]:
        """Every target when only these players are there; NaN where a budget ran out before."""
        masks = torch.ones(len(keep), self._problem.n_units, dtype=torch.bool)
        masks[:, self._players] = torch.from_numpy(np.ascontiguousarray(keep))
        return self._problem.value(masks).double().numpy()

    def without(self, spans: Sequence[tuple[int, int]]) -> Float64[np.ndarray, "span target"]:
        """Every target without the players from the start of a span up to its end; NaN where a budget ran out."""
        keep = np.ones((len(spans), self.n_players), bool)
        for row, (start, stop) in zip(keep, spans, strict=True):
            row[start:stop] = False
        return self.value(keep)

    def ends(self) -> tuple[Float64[np.ndarray, " target"], Float64[np.ndarray, " target"]]:
        """Every target with all players and with none; `BudgetError` where the budget does not allow even that."""
        keep = np.stack([np.ones(self.n_players, bool), np.zeros(self.n_players, bool)])
        everything, nothing = self.value(keep)
        if not np.isfinite([everything, nothing]).all():
            raise BudgetError("The budget ended before the whole prompt and the empty one were asked. Allow more.")
        return everything, nothing

    def to_units(self, scores: Float[np.ndarray, "target player"]) -> Float[Tensor, "target unit"]:
        """Scores of all units; 0 for those that are no players."""
        units = torch.zeros(len(scores), self._problem.n_units, dtype=torch.float64)
        units[:, self._players] = torch.from_numpy(np.ascontiguousarray(scores)).double()
        return units


def count_known(values: Float64[np.ndarray, "batch target"]) -> int:
    """How many rows come before the first that is unknown.

    What a sample is cut to: known rows after that one are those that were drawn before, and would count twice.
    """
    return int(np.append(np.isnan(values).any(1), True).argmax())


def count_distinct(keep: Bool[np.ndarray, "batch player"]) -> int:
    """How many different masks there are."""
    return len(np.unique(np.packbits(keep, axis=1), axis=0))
