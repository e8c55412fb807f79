"""Evaluations: the ablated prompts that were asked, and what came out; a run can be continued from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from attribution.errors import InputError


@dataclass(frozen=True, eq=False)
class Evaluations:
    """For each ablated prompt the units that were in it, output tokens behind those of the prompt, and its targets."""

    keep: Bool[np.ndarray, "evaluation unit"]
    values: Float32[np.ndarray, "evaluation target"]

    def __post_init__(self) -> None:
        if self.keep.ndim != 2 or self.values.ndim != 2 or len(self.keep) != len(self.values):
            raise InputError(f"Expected a row of values for each mask, got {self.keep.shape} and {self.values.shape}.")
        if not np.isfinite(self.values).all():
            raise InputError("Expected finite values, got NaN or infinity.")
        for name in ("keep", "values"):
            own: np.ndarray = getattr(self, name).copy()
            own.setflags(write=False)
            object.__setattr__(self, name, own)

    def __len__(self) -> int:
        return len(self.keep)
