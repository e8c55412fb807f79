"""Target: the one number per output token that is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from attribution.errors import InputError


def _logit(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    return logits.gather(-1, ids.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def _logprob(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    return _logit(logits, ids) - logits.logsumexp(-1)


def _prob(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    return _logit(logits.softmax(-1), ids)


def _entropy(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    # xlogy semantics without its gradient's infinity: a token of probability 0 adds nothing.
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)


@dataclass(frozen=True)
class Target:
    """A scalar of the model's next-token distribution at each output token.

    `name` is what a person types, `unit` is what the scalar is measured in, `score` computes it.
    """

    name: str
    unit: str
    score: Callable[[Tensor, Tensor], Tensor]
    """`(logits [*batch, output, vocabulary], ids [output]) -> [*batch, output]`, differentiable."""
    reads_all_positions: bool = False
    """Whether `score` needs the logits of every position before the last token, not only of those that predict an
    output; it then gets `[token - 1, vocabulary]` and works for gradients alone."""


TARGETS = {
    target.name: target
    for target in (
        Target("logprob", "nats", _logprob),
        Target("prob", "probability", _prob),
        Target("logit", "logits", _logit),
        Target("entropy", "nats", _entropy),
    )
}


def named_target(name: str) -> Target:
    """The target of this name.

    - `"logprob"`: the log-probability of the output token, in nats.
    - `"prob"`: its probability, from 0 to 1.
    - `"logit"`: its logit, before the softmax.
    - `"entropy"`: the entropy of the whole next-token distribution at that place, in nats.

    Raises `InputError` for any other name.
    """
    if not isinstance(name, str) or name not in TARGETS:
        raise InputError(f"Expected a target out of {', '.join(map(repr, TARGETS))}, got {name!r}.")
    return TARGETS[name]
