"""Integrated gradients: the change of the target on the way from a prompt that says nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribution.errors import InputError
from attribution.method import Method
from attribution.methods._options import real, whole
from attribution.methods._way import Way
from attribution.problem import Baseline, Cost, Need, Problem


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """What a unit adds to the target on the straight way from a baseline to the prompt, in the target's unit.

    The scores of a target add up to its value here minus its value at the baseline; how far they are from it is in the
    result, `notes["completeness_error"]`, for every target. The integral is taken at `steps` Gauss-Legendre points.
    While the largest error is above `tolerance` times the largest difference, the part of the way whose error is the
    largest is cut in two, each with as many points, until `max_steps` are taken; `notes["converged"]` says how it
    ended. With `tolerance=None` it stays at `steps`.

    `baseline` is what stands for an absent token: `"zero"`, `"padding"` (its embedding), `"mean"` (of all embeddings),
    or `"text"`, the given `text`, of one token or as many as the prompt has. Special tokens stay as they are and get 0.

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017). For every step one forward and one
    product per target; two forwards for the ends, and three for each cut.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gradients"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic", "dummy", "additive"})

    baseline: Baseline = "zero"
    text: str = ""
    steps: int = 16
    tolerance: float | None = 0.05
    max_steps: int = 512

    def __post_init__(self) -> None:
        kinds = [kind for kind in get_args(Baseline) if kind != "random"]
        if not isinstance(self.baseline, str) or self.baseline not in kinds:
            raise InputError(f"Expected a baseline out of {', '.join(kinds)}, got {self.baseline!r}.")
        if not isinstance(self.text, str) or (self.baseline == "text") != bool(self.text):
            raise InputError('A baseline text goes with baseline="text", and baseline="text" with a text.')
        object.__setattr__(self, "steps", whole("steps", self.steps))
        object.__setattr__(self, "max_steps", whole("max_steps", self.max_steps, at_least=self.steps))
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", real("tolerance", self.tolerance))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        cuts = 0 if self.tolerance is None else (self.max_steps - self.steps) // (2 * self.steps)
        steps = self.steps * (1 + 2 * cuts)
        return Cost(forwards=steps + cuts + 2, backwards=steps * n_targets)  # a cut reads the target at its place

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        way = Way(problem, problem.baseline(self.baseline, text=self.text), self.steps)
        parts = [way.whole()]
        difference = parts[0].rise
        allowed = math.inf if self.tolerance is None else self.tolerance * float(difference.abs().max())
        steps = self.steps
        while True:
            scores = torch.stack([part.scores for part in parts]).sum(0)
            error = (scores.sum(1) - difference).abs()
            converged = float(error.max()) <= allowed
            if converged or steps + 2 * self.steps > self.max_steps:
                break
            worst = max(parts, key=lambda part: part.error)
            parts.remove(worst)
            parts += way.cut(worst)
            steps += 2 * self.steps
        problem.notes.update(steps=steps, completeness_error=error.tolist(), difference=difference.tolist())
        problem.notes["converged"] = None if self.tolerance is None else converged
        return scores
