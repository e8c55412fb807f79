"""Boosted trees of masks, and the sets of players whose presence they multiply."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

Spectrum = dict[frozenset[int], float]
"""A function of masks as a sum of products: of each set of players, the product of their signs, 1 where a player is
there and -1 where not, times a coefficient. Every function of masks is such a sum, and in one way only (Walsh)."""


def boosted_spectrum(keep: Bool[np.ndarray, "row player"], values: Float64[np.ndarray, " row"], seed: int) -> Spectrum:
    """The spectrum of gradient-boosted trees that were fitted to values of masks, without the constant."""
    from sklearn.ensemble import GradientBoostingRegressor

    # Measured on planted sets of up to three players: more trees, or deeper ones, find no more. A third of the players
    # for each split is as good as all, and faster.
    model = GradientBoostingRegressor(n_estimators=100, max_depth=4, max_features=1 / 3, random_state=seed)
    model.fit(keep.astype(np.float32), values)
    total: Spectrum = {}
    for fitted in model.estimators_[:, 0]:
        for players, coefficient in _spectrum(fitted.tree_, 0).items():
            total[players] = total.get(players, 0.0) + coefficient * model.learning_rate
    total.pop(frozenset(), None)
    return total


def _spectrum(tree: Any, node: int) -> Spectrum:
    """That of the tree below a node. A split is the mean of its branches, plus half their difference times a sign."""
    left, right = int(tree.children_left[node]), int(tree.children_right[node])
    if left < 0:
        return {frozenset(): float(tree.value[node, 0, 0])}
    absent, present = _spectrum(tree, left), _spectrum(tree, right)
    player, found = int(tree.feature[node]), Spectrum()
    for players in absent.keys() | present.keys():
        low, high = absent.get(players, 0.0), present.get(players, 0.0)
        found[players] = (low + high) / 2
        found[players | {player}] = (high - low) / 2
    return found
