"""What a token costs on a model, counted from its weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import torch

from attribution.models.local import LocalModel


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass: in the blocks per token, in attention per token and token that it
    looks at, and in the head per row of logits.
    """

    token: float
    pair: float
    row: float

    def forward(self, tokens: float | int, pairs: float | int, rows: float | int) -> float:
        """Those of so many tokens, that look at so many others altogether, with so many rows of logits."""
        return self.token * tokens + self.pair * pairs + self.row * rows


def count_flops(model: LocalModel) -> Flops:
    """Two operations for each weight of a matrix that a token meets, of experts only those that a router chooses."""
    config = model.model.config.get_text_config()
    share = _share_of_experts(config) if model.is_mixture else 1.0
    head = model.model.get_output_embeddings()
    row = 0 if head is None else int(head.weight.numel())
    apart = {id(cast(Any, layer).weight) for layer in (model.embedding_layer, head) if layer is not None}
    weights = 0.0
    for name, parameter in model.model.named_parameters():
        if parameter.ndim < 2 or id(parameter) in apart or "embed" in name or ".wpe." in name:
            continue
        weights += parameter.numel() * (share if "expert" in name else 1.0)
    heads = int(getattr(config, "num_attention_heads", 1))
    width = int(getattr(config, "head_dim", None) or model.width // heads) * heads
    return Flops(token=2.0 * weights, pair=4.0 * width * model.n_layers, row=2.0 * row)


def measure_speed(model: LocalModel, tokens: int = 128) -> float:
    """About how many operations it does in a second, by a random text of so many tokens, read twice."""
    length = min(tokens, model.context_window or tokens)
    drawn = torch.randint(model.vocabulary_size, (1, length), generator=torch.Generator().manual_seed(0))
    ids = drawn.to(model.device)
    with torch.no_grad(), model.borrowed():
        times: list[float] = []
        for _ in range(2):  # the first time is slower than all others
            start = time.perf_counter()
            float(model.logits_of(ids, torch.tensor([length - 1])).sum())  # until the device is done
            times.append(time.perf_counter() - start)
    return count_flops(model).forward(length, length**2 / 2, 1) / times[-1]


def _share_of_experts(config: Any) -> float:
    """How much of all experts a token meets."""
    chosen = next((int(getattr(config, n)) for n in ("num_experts_per_tok", "moe_topk") if getattr(config, n, 0)), 1)
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return min(1.0, chosen / max(int(getattr(config, name, 0) or 0) for name in names))
