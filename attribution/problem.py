"""Problem: a model, a prompt and a target, reduced to what attribution methods may ask.

Methods see units and numbers to be explained, never tokenizers, padding, devices or batches. Units are the parts of the
prompt and, where asked for, the output tokens after them, since each output token is an input of the later ones. A
target is the number of one output token, or their sum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribution.engine import ablation, attention, backward, forward
from attribution.engine.attention import Step
from attribution.engine.backward import Reduce
from attribution.engine.forward import Place, here
from attribution.engine.probe import probe
from attribution.engine.rules import ATTN_LRP, CP_LRP, PLAIN, Rules, gim
from attribution.errors import InputError
from attribution.models.local import LocalModel
from attribution.prompt import Prompt
from attribution.target import TARGETS, Reading

__all__ = [  # what methods need of the engines is named here, so that they import nothing below
    "ATTN_LRP",
    "CP_LRP",
    "PLAIN",
    "Baseline",
    "Cost",
    "LocalProblem",
    "Need",
    "Place",
    "Problem",
    "Reduce",
    "Rules",
    "Step",
    "gim",
    "here",
]

Need = Literal["value", "gradients", "attention"]
"""What a method may need of a problem: scores of ablated prompts, gradients, or the model's attention."""

Baseline = Literal["zero", "padding", "mean", "text", "random"]
"""What stands for an absent token in embedding space: nothing, the padding token, the mean of all tokens, the tokens of
a given text, or tokens drawn at random from the vocabulary."""


@dataclass
class Cost:
    """What was, or would be, computed. `tokens` counts those of forward passes."""

    forwards: int = 0
    backwards: int = 0
    tokens: int = 0


class Problem(ABC):
    """What a method may ask. What it answers is on the CPU and in at least float32; embeddings are where the model is."""

    n_units: int
    """The units of the prompt, and after them the output tokens where these are units."""
    n_targets: int
    """The numbers that are explained: one for each output token, or one for their sum."""
    n_outputs: int
    """How many output tokens each target sums over."""
    target: str
    """What is read of an output token: a name out of `target.TARGETS`, or "contrast"."""
    removable: Bool[Tensor, " unit"]
    """The units that a mask can remove. Others (BOS) stay, whatever a mask says."""
    levels: tuple[Int[Tensor, " unit"], ...]
    """How units belong together, from coarse to fine: on each level the number of every unit's group. Groups are
    contiguous, numbered in order, and divide those of the level before."""
    offers: frozenset[Need]
    """The questions that it can answer."""
    cost: Cost
    """What was spent so far; it grows with every question."""

    notes: dict[str, Any]
    """Here a method leaves what it found out about its own scores, as JSON holds it."""
    errors: Float[Tensor, "target unit"] | None
    """Here a method that samples leaves the standard errors of its scores."""
    interactions: dict[tuple[int, int], Float[Tensor, " target"]]
    """Here a method that looks for them leaves what pairs of units do beyond what either does alone."""

    @abstractmethod
    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch target"]:
        """Every target when only the kept units are there, in the target's unit.

        The same mask is computed once, however often it is asked. A row is NaN where a budget ran out before it; the
        rows asked first are computed first.
        """

    @abstractmethod
    def gradients(
        self, reduce: Reduce, places: Sequence[Place] = (here,), rules: Rules = PLAIN
    ) -> Float[Tensor, "target unit"]:
        """Gradients of every target with respect to the token embeddings, summed over places, per unit.

        `reduce(gradient [target, token, embed], embeddings [token, embed]) -> [target, token]` makes a number of each
        token's gradient; those of a unit's tokens are summed. A place says where in embedding space the gradient is
        taken and what it is multiplied by; only the tokens of units ever move, special tokens never. The rules say
        what the backward pass computes in place of the derivative.
        """

    @abstractmethod
    def value_at(self, places: Sequence[Place]) -> Float[Tensor, "place target"]:
        """Every target at places of embedding space, as `gradients` takes them."""

    @abstractmethod
    def baseline(self, kind: Baseline, *, text: str = "", seed: int = 0) -> Float[Tensor, "token embed"]:
        """The embeddings of a text that says nothing (see `Baseline`); what never moves is as it is.

        A `text` of one token stands for every unit; a longer one must have as many tokens as the prompt has, special
        ones not counted, and leaves output tokens as they are. Raises `InputError` for any other.
        """

    @abstractmethod
    def attention(self, step: Step) -> Float[Tensor, "target unit"]:
        """What the positions that predict the outputs owe to every unit, followed down through the blocks.

        From the last block to the first, `step(relevance [row, token], attended [row, token]) -> [row, token]` joins
        what a row had before a block with what the block's attention, averaged over its heads, hands on.
        """

    def lacks(self, need: Need) -> str:
        """Why it cannot answer such a question, as in "gradients, which this model ..."; empty where it can."""
        return "" if need in self.offers else "this model does not give"

    def everything(self) -> Bool[Tensor, "1 unit"]:
        """The mask that keeps every unit."""
        return torch.ones(1, self.n_units, dtype=torch.bool)


