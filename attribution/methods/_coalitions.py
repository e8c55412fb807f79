"""Coalitions as masks: all of them, random ones, and what each player adds to them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int

from attribution.errors import BudgetError


def all_coalitions(n_players: int) -> Bool[np.ndarray, "coalition player"]:
    """Every coalition: row k has the players whose bits are set in k."""
    return (np.arange(2**n_players)[:, None] >> np.arange(n_players) & 1).astype(bool)


def coalitions_up_to(limit: int, n_players: int) -> Bool[np.ndarray, "coalition player"]:
    """Every coalition, where these are no more than the limit; else none."""
    return all_coalitions(n_players) if 2**n_players <= limit else np.empty((0, n_players), bool)


def random_coalitions(
    sizes: Int[np.ndarray, " batch"], uniform: Float64[np.ndarray, "batch player"]
) -> Bool[np.ndarray, "batch player"]:
    """One coalition of each size, all players alike; the uniform numbers say which."""
    return uniform.argsort(1).argsort(1) < sizes[:, None]


def mean_gains(
    table: Float64[np.ndarray, "coalition target"], by_size: Float64[np.ndarray, " size"]
) -> Float64[np.ndarray, "target player"]:
    """What each player adds to the coalitions without it, weighted by their size, over those that are known.

    The table has the values of `all_coalitions`, NaN where unknown; the weights are divided by the sum of the known
    ones. Raises `BudgetError` where nothing is known of a player.
    """
    n_players = len(by_size)
    sizes = all_coalitions(n_players).sum(1)
    scores = np.empty((table.shape[1], n_players))
    for player in range(n_players):
        without = np.flatnonzero(~np.arange(len(table)) >> player & 1)
        gains = table[without + 2**player] - table[without]
        known = ~np.isnan(gains).any(1)
        if not known.any():
            raise BudgetError(f"The budget ended before every unit was asked. Allow {n_players + 1} forwards or more.")
        weights = by_size[sizes[without[known]]]
        scores[:, player] = weights @ gains[known] / weights.sum()
    return scores
