"""Evaluations: the ablated prompts that were asked, and what came out; a run can be continued from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

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


class Answers:
    """The masks that were asked so far, and the targets after each, so that none is asked twice."""

    def __init__(self, n_units: int, n_targets: int) -> None:
        self._n_units, self._n_targets = n_units, n_targets
        self._known: dict[bytes, Float[np.ndarray, " target"]] = {}

    def missing(self, masks: Bool[np.ndarray, "mask unit"]) -> list[Bool[np.ndarray, " unit"]]:
        """Those that were not asked yet, each of them once, in their order."""
        return list({key: mask for mask in masks if (key := mask.tobytes()) not in self._known}.values())

    def add(self, masks: Sequence[Bool[np.ndarray, " unit"]], targets: Float[np.ndarray, "mask target"]) -> None:
        """Keeps the targets after these masks; a row with NaN was not computed, and stays unknown."""
        for mask, row in zip(masks, targets, strict=True):
            if not np.isnan(row).any():
                self._known[mask.tobytes()] = row

    def targets(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, "mask target"]:
        """The targets after these masks; NaN where that is unknown."""
        unknown = np.full(self._n_targets, np.nan, dtype=np.float32)
        return np.stack([self._known.get(mask.tobytes(), unknown) for mask in masks])

    def remember(self, evaluations: Evaluations) -> None:
        """Takes these as asked; `InputError` where they are of another number of units or targets."""
        shape = (evaluations.keep.shape[1], evaluations.values.shape[1])
        if shape != (self._n_units, self._n_targets):
            raise InputError(
                f"Expected evaluations of {self._n_units} units and {self._n_targets} targets, got {shape[0]} and "
                f"{shape[1]}."
            )
        self.add(list(evaluations.keep), evaluations.values)

    @property
    def evaluations(self) -> Evaluations:
        """All of them, in the order in which they came."""
        keep = [np.frombuffer(key, dtype=bool) for key in self._known]
        values = [found.astype(np.float32) for found in self._known.values()]
        return Evaluations(
            np.stack(keep) if keep else np.zeros((0, self._n_units), dtype=bool),
            np.stack(values) if values else np.zeros((0, self._n_targets), dtype=np.float32),
        )
