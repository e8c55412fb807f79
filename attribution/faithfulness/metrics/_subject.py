"""What every metric looks at: the scores of the units that can be removed, and the number that these are about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int

from attribution.errors import BudgetError, InputError
from attribution.faithfulness.metrics._options import By
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.result import Attribution

ROUNDING = 1e-6
"""Of the largest number that was read: numbers that are no further apart are the same."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Scores and the game that they are about. Its players are the units of the prompt that can be removed.

    All other units stay, output tokens among them. The game's value is the target, summed over the outputs that were
    asked about, so that the scores are summed over them too.
    """

    problem: Problem
    players: Int[np.ndarray, " player"]
    """The index of each player among the units."""
    scores: Float64[np.ndarray, " player"]
    lengths: Float64[np.ndarray, " player"]
    """How many tokens each has."""
    rows: tuple[int, ...]
    """The targets that are summed."""

    @property
    def n_players(self) -> int:
        """How many units can be removed."""
        return len(self.players)

    def value(self, keep: Bool[np.ndarray, "batch player"]) -> Float64[np.ndarray, " batch"]:
        """The number when only these players are there; `BudgetError` where the problem does not answer them all."""
        # Tied orders have most of their masks in common: each is asked once, in the order in which they come.
        _, first, own = np.unique(np.packbits(keep, axis=1), axis=0, return_index=True, return_inverse=True)
        asked = np.sort(first)
        masks = torch.ones(len(asked), self.problem.n_units, dtype=torch.bool)
        masks[:, torch.from_numpy(self.players)] = torch.from_numpy(keep[asked])
        found = self.problem.value(masks).double().numpy()[:, list(self.rows)].sum(1)
        if not np.isfinite(found).all():
            raise BudgetError(f"The budget ended before all of {len(asked)} ablated prompts were asked. Allow more.")
        return found[np.searchsorted(asked, first)[own.ravel()]]

    def ends(self) -> tuple[float, float]:
        """The number with all players and with none."""
        full, nothing = self.value(np.stack([np.ones(self.n_players, bool), np.zeros(self.n_players, bool)])).tolist()
        return full, nothing

    def sizes(self, by: By) -> Float64[np.ndarray, " player"]:
        """The share of all players that each is, in tokens or in units."""
        own = self.lengths if by == "token" else np.ones_like(self.lengths)
        return own / own.sum()


def subject_of(result: Attribution, problem: Problem, outputs: Outputs = None) -> Subject:
    """The scores of a result for these outputs, beside the problem.

    Raises `InputError` where the problem has other units or targets than the result.
    """
    n_units, n_targets = len(result.units), len(result.scores)
    if problem.n_units - n_units not in (0, len(result.outputs)) or problem.n_targets != n_targets:
        raise InputError(
            f"Expected a problem of the result's {n_units} units and {n_targets} targets, got one of {problem.n_units} "
            f"and {problem.n_targets}. Take the one that the result is about, as recorded_problem(model, result) does."
        )
    scores = result.total(outputs).astype(np.float64)
    players = np.flatnonzero(problem.removable.numpy()[:n_units])
    lengths = np.array([max(1, unit.last_token - unit.first_token) for unit in result.units], np.float64)
    rows = result.output_indices(outputs) if result.per_output else [0]
    return Subject(problem, players, scores[players], lengths[players], tuple(rows))
