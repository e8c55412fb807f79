"""Banzhaf interactions as the package shapiq computes them, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64

from attribution.errors import BudgetError
from attribution.methods._game import Game
from attribution.methods._walsh import ROUNDING, Found


def banzhaf_interactions(game: Game, n_targets: int, samples: int, seed: int) -> tuple[list[Found], int]:
    """What shapiq finds for each target, exactly where there are no more masks than samples; and how many were asked.

    Raises `BudgetError` where a value is missing.
    """
    import shapiq

    n_players, order = game.n_players, min(2, game.n_players)
    asked: set[bytes] = set()
    found: list[Found] = []
    low, high = np.sort(np.stack(game.ends()), axis=0)
    for target in range(n_targets):

        def value(coalitions: Any, target: int = target) -> Float64[np.ndarray, " batch"]:
            keep = np.atleast_2d(np.asarray(coalitions, bool))
            values = game.value(keep)
            if not np.isfinite(values).all():
                raise BudgetError(f"The budget ended before shapiq's {samples} masks were asked. Allow more.")
            asked.update(row.tobytes() for row in keep)
            low[target] = min(low[target], values[:, target].min())
            high[target] = max(high[target], values[:, target].max())
            return values[:, target]

        if 2**n_players <= samples:
            result = shapiq.ExactComputer(value, n_players=n_players)("BII", order)
        else:
            approximator = shapiq.SVARMIQ(n_players, max_order=2, index="BII", top_order=False, random_state=seed)
            result = approximator.approximate(budget=samples, game=value)
        each = Found(np.zeros(n_players), np.zeros(n_players))
        for players, worth in result.dict_values.items():
            if len(players) == 1:
                each.first[players[0]] = worth
            elif len(players) == 2 and abs(worth) > ROUNDING * (high[target] - low[target]):
                each.pairs[min(players), max(players)] = float(worth)
        found.append(each)
    return found, len(asked)
