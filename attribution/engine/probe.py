"""What is found out about a model once: whether its gradients are true, and how much memory they keep."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attribution.models.local import Graph, LocalModel

STEPS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Lengths of the finite differences, relative to the embeddings; the best one counts."""


@dataclass(frozen=True)
class Probe:
    """What short texts have shown of a model.

    `fault` says what is wrong with its gradients, to follow "gradients, which"; empty where they are true. `constant`,
    `linear` and `quadratic` are the bytes that a forward keeps for the backward pass, at all, per token, and per pair
    of tokens of a text.
    """

    fault: str
    constant: float
    linear: float
    quadratic: float

    def bytes_kept(self, texts: int, tokens: int) -> float:
        """About how much a forward over texts of this length keeps for the backward pass."""
        return self.constant + texts * tokens * (self.linear + self.quadratic * tokens)


_known: WeakKeyDictionary[nn.Module, tuple[Hashable, Probe]] = WeakKeyDictionary()


def probe(model: LocalModel) -> Probe:
    """The probe of a model: two short forwards and one backward pass the first time, then remembered.

    A model whose parameters were exchanged since (quantised, say, or wrapped by an adapter) is probed again.
    """
    state = model.state
    known = _known.get(model.model)
    if known is None or known[0] != state:
        known = _known[model.model] = (state, _probe(model))
    return known[1]


def _probe(model: LocalModel) -> Probe:
    longest = min(model.context_window or 32, 32)
    lengths = (longest // 4, longest // 2, longest) if longest >= 4 else (longest,)
    ids = _ordinary_ids(model, longest)[None]
    with torch.inference_mode(False), torch.enable_grad(), model.borrowed():
        kept = [_kept(model, ids[:, :length]) for length in lengths]
        fault = _fault(model, ids[:, : lengths[0]])
    terms = np.polynomial.polynomial.polyfit(lengths, kept, len(lengths) - 1)
    constant, linear, quadratic = np.resize(np.append(np.maximum(terms, 0), [0, 0]), 3).tolist()
    return Probe(fault, constant, linear, quadratic)


def _fault(model: LocalModel, ids: Tensor) -> str:
    """What is wrong with the gradients of this model, found out on this text."""
    ratio = _slope_ratio(model, ids)
    exact = model.model.dtype in (torch.float32, torch.float64)
    if abs(ratio - 1) <= (0.05 if exact else 0.25):
        return ""
    if not ratio:
        return "this model does not give: what it computes cannot be differentiated"
    return (
        f"this model gives wrong: along its own gradient it rises {ratio:.2g} times as much as the gradient says, as "
        "models with quantised activations do"
    )


def _ordinary_ids(model: LocalModel, count: int) -> Tensor:
    """Random ids, none of them with an embedding near 0 (padding), where norms are all but smooth."""
    drawn = torch.randint(model.vocabulary_size, (4 * count,), generator=torch.Generator().manual_seed(0))
    lengths = model.embed(drawn).norm(dim=-1)
    return drawn[lengths.argsort(descending=True)[:count].cpu().sort().values].to(model.device)


def _kept(model: LocalModel, ids: Tensor) -> int:
    """How many bytes the blocks' forward over the text keeps, the parameters not counted."""
    counted = {p.untyped_storage().data_ptr() for p in model.model.parameters() if _is_plain(p)}
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        if _is_plain(tensor) and tensor.untyped_storage().data_ptr() not in counted:
            counted.add(tensor.untyped_storage().data_ptr())
            total += tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _read(model, ids)
    return total


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has its numbers here: neither offloaded nor a quantised weight, which holds other tensors."""
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta


def _slope_ratio(model: LocalModel, ids: Tensor) -> float:
    """Slope along the gradient, found and promised: their ratio is 1 where it is true, and 0 where there is none."""
    graph = _read(model, ids)
    if not graph.logits.requires_grad:
        return 0.0
    scores = _scalar(graph.logits)
    (gradient,) = torch.autograd.grad(scores.sum(), graph.leaf, allow_unused=True, materialize_grads=True)
    leaf, gradient = graph.leaf.detach().double(), gradient.double()
    promised = float(gradient.norm())
    direction = gradient / promised if promised else leaf / leaf.norm()
    steps = torch.tensor(STEPS, dtype=torch.float64, device=leaf.device) * leaf.norm()
    moves = torch.cat([steps, -steps])[:, None, None] * direction

    def move(embeddings: Tensor) -> Tensor:
        return (leaf + moves).to(embeddings)

    with torch.no_grad():
        found = _scalar(model.logits_at(ids.expand(len(moves), -1), _last(ids), move, cut=False).logits).double()
    up, down = found.chunk(2)
    slopes = (up - down) / (2 * steps.to(up))
    if promised == 0:
        return 1.0 if float((up - down).abs().max()) <= 1e-3 * float(found.abs().max()) else math.inf
    ratios = slopes / promised
    return float(ratios[(ratios - 1).abs().nan_to_num(math.inf).argmin()])


def _read(model: LocalModel, ids: Tensor) -> Graph:
    return model.logits_at(ids, _last(ids), lambda embeddings: embeddings, cut=False)


def _last(ids: Tensor) -> Tensor:
    return torch.tensor([ids.shape[1] - 1])


def _scalar(logits: Float[Tensor, "batch row vocabulary"]) -> Float[Tensor, " batch"]:
    """A mixture of all logits at the last position, so that no certain answer makes the slope vanish."""
    generator = torch.Generator().manual_seed(1)
    mixture = torch.randn(logits.shape[-1], generator=generator).to(logits)
    return logits[:, -1] @ mixture
