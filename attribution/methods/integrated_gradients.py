"""Integrated gradients: the change of the target on the way from a prompt that says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.errors import InputError
from attribution.method import Method
from attribution.problem import Baseline, Cost, Need, Problem, here


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """What a unit adds to the target on the straight way from a baseline to the prompt, in the target's unit.

    The scores of a target add up to its value here minus its value at the baseline; how far they are from it is in the
    result, `notes["completeness_error"]`, for every target. The integral is taken at `steps` Gauss-Legendre points;
    while the largest error is above `tolerance` times the largest difference, they are doubled, up to `max_steps`.
    With `tolerance=None` it stays at `steps`.

    `baseline` is what stands for an absent token: `"zero"`, `"padding"` (its embedding), `"mean"` (of all embeddings),
    or `"text"`, the given `text`, of one token or as many as the prompt has. Special tokens stay as they are and get 0.

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017). For every step one forward and one
    product per target, and two forwards for the ends.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy", "additive"})

    baseline: Baseline = "zero"
    text: str = ""
    steps: int = 16
    tolerance: float | None = 0.05
    max_steps: int = 256

    def __post_init__(self) -> None:
        kinds = [kind for kind in get_args(Baseline) if kind != "random"]
        if self.baseline not in kinds:
            raise InputError(f"Expected a baseline out of {', '.join(kinds)}, got {self.baseline!r}.")
        if (self.baseline == "text") != bool(self.text):
            raise InputError('A baseline text goes with baseline="text", and baseline="text" with a text.')
        if type(self.steps) is not int or type(self.max_steps) is not int or not 1 <= self.steps <= self.max_steps:
            raise InputError(
                f"Expected 1 <= steps <= max_steps, got steps={self.steps!r}, max_steps={self.max_steps!r}."
            )
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"Expected a tolerance above 0, or None, got {self.tolerance!r}.")

    def cost(self, n_units: int, n_targets: int) -> Cost:
        """With the steps it begins with."""
        return Cost(forwards=self.steps + 2, backwards=self.steps * n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        baseline = problem.baseline(self.baseline, text=self.text)
        there, nothing = problem.value_at([here, lambda embeddings: (baseline, embeddings.new_ones(()))])
        difference = there - nothing
        steps = self.steps
        while True:
            points, weights = np.polynomial.legendre.leggauss(steps)
            places = [
                partial(_on_the_way, baseline, (point + 1) / 2, weight / 2)
                for point, weight in zip(points.tolist(), weights.tolist(), strict=True)
            ]
            scores = problem.gradients(partial(_times_distance, baseline), places)
            error = (scores.sum(1) - difference).abs()
            small_enough = self.tolerance is None or error.max() <= self.tolerance * difference.abs().max()
            if small_enough or 2 * steps > self.max_steps:
                break
            steps *= 2
        problem.notes.update(steps=steps, completeness_error=error.tolist(), difference=difference.tolist())
        return scores


def _on_the_way(
    baseline: Float[Tensor, "#token embed"], share: float, weight: float, embeddings: Float[Tensor, "token embed"]
) -> tuple[Float[Tensor, "token embed"], Float[Tensor, ""]]:
    return baseline + share * (embeddings - baseline), embeddings.new_tensor(weight)


def _times_distance(
    baseline: Float[Tensor, "#token embed"],
    gradient: Float[Tensor, "target token embed"],
    embeddings: Float[Tensor, "token embed"],
) -> Float[Tensor, "target token"]:
    return (gradient * (embeddings - baseline)).sum(-1)
