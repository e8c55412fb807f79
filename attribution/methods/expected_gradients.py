"""Expected gradients: integrated gradients over many random baselines at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.method import Method
from attribution.methods._options import whole
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class ExpectedGradients(Method):
    """What a unit adds to the target on the way from random tokens to the prompt, on average, in the target's unit.

    Each sample draws tokens from the vocabulary in place of the units' own, and a point on the straight way from them
    to the prompt; a score is the mean over `samples` of gradient times distance. Its expectation adds up to the target
    here minus its mean over such random prompts. Also known as GradientSHAP. Erion, Janizek, Sturmfels, Lundberg and
    Lee, "Improving performance of deep learning models with axiomatic attribution priors and expected gradients"
    (2021). For every sample one forward and one product per target.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"dummy"})

    samples: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", whole("samples", self.samples))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        return Cost(forwards=self.samples, backwards=self.samples * n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        seeds = rng.integers(2**62, size=self.samples).tolist()
        # One share from each of as many equal parts of the way: stratified, which costs nothing and varies less.
        shares = ((np.arange(self.samples) + rng.random(self.samples)) / self.samples).tolist()
        places = [
            partial(_on_the_way, problem, seed, share, 1 / self.samples)
            for seed, share in zip(seeds, shares, strict=True)
        ]
        return problem.gradients(lambda gradient, _: gradient.sum(-1), places)


def _on_the_way(
    problem: Problem, seed: int, share: float, weight: float, embeddings: Float[Tensor, "token embed"]
) -> tuple[Float[Tensor, "token embed"], Float[Tensor, "token embed"]]:
    baseline = problem.baseline("random", seed=seed)
    return baseline + share * (embeddings - baseline), weight * (embeddings - baseline)
