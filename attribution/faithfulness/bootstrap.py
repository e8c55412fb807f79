"""Bootstrap: how sure the mean difference of two methods is that were measured on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 2**22
"""How many draws are held at once."""

LEVEL = 0.95
"""The share of the resampled means that is between the ends of an interval."""

ENOUGH = 6
"""The fewest prompts that can tell: of 5 all differences have one sign by chance in 1 of 16 cases, of 6 in 1 of 32."""


@dataclass(frozen=True)
class Difference:
    """By how much one method's numbers are above another's, over the prompts that both have a number for.

    `low` and `high` are the ends of the 95% interval; None where a single prompt cannot say.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def side(self) -> int:
        """1 where the interval is all above 0, -1 where it is all below; 0 otherwise, and of fewer than 6 prompts."""
        if self.low is None or self.high is None or self.n < ENOUGH:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def paired_difference(
    own: Mapping[int, float], other: Mapping[int, float], *, resamples: int, seed: int
) -> Difference | None:
    """The mean difference of two methods' numbers, by prompt, and its percentile bootstrap interval; None without any.

    Prompts are drawn with replacement, as many as there are, and each brings the difference of its own two numbers:
    what makes a prompt hard for both does not blur the comparison. The interval is from the 2.5% to the 97.5% quantile
    of the means of `resamples` such draws. Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    both = [prompt for prompt in own if prompt in other]
    if not both:
        return None
    differences = np.array([own[prompt] - other[prompt] for prompt in both], dtype=np.float64)
    mean, n = float(differences.mean()), len(both)
    if n < 2:
        return Difference(mean, None, None, n)
    rng = np.random.default_rng(seed)
    rounds = max(1, _AT_ONCE // n)
    means = [
        differences[rng.integers(n, size=(min(rounds, resamples - done), n))].mean(1)
        for done in range(0, resamples, rounds)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Difference(mean, low, high, n)
