"""Integrated gradients: the change of the target on the way from a prompt that says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribution.errors import InputError
from attribution.method import Method
from attribution.methods._options import real, whole
from attribution.problem import Baseline, Cost, Need, Problem, here


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
        """Where no part of the way need be cut."""
        return Cost(forwards=self.steps + 2, backwards=self.steps * n_targets)

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        way = _Way(problem, problem.baseline(self.baseline, text=self.text), self.steps)
        here_and_there = problem.value_at([here, partial(_on_the_way, way.baseline, 0.0, 1.0)])
        parts = [way.part(0.0, 1.0, here_and_there[1], here_and_there[0])]
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
        if self.tolerance is not None:
            problem.notes["converged"] = converged
        return scores


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the way, the target's values at its ends, and what the units add on it."""

    low: float
    high: float
    at_low: Float[Tensor, " target"]
    at_high: Float[Tensor, " target"]
    scores: Float[Tensor, "target unit"]

    @property
    def rise(self) -> Float[Tensor, " target"]:
        return self.at_high - self.at_low

    @property
    def error(self) -> float:
        return float((self.scores.sum(1) - self.rise).abs().max())


@dataclass(frozen=True)
class _Way:
    """The straight way from a baseline, share 0, to the prompt, share 1."""

    problem: Problem
    baseline: Float[Tensor, "token embed"]
    steps: int

    def values(self, shares: Sequence[float]) -> Float[Tensor, "share target"]:
        """The targets at these shares of the way."""
        return self.problem.value_at([partial(_on_the_way, self.baseline, share, 1.0) for share in shares])

    def part(self, low: float, high: float, at_low: Tensor, at_high: Tensor) -> _Part:
        """What the units add between two shares of the way."""
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        places = [
            partial(_on_the_way, self.baseline, low + (high - low) * (point + 1) / 2, (high - low) * weight / 2)
            for point, weight in zip(points.tolist(), weights.tolist(), strict=True)
        ]
        scores = self.problem.gradients(partial(_times_distance, self.baseline), places)
        return _Part(low, high, at_low, at_high, scores)

    def cut(self, part: _Part) -> list[_Part]:
        """The part in two, so that the target changes about as much in one as in the other."""
        shares = [part.low + (part.high - part.low) * cut for cut in (1 / 8, 1 / 2, 7 / 8)]
        values = self.values(shares)
        uneven = [float((2 * value - part.at_low - part.at_high).abs().sum()) for value in values]
        best = uneven.index(min(uneven))
        share, value = shares[best], values[best]
        return [self.part(part.low, share, part.at_low, value), self.part(share, part.high, value, part.at_high)]


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
