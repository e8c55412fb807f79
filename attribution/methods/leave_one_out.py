"""Leave-one-out: what is lost when one unit is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class LeaveOneOut(Method):
    """Drop of the target when one unit is deleted from the prompt, in the target's unit.

    Exact: every prompt without one unit is asked for itself. Units that stand in for one another hide each other, since
    either one alone suffices. Also known as occlusion; see Li, Monroe and Jurafsky, "Understanding Neural Networks
    through Representation Erasure" (2016).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy", "additive", "complete"})

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=n_units + 1)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        without_one = ~torch.eye(problem.n_units, dtype=torch.bool)
        values = problem.value(torch.cat([problem.everything(), without_one]))
        return (values[0] - values[1:]).T
