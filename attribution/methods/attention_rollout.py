"""Attention rollout: where attention has looked, followed down through all blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class AttentionRollout(Method):
    """Share of each output token's attention that reaches a unit through all blocks: where the model looked, not why.

    Every block passes on half of what a position has (the residual stream) and half by its attention, averaged over the
    heads. The shares of an output token add up to 1. Values, gates and the target are not looked at: a baseline, often
    asked for, that says little of causes. Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020). One
    forward, and attention recomputed for the positions that matter.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "nonnegative"})
    signed: ClassVar[bool] = False
    unit: ClassVar[str] = "share of attention"

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=1)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        return problem.attention(_half_and_half)


def _half_and_half(
    relevance: Float[Tensor, "row token"], attended: Float[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    return (relevance + attended) / 2
