"""Gradients: one teacher-forced forward for all outputs, then batched vector-Jacobian products.

For N prompt tokens and T outputs the obvious way costs T forwards and T backwards through the parameters too. Here it
is one forward, with the parameters frozen and the head applied only where an output is predicted, and one batched
backward for all outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attribution.errors import NonFiniteError
from attribution.models.local import LocalModel
from attribution.target import TARGETS, Target

log = logging.getLogger(__name__)

CHUNK = 16
"""How many products are computed in one batch."""

Reduce = Callable[[Tensor, Tensor], Tensor]
"""`(gradient [row, token, embed], embeddings [token, embed]) -> [row, token]`, both in at least float32."""


def gradients(
    model: LocalModel,
    prompt: Sequence[int],
    output: Sequence[int],
    target: Target,
    reduce: Reduce,
    *,
    weights: Float[Tensor, "row output"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "row token"], Float[Tensor, " output"]]:
    """Reduced gradients of weighted sums of the outputs' targets, and the outputs' log-probabilities, on the CPU.

    Row r is the gradient of `sum(weights[r, t] * target[t])` with respect to the embedding of every token of prompt and
    output, reduced to a number per token by `reduce`. By default there is one row per output, of that output alone.
    Gradients with respect to the last token, which predicts nothing, are 0.

    Raises `NonFiniteError` where a target or a gradient is NaN or infinite.
    """
    with torch.inference_mode(False), torch.enable_grad(), model.borrowed():
        ids = torch.tensor([*prompt, *output], device=model.device)
        rows = None if target.reads_all_positions else torch.arange(len(prompt) - 1, len(ids) - 1)
        # The last output token is never read, only predicted.
        logits, leaf = model.logits_with_leaf(ids[:-1], rows)
        outputs = ids[len(prompt) :].to(logits.device)
        scores = target.score(logits, outputs)
        logprobs = TARGETS["logprob"].score(logits.detach()[-len(output) :], outputs)
        if weights is None:
            weights = torch.eye(len(output))
        weights = weights.to(scores)
        embeddings = leaf.detach()[0].float()
        sizes = _sizes(scores, logits, weights) if leaf.dtype == torch.float16 else torch.ones(len(weights))
        reduced = [reduce(part[:, 0], embeddings) for part in _products(scores, leaf, weights, sizes, chunk)]
        table = torch.nn.functional.pad(torch.cat(reduced), (0, 1))
    if not (table.isfinite().all() and scores.isfinite().all()):
        raise NonFiniteError(
            "A target or a gradient of this model is NaN or infinite. In float16 load the model with "
            "dtype=torch.bfloat16 or torch.float32; otherwise check that the output is possible at all."
        )
    return table.cpu(), logprobs.cpu()


def _sizes(
    scores: Float[Tensor, " output"], logits: Float[Tensor, "position vocabulary"], weights: Float[Tensor, "row output"]
) -> Float[Tensor, " row"]:
    """How large each row's gradient is where it enters the model, so that float16 can carry it whatever the target.

    The gradient of a probability near 0 or 1 is smaller than float16 has numbers for.
    """
    (entering,) = torch.autograd.grad(scores.sum(), logits, retain_graph=True)
    by_output = entering.abs().amax(1)
    by_output = by_output if len(by_output) == len(scores) else by_output.amax().expand(len(scores))
    return (weights.abs() * by_output).amax(1).clamp(min=1e-30)


def _products(
    scores: Float[Tensor, " output"],
    leaf: Float[Tensor, "1 token embed"],
    weights: Float[Tensor, "row output"],
    sizes: Float[Tensor, " row"],
    chunk: int,
) -> Iterator[Float[Tensor, "part 1 token embed"]]:
    """The gradient of every row of weighted scores in float32, a chunk of rows at a time, computed at size 1."""
    batched = True
    scaled = weights / sizes.to(weights)[:, None]
    for rows, size in zip(scaled.split(chunk), sizes.to(leaf.device).split(chunk), strict=True):
        if batched and len(rows) > 1:
            try:
                (part,) = torch.autograd.grad(scores, leaf, rows, retain_graph=True, is_grads_batched=True)
                yield part.float() * size[:, None, None, None]
                continue
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # Some operation has no batching rule: from here on one product at a time.
                log.debug("no batched vector-Jacobian products here: %s", error)
                batched = False
        for row, one in zip(rows, size, strict=True):
            yield torch.autograd.grad(scores, leaf, row, retain_graph=True)[0][None].float() * one
