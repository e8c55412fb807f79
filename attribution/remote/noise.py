"""Noise: what a method would score where nothing matters, because the same prompt is not answered the same twice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribution.estimate import Rehearsal
from attribution.method import Method
from attribution.problem import Problem

TIMES = 200
"""How often the method is given nothing but noise."""

CONFIDENCE = 0.95
"""In as many of these runs no unit at all scores more than the floor."""


class _NoiseAlone(Rehearsal):
    """A problem in which no unit does anything: every mask is answered by what chance made of one prompt's answers."""

    def __init__(self, problem: Problem, spread: np.ndarray, repeats: int, rng: np.random.Generator) -> None:
        super().__init__(problem)
        self._spread, self._repeats, self._rng = spread, repeats, rng
        self._known: dict[bytes, float] = {}

    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch target"]:
        keys = [mask.numpy().tobytes() for mask in keep | ~self.removable]
        for key in keys:
            if key not in self._known:
                self._known[key] = float(self._rng.choice(self._spread, self._repeats).mean())
        return torch.tensor([[self._known[key]] for key in keys])


def noise_floor(problem: Problem, method: Method, answers: Sequence[Sequence[float]], repeats: int, seed: int) -> float:
    """The score below which nothing is called a cause, in the unit of the method's scores; 0 without noise.

    `answers` are the similarities of several answers to one prompt, the whole one first, then maybe to others; after
    each mask the mean of `repeats` is taken. The method is run on masks that do nothing, with answers drawn from these:
    in 95% of the runs no unit scores more.
    """
    if all(max(each) == min(each) for each in answers):
        return 0.0
    spread = _spread(answers)
    rng = np.random.default_rng([seed, len(spread)])
    largest: list[float] = []
    for _ in range(TIMES):
        alone = _NoiseAlone(problem, spread, repeats, rng)
        scores = method.attribute(alone, np.random.default_rng(rng.integers(2**32)))
        largest.append(float(scores[:, problem.removable].abs().max()))
    return float(np.quantile(largest, CONFIDENCE))


def _spread(answers: Sequence[Sequence[float]]) -> np.ndarray:
    """Similarities about that of the whole prompt, as far apart as those of answers to one prompt may be."""
    found: list[float] = []
    for each in answers:
        own, count = np.array(each, dtype=np.float64), len(each)
        # Their mean was taken of the same ones.
        found += ((own - own.mean()) * math.sqrt(count / (count - 1))).tolist()
    # So few may have fallen close together by chance.
    return float(np.mean(answers[0])) + np.array(found) * (1 + 1 / max(1, len(found) - 2))