class LocalProblem(Problem):
    """A prompt and a reading of what follows it, on a model of transformers; an absent unit is deleted.

    Special tokens (BOS) are never removed, whatever a mask says. With `output_units` each token of the output is a unit
    too. Without `per_output` there is one target, the sum over the output tokens.
    """

    def __init__(
        self,
        model: LocalModel,
        prompt: Prompt,
        reading: Reading,
        *,
        output_units: bool = False,
        per_output: bool = True,
        tokens_at_once: int | None = None,
    ) -> None:
        n_prompt, n_output = len(prompt.encoding.ids), len(reading.output)
        model.check_length(n_prompt, max(map(len, reading.texts)))
        self.n_units = len(prompt.units) + n_output * output_units
        self.n_targets = n_output if per_output else 1
        self.n_outputs = 1 if per_output else n_output
        self.target = reading.target.name if reading.is_plain else "contrast"
        self.offers: frozenset[Need] = frozenset({"value", "gradients", "attention"})
        self.cost = Cost()
        self.notes: dict[str, Any] = {}
        self.errors: Tensor | None = None
        self.interactions: dict[tuple[int, int], Tensor] = {}
        self._model = model
        self._prompt = prompt
        self._reading = reading
        self._rows = (
            torch.eye(n_output, dtype=torch.float32) if per_output else torch.ones(1, n_output, dtype=torch.float32)
        )
        """What each target is of the output tokens' numbers."""
        self._tokens_at_once = tokens_at_once
        self._logprobs: Tensor | None = None
        spans = [unit.tokens for unit in prompt.units]
        if output_units:
            spans += [(i, i + 1) for i in range(n_prompt, n_prompt + n_output)]
        owners = torch.full((n_prompt + n_output,), -1)
        for index, (start, end) in enumerate(spans):
            owners[start:end] = index
        self._owners = owners
        """The unit of every token of prompt and output; -1 for an output token that is no unit."""
        self.removable = torch.tensor([not unit.special for unit in prompt.units] + [True] * n_output * output_units)
        self.levels: tuple[Tensor, ...] = ()
        self._always = owners < 0
        self._always[:n_prompt] = torch.tensor(prompt.encoding.special)
        """The tokens that no mask removes and no place moves."""

    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch target"]:
        masks, same = (keep[:, self._owners] | self._always).unique(dim=0, return_inverse=True)
        read = torch.cat([self._read_ablated(masks, text) for text in range(len(self._reading.texts))], dim=1)
        order = [item for text in range(len(self._reading.texts)) for item in self._items(text)]
        values = read @ (self._rows @ self._reading.weights)[:, order].T
        whole = masks.all(1)
        if self._reading.is_plain and self._reading.target is TARGETS["logprob"] and whole.any():
            self._logprobs = read[whole][0]
        return values[same]

    def _items(self, text: int) -> list[int]:
        """The places of the reading that stand in a text."""
        return [item for item, (where, _) in enumerate(self._reading.places) if where == text]

    def _read_ablated(self, masks: Bool[Tensor, "batch token"], text: int) -> Float[Tensor, "batch item"]:
        """What is read in one of the texts. Its tokens are removed where they are still the output's own."""
        ids, reading = self._reading.texts[text], self._reading
        n_prompt = len(self._prompt.encoding.ids)
        keep = torch.ones(len(masks), n_prompt + len(ids), dtype=torch.bool)
        agreed = reading.shared[text]
        keep[:, : n_prompt + agreed] = masks[:, : n_prompt + agreed]
        items = self._items(text)
        found, spent = ablation.ablated_scores(
            self._model,
            self._prompt.encoding.ids,
            ids,
            keep,
            reading.target,
            read_at=[reading.places[item][1] for item in items],
            read_ids=[reading.ids[item] for item in items],
            batch_tokens=self._tokens_at_once or ablation.BATCH_TOKENS,
        )
        self.cost.forwards += len(keep)
        self.cost.tokens += spent
        return found

    def logprobs(self) -> Float[Tensor, " output"]:
        """The log-probability of each output token after the whole prompt, in nats."""
        if self._logprobs is None:  # else a question before has computed them along the way
            ids = self._prompt.encoding.ids
            whole = torch.ones(1, len(self._owners), dtype=torch.bool)
            found, spent = ablation.ablated_scores(self._model, ids, self._reading.output, whole, TARGETS["logprob"])
            self.cost.forwards += 1
            self.cost.tokens += spent
            self._logprobs = found[0]
        return self._logprobs

    def lacks(self, need: Need) -> str:
        return probe(self._model).fault if need == "gradients" else super().lacks(need)

    def gradients(
        self, reduce: Reduce, places: Sequence[Place] = (here,), rules: Rules = PLAIN
    ) -> Float[Tensor, "target unit"]:
        ids = self._prompt.encoding.ids
        table, logprobs = backward.gradients(
            self._model,
            ids,
            self._reading,
            reduce,
            rows=self._rows,
            places=places,
            vary=~self._always,
            rules=rules,
            tokens_at_once=self._tokens_at_once,
        )
        self._logprobs = self._logprobs if logprobs is None else logprobs
        self._count(len(places), len(table))
        return self._by_unit(table)

    def value_at(self, places: Sequence[Place]) -> Float[Tensor, "place target"]:
        found, logprobs = forward.values(
            self._model, self._prompt.encoding.ids, self._reading, places, vary=~self._always
        )
        if places[0] is here:
            self._logprobs = logprobs
        self._count(len(places), 0)
        return found @ self._rows.T

    def _count(self, n_places: int, n_rows: int) -> None:
        texts = self._reading.texts
        self.cost.forwards += n_places * len(texts)
        self.cost.backwards += n_places * n_rows * len(texts)
        self.cost.tokens += n_places * sum(len(self._prompt.encoding.ids) + len(text) - 1 for text in texts)

    def _by_unit(self, table: Float[Tensor, "target token"]) -> Float[Tensor, "target unit"]:
        owned = self._owners >= 0
        sums = torch.zeros(len(table), self.n_units, dtype=torch.float32)
        return sums.index_add_(1, self._owners[owned], table[:, owned].float())

    def baseline(self, kind: Baseline, *, text: str = "", seed: int = 0) -> Float[Tensor, "token embed"]:
        model, n_read = self._model, len(self._owners) - 1
        own = model.embed([*self._prompt.encoding.ids, *self._reading.output][:-1])
        if kind == "mean":
            found = model.mean_embedding()
        elif kind == "padding":
            found = model.embed([model.padding_id])
        elif kind == "random":
            drawn = torch.randint(model.vocabulary_size, (n_read,), generator=torch.Generator().manual_seed(seed))
            found = model.embed(drawn.tolist())
        elif kind == "text":
            found = model.embed(self._stand_ins(text)[:n_read])
        else:
            found = own.new_zeros(())
        with torch.inference_mode(False):
            return torch.where(self._always[:n_read, None].to(own.device), own, found)

    def _stand_ins(self, text: str) -> list[int]:
        """The ids that a text puts in the place of prompt and output."""
        encoding = self._prompt.encoding
        given = self._model.check_ids(self._model.tokenizer(text, add_special_tokens=False)["input_ids"])
        own = sum(not special for special in encoding.special)
        if len(given) == 1:
            return list(given) * len(self._owners)
        if len(given) != own:
            raise InputError(
                f"Expected a baseline text of 1 token or of {own}, as many as the prompt has, got {len(given)} in "
                f"{text!r}."
            )
        rest = iter(given)
        prompt = [i if special else next(rest) for i, special in zip(encoding.ids, encoding.special, strict=True)]
        return [*prompt, *self._reading.output]

    def attention(self, step: Step) -> Float[Tensor, "target unit"]:
        ids = [*self._prompt.encoding.ids, *self._reading.output][:-1]
        first = len(self._prompt.encoding.ids) - 1
        asked = torch.zeros(len(self._rows), len(ids), dtype=torch.float32)
        asked[:, first:] = self._rows
        relevance = attention.fold_attention(self._model, ids, asked, step)
        self.cost.forwards += 1
        self.cost.tokens += len(ids)
        return self._by_unit(torch.nn.functional.pad(relevance, (0, 1)))
