"""What players add when they come one after another, in random orders, each with its reverse."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int

from attribution.methods._game import Game, count_known


def chains(ranks: Int[np.ndarray, "pair player"]) -> Bool[np.ndarray, "pair two count player"]:
    """Who is there after so many have come, in each order and in its reverse; a player's rank is how many come before.

    The whole prompt comes first, so that a batch shares as long a prefix as it can.
    """
    counts = np.arange(ranks.shape[1], -1, -1)[:, None]
    both = np.stack([ranks, ranks.shape[1] - 1 - ranks], axis=1)
    return both[:, :, None] < counts


def gains(game: Game, ranks: Int[np.ndarray, "pair player"]) -> Float64[np.ndarray, "known target player"]:
    """What each player adds, averaged over an order and its reverse; of the pairs that a budget allows."""
    n = ranks.shape[1]
    values = game.value(chains(ranks).reshape(2 * len(ranks) * (n + 1), n))
    known = count_known(values) // (2 * (n + 1))
    both = values[: known * 2 * (n + 1)].reshape(known, 2, n + 1, values.shape[1])
    steps = both[:, :, :-1] - both[:, :, 1:]
    # The first step is what the last to come has added.
    own = np.stack([n - 1 - ranks[:known], ranks[:known]], axis=1)[..., None]
    return np.take_along_axis(steps, own, axis=2).mean(1).transpose(0, 2, 1)
