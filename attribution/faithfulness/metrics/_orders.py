"""Orders of units by their scores.

Tied units stand in every order, or in as many as are drawn, so that a metric's mean over the orders is what is to be
expected were ties broken by chance.
"""

from __future__ import annotations

from itertools import permutations, product
from math import factorial, prod

import numpy as np
from jaxtyping import Bool, Float64, Int

FEW = 120
"""Up to so many orders are all looked at. They share most of their masks, so that 5 tied units take 30."""


def orders_of(scores: Float64[np.ndarray, " player"], drawn: int, seed: int) -> Int[np.ndarray, "order player"]:
    """The players from the largest score to the smallest, in every order that ties allow where these are few.

    Else in `drawn` random ones, every second of which has the ties of the one before it reversed.
    """
    _, groups = np.unique(-scores, return_inverse=True)
    tied = [np.flatnonzero(groups == group).tolist() for group in range(groups.max(initial=-1) + 1)]
    if prod(factorial(len(group)) for group in tied) <= FEW:
        every = [sum(parts, ()) for parts in product(*(permutations(group) for group in tied))]
        return np.array(every, dtype=np.int64).reshape(len(every), len(scores))
    chance = np.random.default_rng(seed).random(((drawn + 1) // 2, len(scores)))
    both = np.stack([chance, -chance], axis=1).reshape(-1, len(scores))[:drawn]
    return np.stack([np.lexsort([row, groups]) for row in both])


def without_first(
    orders: Int[np.ndarray, "order player"], counts: Int[np.ndarray, "order count"]
) -> Bool[np.ndarray, "order count player"]:
    """Who is left once the first so many of each order are removed."""
    return orders.argsort(1)[:, None, :] >= counts[:, :, None]
