"""Attention folded layer by layer, as attention rollout needs it, without a [layer, head, token, token] stack.

Rollout (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, https://arxiv.org/abs/2005.00928)
multiplies the attention matrices of all layers. A few rows of that product need no product of square matrices: rows
times the last layer's matrix, then times the one before it, are always only rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attribution.errors import CapabilityError, NonFiniteError
from attribution.models.local import LocalModel

Step = Callable[[Float[Tensor, "row token"], Float[Tensor, "row token"]], Float[Tensor, "row token"]]
"""`(relevance above a layer, relevance @ attention of that layer) -> relevance below it`, all in float32 on the CPU."""

_SOFTMAX: tuple[Any, ...] = (functional.softmax, torch.softmax, Tensor.softmax)


@torch.no_grad()
def fold_attention(
    model: LocalModel,
    ids: Sequence[int],
    relevance: Float[Tensor, "row token"],
    step: Step,
    *,
    block: int = 256,
) -> Float[Tensor, "row token"]:
    """What `step` makes of `relevance` on its way from the last layer to the input, in float32 on the CPU.

    At every layer, from the last to the first, `relevance = step(relevance, relevance @ attention)`, where `attention`
    [token, token] is that layer's, averaged over its heads; row t says what token t reads. `relevance` [row, token]
    spreads over the tokens of `ids`; only attention of tokens that have some is computed.

    One forward pass keeps the queries and keys of every layer, as a K/V cache keeps keys and values; from them
    attention is computed again in float32, [head, block, token] at a time. Models with eager attention (Gemma 2, or any
    that was loaded with `attn_implementation="eager"`) build [head, token, token] themselves, one layer at a time; its
    mean over heads waits on the CPU for its turn, 4 * layers * tokens^2 bytes in all.

    What mixes tokens other than attention (recurrent or convolutional parts beside it) is not seen.

    Raises `CapabilityError` where not exactly one attention per layer can be read, `ModelError` for a model in training
    mode and `NonFiniteError` where attention is NaN.
    """
    with model.borrowed(), _Watch(len(ids)) as watch:
        # Only attention is of interest; a single row spares the head.
        model.logits(torch.tensor([ids], device=model.device), torch.tensor([len(ids) - 1]))
    layers = watch.layers
    expected = int(model.model.config.get_text_config().num_hidden_layers)
    if len(layers) != expected:
        raise CapabilityError(
            f"Expected attention that can be read once in every layer of {model.name}, saw it {len(layers)} times in "
            f'{expected} layers. Load the model with attn_implementation="sdpa" or "eager"; if it already is, its '
            "kind of attention cannot be read: use leave_one_out."
        )
    relevance = relevance.to("cpu", torch.float32, copy=True)
    while layers:  # a layer's queries and keys are freed as soon as it is done
        relevance = step(relevance, _attended(relevance, layers.pop(), block))
    return relevance


def _attended(relevance: Float[Tensor, "row token"], layer: _Kept, block: int) -> Float[Tensor, "row token"]:
    """`relevance @ attention`, from the rows of attention that count."""
    attended = torch.zeros_like(relevance)
    asked = (relevance != 0).any(0).nonzero()[:, 0]
    for start in range(0, len(asked), block):
        queries = asked[start : start + block]
        attention = layer.rows(queries)
        attended += (relevance[:, queries].to(attention.device) @ attention).cpu()
    if attended.isnan().any():
        raise NonFiniteError(
            "The attention of this model is NaN. Check the weights; in float16 load the model with "
            "dtype=torch.bfloat16 or torch.float32."
        )
    return attended


@dataclass(frozen=True)
class _Scaled:
    """What a call of scaled_dot_product_attention was given: enough to compute any row of its attention.

    Where there are fewer keys than queries, `head // group` consecutive heads share one (GQA).
    """

    query: Float[Tensor, "head token width"]
    key: Float[Tensor, "group token width"]
    mask: Tensor | None
    causal: bool
    scale: float

    def rows(self, asked: Int[Tensor, " asked"]) -> Float[Tensor, "asked token"]:
        """What the asked tokens (ascending, at least one) read, averaged over heads."""
        heads, tokens, width = self.query.shape
        end = int(asked[-1]) + 1 if self.causal else tokens  # no key after it is read
        asked = asked.to(self.query.device)
        query = self.query[:, asked].float() * self.scale
        key = self.key[:, :end].float()
        scores = (query.reshape(len(key), -1, width) @ key.mT).reshape(heads, len(asked), end)
        if self.causal:
            scores.masked_fill_(torch.arange(end, device=asked.device) > asked[:, None], -torch.inf)
        if self.mask is not None:
            mask = self.mask.expand(*self.mask.shape[:-2], tokens, tokens)[..., asked, :end]
            mask = mask[0] if mask.ndim == 4 else mask
            scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
        return functional.pad(scores.softmax(-1).mean(0), (0, tokens - end))


@dataclass(frozen=True)
class _Averaged:
    """Attention that the model computed itself, averaged over heads."""

    attention: Float[Tensor, "token token"]

    def rows(self, asked: Int[Tensor, " asked"]) -> Float[Tensor, "asked token"]:
        """What the asked tokens read."""
        return self.attention[asked]


_Kept = _Scaled | _Averaged


class _Watch(TorchFunctionMode):
    """Sees every attention over all `tokens` that is computed while it is entered, in this thread, and changes none."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.layers: list[_Kept] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            self._see_call(*args, **kwargs)
        elif func in _SOFTMAX:
            self._see_weights(answer, *args[1:2], **kwargs)
        return answer

    def _see_call(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> None:  # fmt: skip
        if self.tokens == 1 and query.ndim == key.ndim == 4:  # transformers may pack heads into the axis of tokens here
            query, attn_mask = query.flatten(1, 2)[:, :, None], None
        shapes = [(tensor.ndim, len(tensor), tensor.shape[-2]) for tensor in (query, key)]
        if shapes != [(4, 1, self.tokens)] * 2:
            return
        # Contiguous: where one matrix gives queries, keys and values, a view would keep the values too.
        kept = query[0].contiguous(), key[0].contiguous()
        factor: float = query.shape[-1] ** -0.5 if scale is None else scale
        self.layers.append(_Scaled(*kept, attn_mask, is_causal, factor))

    def _see_weights(self, weights: Tensor, dim: int | None = None, **_: Any) -> None:
        if dim not in (-1, 3) or weights.ndim != 4 or len(weights) != 1 or weights.shape[2:] != (self.tokens,) * 2:
            return
        mean = weights[0].mean(0, dtype=torch.float32)
        # What a softmax in half precision lacks of 1, or has more, is rounding.
        self.layers.append(_Averaged((mean / mean.sum(-1, keepdim=True)).cpu()))
