"""Problem: a model, a prompt and a target, reduced to what attribution methods may ask.

Methods see units and outputs, never tokenizers, padding, devices or batches. Units are the parts of the prompt and,
where asked for, the output tokens after them, since each output token is an input of the later ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribution.engine import ablation, backward
from attribution.models.local import LocalModel
from attribution.prompt import Prompt
from attribution.target import TARGETS, Target

Need = Literal["value", "gradients"]
"""What a method may need of a problem: scores of ablated prompts, or gradients."""


@dataclass
class Cost:
    """What was, or would be, computed. `tokens` counts those of forward passes."""

    forwards: int = 0
    backwards: int = 0
    tokens: int = 0


class Problem(ABC):
    """What a method may ask. Everything is on the CPU and in float32.

    `n_units` counts the units of the prompt and after them the output tokens that are units (none or all);
    `n_outputs` counts output tokens; `offers` says which of the two questions below it can answer; `cost` grows with
    every question.
    """

    n_units: int
    n_outputs: int
    offers: frozenset[Need]
    cost: Cost

    @abstractmethod
    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch output"]:
        """The target of each output token when only the kept units are there, in the target's unit."""

    @abstractmethod
    def gradients(
        self, reduce: backward.Reduce, weights: Float[Tensor, "row output"] | None = None
    ) -> Float[Tensor, "row unit"]:
        """Gradients of weighted sums of the outputs' targets with respect to the token embeddings, per unit.

        `reduce(gradient [row, token, embed], embeddings [token, embed]) -> [row, token]` makes a number of each
        token's gradient; those of a unit's tokens are summed. Without `weights`, row t is output t alone.
        """

    def everything(self) -> Bool[Tensor, "1 unit"]:
        """The mask that keeps every unit."""
        return torch.ones(1, self.n_units, dtype=torch.bool)


class LocalProblem(Problem):
    """A prompt and an output on a model of transformers; an absent unit is deleted.

    Special tokens (BOS) are never removed, whatever a mask says. `output` are the ids whose target is explained; with
    `output_units` each of them is a unit too.
    """

    def __init__(
        self,
        model: LocalModel,
        prompt: Prompt,
        output: tuple[int, ...],
        target: Target,
        *,
        output_units: bool = False,
        batch_tokens: int = ablation.BATCH_TOKENS,
    ) -> None:
        model.check_length(len(prompt.encoding.ids), len(output))
        self.n_units = len(prompt.units) + len(output) * output_units
        self.n_outputs = len(output)
        self.offers: frozenset[Need] = frozenset({"value", "gradients"})
        self.cost = Cost()
        self._model = model
        self._prompt = prompt
        self._output = output
        self._target = target
        self._batch_tokens = batch_tokens
        self._logprobs: Tensor | None = None
        spans = [unit.tokens for unit in prompt.units]
        if output_units:
            spans += [(i, i + 1) for i in range(len(prompt.encoding.ids), len(prompt.encoding.ids) + len(output))]
        owners = torch.full((len(prompt.encoding.ids) + len(output),), -1)
        for index, (start, end) in enumerate(spans):
            owners[start:end] = index
        self._owners = owners
        """The unit of every token of prompt and output; -1 for an output token that is no unit."""
        self._always = owners < 0
        self._always[: len(prompt.encoding.ids)] = torch.tensor(prompt.encoding.special)
        """The tokens that no mask removes."""

    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch output"]:
        masks, same = (keep[:, self._owners] | self._always).unique(dim=0, return_inverse=True)
        values, spent = ablation.ablated_scores(
            self._model,
            self._prompt.encoding.ids,
            self._output,
            masks,
            self._target,
            batch_tokens=self._batch_tokens,
        )
        self.cost.forwards += len(masks)
        self.cost.tokens += spent
        whole = masks.all(1)
        if self._target is TARGETS["logprob"] and whole.any():
            self._logprobs = values[whole][0]
        return values[same]

    def logprobs(self) -> Float[Tensor, " output"]:
        """The log-probability of each output token after the whole prompt, in nats."""
        if self._logprobs is not None:  # a question before has computed them along the way
            return self._logprobs
        ids = self._prompt.encoding.ids
        whole = torch.ones(1, len(self._owners), dtype=torch.bool)
        values, spent = ablation.ablated_scores(self._model, ids, self._output, whole, TARGETS["logprob"])
        self.cost.forwards += 1
        self.cost.tokens += spent
        self._logprobs = values[0]
        return self._logprobs

    def gradients(
        self, reduce: backward.Reduce, weights: Float[Tensor, "row output"] | None = None
    ) -> Float[Tensor, "row unit"]:
        ids = self._prompt.encoding.ids
        table, self._logprobs = backward.gradients(
            self._model, ids, self._output, self._target, reduce, weights=weights
        )
        self.cost.forwards += 1
        self.cost.backwards += len(table)
        self.cost.tokens += len(ids) + len(self._output) - 1
        owned = self._owners >= 0
        return torch.zeros(len(table), self.n_units).index_add_(1, self._owners[owned], table[:, owned])
