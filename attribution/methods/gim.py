"""GIM: input times a gradient that looks past the self-repair of softmax, norms and gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._options import real
from attribution.methods._reductions import times_embedding
from attribution.problem import Cost, Need, Problem, gim


@dataclass(frozen=True)
class GIM(Method):
    """Embedding times a gradient modified where parts stand in for one another, in the target's unit.

    In the backward pass attention's softmax has a higher `temperature`, so that a position which shares its weight with
    another is not taken for unimportant; the scales of norms are constants; and products share their gradient among
    their factors, as in the authors' code, which multiplies the gradient by the distance from a baseline token's
    embedding instead. Edin, Csordás, Ruotsalo, Wu, Maistro, Huang and Maaløe, "GIM: Improved
    Interpretability for Large Language Models" (2025). One forward and one product per target; attention is computed
    twice. Raises `CapabilityError` where a part of the model is not recognised.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy"})

    temperature: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", real("temperature", self.temperature, at_most=1e6))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=1, backwards=n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        return problem.gradients(times_embedding, rules=gim(self.temperature))
