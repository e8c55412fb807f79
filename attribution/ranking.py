"""Rank correlations with average ranks for ties; NaN where one side is constant."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Float64

Correlation = Literal["spearman", "kendall"]


def average_ranks(values: Float64[np.ndarray, " item"]) -> Float64[np.ndarray, " item"]:
    """How many are smaller, plus half of how many others are as large."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (below + (counts - 1) / 2)[groups]


def settled(values: Float64[np.ndarray, " item"], rounding: float) -> Float64[np.ndarray, " item"]:
    """The values, where those that are no further apart than rounding are made the same."""
    order = values.argsort()
    rising = values[order]
    starts = np.diff(rising, prepend=-np.inf) > rounding
    found = np.empty_like(values)
    found[order] = rising[starts][np.cumsum(starts) - 1]
    return found


def correlate(
    one: Float64[np.ndarray, " item"], other: Float64[np.ndarray, " item"], by: Correlation = "spearman"
) -> float:
    """Spearman's rho or Kendall's tau-b, from -1 to 1; NaN where either has no two different values."""
    if len(one) < 2:
        return math.nan
    if by == "spearman":
        first, second = (ranks - ranks.mean() for ranks in map(average_ranks, (one, other)))
    else:
        first, second = (np.sign(values[:, None] - values[None]).ravel() for values in (one, other))
    length = math.sqrt(float(first @ first) * float(second @ second))
    return float(np.clip(first @ second / length, -1, 1)) if length else math.nan
