"""SmoothGrad: the gradient averaged over small random changes of the embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribution.errors import InputError
from attribution.method import Method
from attribution.methods._options import real, whole
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class SmoothGrad(Method):
    """Norm of the target's gradient, averaged over noise on the embeddings: how much a unit matters, not which way.

    The mean of the gradients at `samples` places, each with Gaussian noise on every unit's tokens whose standard
    deviation is `noise` times the range of the embeddings' values; then its `norm`, `"l1"` or `"l2"`, over the
    embedding of each token. Smilkov, Thorat, Kim, Viégas and Wattenberg, "SmoothGrad: removing noise by adding noise"
    (2017). For every sample one forward and one product per target.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"dummy", "nonnegative"})
    signed: ClassVar[bool] = False
    unit: ClassVar[str] = "{target} per unit of embedding"

    samples: int = 16
    noise: float = 0.1
    norm: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise InputError(f'Expected norm="l1" or norm="l2", got {self.norm!r}.')
        object.__setattr__(self, "samples", whole("samples", self.samples))
        object.__setattr__(self, "noise", real("noise", self.noise, at_most=100.0))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=self.samples, backwards=self.samples * n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        seeds = rng.integers(2**62, size=self.samples).tolist()
        places = [partial(_disturbed, seed, self.noise, 1 / self.samples) for seed in seeds]
        return problem.gradients(lambda gradient, _: gradient.norm(p=int(self.norm[1]), dim=-1), places)


def _disturbed(
    seed: int, noise: float, weight: float, embeddings: Float[Tensor, "token embed"]
) -> tuple[Float[Tensor, "token embed"], Float[Tensor, ""]]:
    deviation = noise * (embeddings.max() - embeddings.min())
    drawn = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return embeddings + deviation * drawn.to(embeddings), embeddings.new_tensor(weight)
