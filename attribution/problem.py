"""Problem: a model, a prompt and a target, reduced to what attribution methods may ask.

Methods see units and numbers to be explained, never tokenizers, padding, devices or batches. Units are the parts of the
prompt and, where asked for, the output tokens after them, since each output token is an input of the later ones. A
target is the number of one output token, or one number for all of them. `local_problem` has the one of a model that
runs here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribution.checks import check_count
from attribution.engine.attention import Step
from attribution.engine.backward import Reduce
from attribution.engine.forward import Place, here
from attribution.engine.rules import ATTN_LRP, CP_LRP, PLAIN, Rules, gim
from attribution.errors import InputError
from attribution.evaluations import Evaluations

__all__ = [  # what methods need of the engines is named here, so that they import nothing below
    "ATTN_LRP",
    "CP_LRP",
    "PLAIN",
    "Baseline",
    "Budget",
    "Cost",
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


OverOutputs = Literal["sum", "mean", "min"]
"""What is made of the output tokens' numbers where a single one is asked."""


def check_over_outputs(over_outputs: object) -> OverOutputs:
    """The same; `InputError` where it is none of these."""
    known = get_args(OverOutputs)
    if not isinstance(over_outputs, str) or over_outputs not in known:
        raise InputError(f"Expected over_outputs out of {', '.join(map(repr, known))}, got {over_outputs!r}.")
    return cast(OverOutputs, over_outputs)


@dataclass(frozen=True)
class Budget:
    """What may be spent on ablated prompts; None where there is no limit."""

    max_forwards: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None


def check_budget(max_forwards: object, max_tokens: object, max_seconds: object) -> Budget:
    """The budget; `InputError` where a limit is no number above 0."""
    counts = {"max_forwards": max_forwards, "max_tokens": max_tokens}
    given: dict[str, Any] = {name: None if n is None else check_count(name, n) for name, n in counts.items()}
    if max_seconds is not None:
        try:
            seconds = math.nan if isinstance(max_seconds, (str, bytes, bool)) else float(cast(Any, max_seconds))
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InputError(f"Expected max_seconds as a number above 0, got {max_seconds!r}.")
        given["max_seconds"] = seconds
    return Budget(**given)


@dataclass
class Cost:
    """What was, or would be, computed. `tokens` counts those of forward passes."""

    forwards: int = 0
    backwards: int = 0
    tokens: int = 0


class Problem(ABC):
    """What a method may ask. Answers are on the CPU and in at least float32; embeddings are where the model is."""

    n_units: int
    """The units of the prompt, and after them the output tokens where these are units."""
    n_targets: int
    """The numbers that are explained: one for each output token, or one for all of them."""
    n_outputs: int
    """How many output tokens each target sums over: 1 for a mean or a minimum."""
    target: str
    """What is read of an output token: a name out of `target.TARGETS`, "contrast", or "semantic"."""
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


class ModelProblem(Problem):
    """A problem of a model, which keeps what was asked of it."""

    unit: str
    """What the target is measured in."""
    is_partial: bool
    """Whether the budget ended before everything that was asked was known."""

    @property
    @abstractmethod
    def evaluations(self) -> Evaluations:
        """Every mask that was asked and its values, those too that were known before."""
