"""RemoteProblem: what methods may ask of a prompt and its output on a model behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribution.errors import CapabilityError
from attribution.evaluations import Answers, Evaluations
from attribution.models.dialects.dialect import Put
from attribution.problem import (
    PLAIN,
    Baseline,
    Budget,
    Cost,
    ModelProblem,
    Need,
    OverOutputs,
    Place,
    Reduce,
    Rules,
    Step,
    here,
)
from attribution.prompts.prompt import Prompt, levels
from attribution.remote.absence import Absent
from attribution.remote.asking import Asking

_REDUCED: Mapping[OverOutputs, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "min": np.min}
_WITHOUT = "a model behind an API does not give"


class RemoteProblem(ModelProblem):
    """A prompt and an output on an endpoint, asked on one of the roads of `asking`.

    `absent` makes the prompts in which only some units are there. Without `per_output` there is one target, what
    `over_outputs` says of the output tokens' numbers; a road that has one number has one either way.
    """

    def __init__(
        self,
        prompt: Prompt,
        absent: Absent,
        asking: Asking,
        n_output: int,
        *,
        target: str,
        unit: str,
        per_output: bool = True,
        over_outputs: OverOutputs = "sum",
        budget: Budget | None = None,
    ) -> None:
        per_output = per_output and asking.road != "texts"
        self.n_units = len(prompt.units)
        self.n_targets = n_output if per_output else 1
        self.n_outputs = n_output if not per_output and over_outputs == "sum" and asking.road != "texts" else 1
        self.target, self.unit = target, unit
        self.offers: frozenset[Need] = frozenset({"value"})
        self.cost = Cost()
        self.notes: dict[str, Any] = {}
        self.errors: Tensor | None = None
        self.interactions: dict[tuple[int, int], Tensor] = {}
        self.removable = torch.tensor([not unit.special for unit in prompt.units])
        self.levels = tuple(map(torch.tensor, levels(prompt)))
        self.is_partial = False
        self.per_output = per_output
        self._absent, self._asking = absent, asking
        self._reduce = None if per_output else _REDUCED[over_outputs]
        self._budget = budget or Budget()
        seconds = self._budget.max_seconds
        self._until = None if seconds is None else monotonic() + seconds
        self._asked = Answers(self.n_units, self.n_targets)
        self._bounds: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch target"]:
        masks = (keep | ~self.removable).numpy()
        missing = self._asked.missing(masks)
        if self._budget.max_forwards is not None and missing:
            left = max(0, self._budget.max_forwards - self.cost.forwards)
            missing = missing[: left // len(self._absent(missing[0]))]
        if self._until is not None and monotonic() > self._until:
            missing = []
        if missing:
            self._asked.add(missing, self._compute(missing))
        found = torch.from_numpy(self._asked.targets(masks))
        self.is_partial |= bool(found.isnan().any())
        return found

    def prompts(self, masks: Sequence[np.ndarray]) -> list[Put]:
        """What these masks put to the endpoint."""
        return [prompt for mask in masks for prompt in self._absent(mask)]

    @property
    def evaluations(self) -> Evaluations:
        """Every mask that was asked and its values."""
        return self._asked.evaluations

    @property
    def censored(self) -> list[dict[str, Any]]:
        """The values that are not known but bounded, as JSON holds it.

        `evaluation` and `output` say which, `low` and `high` are in the target's unit; None is minus infinity.
        """
        found: list[dict[str, Any]] = []
        for index, mask in enumerate(self.evaluations.keep):
            low, high = self._bounds.get(mask.tobytes(), (np.zeros(0), np.zeros(0)))
            for output in np.flatnonzero(low != high).tolist():
                least = float(low[output]) if np.isfinite(low[output]) else None
                bounds = {"low": least, "high": float(high[output])}
                found.append({"evaluation": index, "output": output, **bounds})
        return found

    def lacks(self, need: Need) -> str:
        return "" if need in self.offers else _WITHOUT

    def gradients(
        self, reduce: Reduce, places: Sequence[Place] = (here,), rules: Rules = PLAIN
    ) -> Float[Tensor, "target unit"]:
        raise CapabilityError(f"Expected ablated prompts to be asked for, got gradients, which {_WITHOUT}.")

    def value_at(self, places: Sequence[Place]) -> Float[Tensor, "place target"]:
        raise CapabilityError(f"Expected ablated prompts to be asked for, got embedding space, which {_WITHOUT}.")

    def baseline(self, kind: Baseline, *, text: str = "", seed: int = 0) -> Float[Tensor, "token embed"]:
        raise CapabilityError(f"Expected ablated prompts to be asked for, got embedding space, which {_WITHOUT}.")

    def attention(self, step: Step) -> Float[Tensor, "target unit"]:
        raise CapabilityError(f"Expected ablated prompts to be asked for, got attention, which {_WITHOUT}.")

    def _compute(self, masks: Sequence[np.ndarray]) -> Float[np.ndarray, "mask target"]:
        """Every target after these masks; NaN where a budget ended before."""
        prompts = self.prompts(masks)
        heard = self._asking.hear(prompts)
        if self.target == "prob":
            heard = heard.exp()
        self.cost.forwards += int(np.isfinite(heard.numbers).all(1).sum())
        numbers, low, high = (self._by_mask(part, len(masks)) for part in (heard.numbers, heard.low, heard.high))
        for row in np.flatnonzero((low != high).any(1)).tolist():
            if np.isfinite(numbers[row]).all():
                self._bounds[masks[row].tobytes()] = low[row], high[row]
        return numbers

    def _by_mask(self, numbers: np.ndarray, n_masks: int) -> Float[np.ndarray, "mask target"]:
        """Reduced over outputs where that is asked, and the mean over what stands for absent units."""
        if self._reduce is not None:
            numbers = self._reduce(numbers, axis=1)[:, None]
        return numbers.reshape(n_masks, -1, numbers.shape[1]).mean(1)
