"""Input times gradient: the target's first-order reaction to a token's embedding being there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._reductions import times_embedding
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class InputXGradient(Method):
    """Embedding times the target's gradient, summed: the linear estimate of what a unit adds, in the target's unit.

    Shrikumar, Greenside, Shcherbina and Kundaje, "Not Just a Black Box" (2016). One forward and one product per target.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy"})

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=1, backwards=n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        return problem.gradients(times_embedding)
