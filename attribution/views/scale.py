"""Where the colours of a picture end, and when there is too little to be coloured: the same in every view.

A scale begins at zero on both sides, since zero means "does nothing". It ends at the strongest score, unless a few of
many stand far above all others: then at the 99th percentile, and those beyond are clipped, and marked. Where all scores
are next to nothing the signal is weak, and nothing is coloured, so that noise never looks like a finding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NEGLIGIBLE = 0.01
"""Share of the strongest score below which a unit is counted, not listed."""

PERCENTILE = 0.99
"""Share of the units that matter at all, that is by more than `NEGLIGIBLE`, which a scale shows unclipped."""

FLOORS = {"nats": 0.01, "probability": 0.001, "logits": 0.01, "log-odds": 0.01}
"""Strongest scores that are still noise, in the units for which that can be said."""

WEAK = 0.02
"""Share of the strongest score that any single output token has, below which what is shown is weak."""


@dataclass(frozen=True)
class Scale:
    """A scale from minus `limit` to `limit`; `weak` where nothing should be coloured, with `why` in words."""

    limit: float
    strongest: float
    weak: bool
    why: str = ""

    def strength(self, score: float) -> float:
        """How strongly a score is shown, 0 to 1; 0 for all where the signal is weak."""
        return 0.0 if self.weak or self.limit == 0 else min(1.0, abs(score) / self.limit)


def fit(
    scores: Sequence[float], unit: str = "", *, anywhere: float = 0.0, errors: Sequence[float] | None = None
) -> Scale:
    """The scale for these scores, special units not among them.

    `unit` is what they are measured in, `anywhere` the strongest score that any single output token has, and `errors`
    are their standard errors. `view.js` does the same in `fitScale`.
    """
    sizes = [abs(score) for score in scores]
    strongest = max(sizes, default=0.0)
    if strongest == 0:
        return Scale(0.0, 0.0, weak=True, why="every score is 0")
    relevant = sorted(size for size in sizes if size >= NEGLIGIBLE * strongest)
    limit = relevant[math.ceil(PERCENTILE * len(relevant)) - 1]
    if strongest < FLOORS.get(unit, 0.0):
        return Scale(limit, strongest, weak=True, why=f"nothing moves it by {FLOORS[unit]:g} {unit}")
    if strongest < WEAK * anywhere:
        return Scale(limit, strongest, weak=True, why=f"no score is {WEAK:.0%} of the strongest for other outputs")
    if errors is not None and all(size < 2 * error for size, error in zip(sizes, errors, strict=True)):
        return Scale(limit, strongest, weak=True, why="no score is twice its standard error")
    return Scale(limit, strongest, weak=False)
