"""The straight way from a baseline to the prompt in embedding space, and what the units add on parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.problem import Problem, here


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the way, the target's values at its ends, and what the units add on it."""

    low: float
    high: float
    at_low: Float[Tensor, " target"]
    at_high: Float[Tensor, " target"]
    scores: Float[Tensor, "target unit"]

    @property
    def rise(self) -> Float[Tensor, " target"]:
        return self.at_high - self.at_low

    @property
    def error(self) -> float:
        return float((self.scores.sum(1) - self.rise).abs().max())


@dataclass(frozen=True)
class Way:
    """The straight way from a baseline, share 0, to the prompt, share 1."""

    problem: Problem
    baseline: Float[Tensor, "token embed"]
    steps: int

    def values(self, shares: Sequence[float]) -> Float[Tensor, "share target"]:
        """The targets at these shares of the way."""
        return self.problem.value_at([partial(on_the_way, self.baseline, share, 1.0) for share in shares])

    def whole(self) -> Part:
        """All of the way."""
        there, nothing = self.problem.value_at([here, partial(on_the_way, self.baseline, 0.0, 1.0)])
        return self.part(0.0, 1.0, nothing, there)

    def part(self, low: float, high: float, at_low: Tensor, at_high: Tensor) -> Part:
        """What the units add between two shares of the way."""
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        places = [
            partial(on_the_way, self.baseline, low + (high - low) * (point + 1) / 2, (high - low) * weight / 2)
            for point, weight in zip(points.tolist(), weights.tolist(), strict=True)
        ]
        scores = self.problem.gradients(partial(_times_distance, self.baseline), places)
        return Part(low, high, at_low, at_high, scores)

    def cut(self, part: Part) -> list[Part]:
        """The part in two, so that the target changes about as much in one as in the other."""
        shares = [part.low + (part.high - part.low) * cut for cut in (1 / 8, 1 / 2, 7 / 8)]
        values = self.values(shares)
        uneven = [float((2 * value - part.at_low - part.at_high).abs().sum()) for value in values]
        best = uneven.index(min(uneven))
        share, value = shares[best], values[best]
        return [self.part(part.low, share, part.at_low, value), self.part(share, part.high, value, part.at_high)]


def on_the_way(
    baseline: Float[Tensor, "#token embed"], share: float, weight: float, embeddings: Float[Tensor, "token embed"]
) -> tuple[Float[Tensor, "token embed"], Float[Tensor, ""]]:
    """The place at a share of the way, with a weight."""
    return baseline + share * (embeddings - baseline), embeddings.new_tensor(weight)


def _times_distance(
    baseline: Float[Tensor, "#token embed"],
    gradient: Float[Tensor, "target token embed"],
    embeddings: Float[Tensor, "token embed"],
) -> Float[Tensor, "target token"]:
    return (gradient * (embeddings - baseline)).sum(-1)
