"""CP-LRP: relevance handed down through the values of attention alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._reductions import times_embedding
from attribution.problem import CP_LRP, Cost, Need, Problem


@dataclass(frozen=True)
class CPLRP(Method):
    """Relevance that conservative propagation hands down, in the target's unit.

    A backward pass with other rules: attention's weights, the gates of gated layers and the scales of norms are
    constants, and an activation is its input times a constant. With `target="logit"` the scores of all tokens, special
    ones and earlier output tokens too, add up to the logit, save for what biases and position embeddings take. Ali,
    Schnake, Eberle, Montavon, Müller and Wolf, "XAI for Transformers: Better Explanations through Conservative
    Propagation" (2022). One forward and one product per target. Raises `CapabilityError` where a part of the model is
    not recognised.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy"})

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=1, backwards=n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        return problem.gradients(times_embedding, rules=CP_LRP)
