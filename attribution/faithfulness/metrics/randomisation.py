"""Randomisation: an explanation of a model must not survive that the model's weights are shuffled."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from attribution.errors import CapabilityError
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._again import ask_again, explain_again, local_model
from attribution.faithfulness.metrics._subject import subject_of
from attribution.models.local import LocalModel
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.ranking import correlate
from attribution.result import Attribution


@dataclass(frozen=True)
class Randomisation(Metric):
    """How much of the ranking survives where the model's weights are shuffled block by block, from 0 to 1.

    The mean of `correlations_by_block`: from the last block to the first the weights of each are shuffled, on top of
    those before; after each step the prompt is explained again, by the same method with the same seed and the result's
    own meaning of absent, and the size of Spearman's correlation of the scores with those of the unshuffled model is
    taken. Near 0 for scores that depend on what the model has learned, 1 for scores that do not; by chance it is about
    `0.8 / sqrt(units - 1)`. NaN where the scores are constant to begin with.

    Adebayo et al., "Sanity Checks for Saliency Maps" (2018), their cascading randomisation; weights are shuffled here,
    so that they are as large as before. It takes an explanation for every block and one more, and the memory of a copy
    of the model; the model itself is not touched.
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"
    low: ClassVar[float | None] = 0.0
    high: ClassVar[float | None] = 1.0
    perturbs: ClassVar[Literal["prompt", "embeddings", "weights"]] = "weights"
    is_asked_anew: ClassVar[bool] = True

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        return float(np.mean(correlations_by_block(result, problem, outputs=outputs, seed=seed)))


def correlations_by_block(
    result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0
) -> tuple[float, ...]:
    """The size of the rank correlation with the scores of the model as it is, from 0 to 1, as its blocks are shuffled.

    The first number is with the last block's weights shuffled, the last with those of all blocks. Scores that have
    become constant have no ranking left, which is 0; all are NaN where scores are constant to begin with. See
    `Randomisation`. Raises `CapabilityError` where the model does not run here, or has no list of blocks.
    """
    model, subject = local_model("randomisation", problem), subject_of(result, problem, outputs)
    shuffled = LocalModel(
        copy.deepcopy(model.model), model.tokenizer, name=model.name, memory_budget=model.memory_budget
    )
    blocks = blocks_of(shuffled)
    at_rest, *others = ask_again(shuffled, result, len(blocks) + 1)
    own = explain_again(at_rest, result, subject)
    if math.isnan(correlate(own, own)):
        return (math.nan,) * len(blocks)
    found: list[float] = []
    for number, (block, other) in enumerate(zip(reversed(blocks), others, strict=True)):
        shuffle(block, seed=[seed, number])
        correlation = abs(correlate(explain_again(other, result, subject), own))
        found.append(0.0 if math.isnan(correlation) else correlation)
    return tuple(found)


def blocks_of(model: LocalModel) -> list[nn.Module]:
    """The blocks of a model, the first one first; `CapabilityError` where it has no list of as many as it says."""
    for module in model.model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.n_layers:
            return list(module)
    raise CapabilityError(
        f"Expected a model with a list of its {model.n_layers} blocks, {model.name} has none, so that they cannot be "
        "shuffled one by one. Use another metric than randomisation."
    )


@torch.no_grad()
def shuffle(block: nn.Module, seed: Sequence[int]) -> None:
    """Puts the numbers of each of the block's parameters into a random order."""
    numbers = np.random.default_rng(seed)
    for parameter in block.parameters():
        generator = torch.Generator(parameter.device).manual_seed(int(numbers.integers(2**31)))
        order = torch.randperm(parameter.numel(), generator=generator, device=parameter.device)
        values: Any = parameter.flatten()[order]
        parameter.copy_(values.view_as(parameter))
