"""AttnLRP: relevance handed down through queries, keys and values of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._reductions import times_embedding
from attribution.problem import ATTN_LRP, Cost, Need, Problem


@dataclass(frozen=True)
class AttnLRP(Method):
    """Relevance that layer-wise propagation hands down, also through attention's weights, in the target's unit.

    A backward pass with other rules: a product of two parts of the input shares its relevance equally (so that values
    get a half, queries and keys a quarter each), the scales of norms are constants, and an activation is its input
    times a constant. Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin and Samek, "AttnLRP: Attention-Aware
    Layer-Wise Relevance Propagation for Transformers" (2024). One forward and one product per target. Raises
    `CapabilityError` where a part of the model is not recognised.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy"})

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=1, backwards=n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        return problem.gradients(times_embedding, rules=ATTN_LRP)
