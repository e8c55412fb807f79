"""Saliency: how strongly the target reacts to a change of a token's embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.errors import InputError
from attribution.method import Method
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class Saliency(Method):
    """Norm of the target's gradient with respect to the token embeddings: how much a unit matters, not which way.

    `norm` is `"l1"` or `"l2"`, taken over the embedding of each token; the tokens of a unit are summed. Simonyan,
    Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2013). One forward and one product per target.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy", "nonnegative"})
    signed: ClassVar[bool] = False
    unit: ClassVar[str] = "{target} per unit of embedding"

    norm: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise InputError(f'Expected norm="l1" or norm="l2", got {self.norm!r}.')

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=1, backwards=n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        return problem.gradients(lambda gradient, _: gradient.norm(p=int(self.norm[1]), dim=-1))
