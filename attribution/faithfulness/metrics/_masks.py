"""Masks to hold scores against that no method was fitted to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

RUN = 3.0
"""How many neighbouring units are kept, or removed, in a row, on average."""


def held_out_masks(n_players: int, count: int, seed: int) -> Bool[np.ndarray, "mask player"]:
    """Masks in which kept and removed units come in runs of neighbours.

    The first unit is kept by the toss of a coin, and from each unit to the next this changes with probability 1/3. What
    our methods fit to treats all units alike, wherever they stand: independent coins (banzhaf, context_cite,
    interactions), a random number of units and then any of them (lime, kernel_shap), the beginnings of random orders
    (shapley_sampling). Hierarchical removes single runs, but fits nothing to them.
    """
    # A stream of its own, which no method with the same seed draws from.
    uniform = np.random.default_rng([seed, 1]).random((count, n_players))
    changes = uniform < 1 / RUN
    changes[:, :1] = uniform[:, :1] < 0.5
    return np.cumsum(changes, axis=1) % 2 == 1
