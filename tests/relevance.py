"""Relevance handed down layer by layer, as the papers on LRP write it. It shares no code with the package.

Every function is given what a layer read, what it wrote (where it needs that) and the relevance of what it wrote, and
gives the relevance of what it read. No gradient is taken anywhere. Sources: Bach et al. 2015 (the rule of linear
layers), Ali et al. 2022 (CP-LRP), Achtibat et al. 2024 (AttnLRP).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.tiny import InFloat64

# Rules


def linear(x: Tensor, weight: Tensor, y: Tensor, relevance: Tensor) -> Tensor:
    """In proportion to what each input adds to each output y = weight x + bias. The bias keeps its part."""
    return x * ((relevance / y) @ weight)


def add(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """In proportion to the two terms."""
    return a * relevance / (a + b), b * relevance / (a + b)


def matmul(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors of a @ b in proportion to their terms, and half each (AttnLRP, equation of the uniform rule)."""
    y = a @ b
    share = torch.where(relevance == 0, 0, relevance / y) / 2
    return a * (share @ b.mT), b * (a.mT @ share)


def softmax(scores: Tensor, weights: Tensor, relevance: Tensor) -> Tensor:
    """The Taylor expansion of the softmax p of s, its bias left out (AttnLRP): s * (R - p * sum R)."""
    found = scores * (relevance - weights * relevance.sum(-1, keepdim=True))
    return torch.where(weights == 0, 0, found)  # a masked score is -inf


def layer_norm(x: Tensor, weight: Tensor, y: Tensor, relevance: Tensor) -> Tensor:
    """The scale of the norm is a constant; taking the mean away is a linear layer."""
    centred = x - x.mean(-1, keepdim=True)
    scale = weight / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    at_centred = centred * scale * relevance / y
    size = x.shape[-1]
    return linear(x, torch.eye(size).to(x) - 1 / size, centred, at_centred)


def rotation(x: Tensor, cos: Tensor, sin: Tensor, y: Tensor, relevance: Tensor) -> Tensor:
    """A linear layer: y = x cos + turned(x) sin, where turned(x) is (-second half, first half)."""
    share = relevance / y
    first, second = (share * sin).chunk(2, -1)
    return x * (share * cos + torch.cat([second, -first], -1))


def attention(q: Tensor, k: Tensor, v: Tensor, relevance: Tensor, rule: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values [head, token, size], from that of what the heads wrote."""
    hidden = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    at_weights, at_v = matmul(weights, v, relevance)
    if rule == "CP-LRP":  # the weights are constants: all of it is the values'
        return torch.zeros_like(q), torch.zeros_like(k), 2 * at_v
    at_scores = softmax(scores, weights, at_weights)
    at_q, at_k = matmul(q, k.mT, at_scores)
    return at_q, at_k.mT, at_v


# Models of one block: the relevance of the embeddings [token, embed] for a logit of the last token, and that logit


def llama(model, ids: list[int], target: int, rule: str) -> tuple[Tensor, Tensor]:
    block, config = model.model.layers[0], model.config
    heads, groups = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads
    attend, mlp = block.self_attn, block.mlp

    def rms(x, layer):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * layer.weight

    def split(x):
        return x.unflatten(-1, (-1, config.head_dim)).transpose(0, 1)

    def turn(x):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    x = model.model.embed_tokens.weight[ids]
    with InFloat64():
        cos, sin = (t[0] for t in model.model.rotary_emb(x, torch.arange(len(ids))[None]))
    normed = rms(x, block.input_layernorm)
    flat_q, flat_k, flat_v = attend.q_proj(normed), attend.k_proj(normed), attend.v_proj(normed)
    q, k = turn(split(flat_q)), turn(split(flat_k)).repeat_interleave(groups, 0)
    v = split(flat_v).repeat_interleave(groups, 0)
    hidden = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    weights = (q @ k.mT / config.head_dim**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
    read = (weights @ v).transpose(0, 1).flatten(1)
    wrote = attend.o_proj(read)
    middle = x + wrote
    normed_middle = rms(middle, block.post_attention_layernorm)
    gate, up = mlp.gate_proj(normed_middle), mlp.up_proj(normed_middle)
    gated = gate * gate.sigmoid() * up
    changed = mlp.down_proj(gated)
    last = rms(middle + changed, model.model.norm)[-1]
    logit = model.lm_head(last)[target]

    relevance = torch.zeros_like(x)
    relevance[-1] = last * model.lm_head.weight[target]  # R / logit = 1; a norm with a constant scale keeps R
    to_middle, to_changed = add(middle, changed, relevance)
    at_gated = linear(gated, mlp.down_proj.weight, changed, to_changed)
    at_gate, at_up = (0 * at_gated, at_gated) if rule == "CP-LRP" else (at_gated / 2, at_gated / 2)
    # The identity rule: the activation hands on what it is given.
    to_middle = to_middle + linear(normed_middle, mlp.gate_proj.weight, gate, at_gate)
    to_middle = to_middle + linear(normed_middle, mlp.up_proj.weight, up, at_up)
    to_x, to_wrote = add(x, wrote, to_middle)
    at_read = linear(read, attend.o_proj.weight, wrote, to_wrote).unflatten(-1, (heads, -1)).transpose(0, 1)
    at_q, at_k, at_v = attention(q, k, v, at_read, rule)
    at_k, at_v = (each.unflatten(0, (-1, groups)).sum(1) for each in (at_k, at_v))
    at_q = rotation(split(flat_q), cos, sin, q, at_q)
    at_k = rotation(split(flat_k), cos, sin, turn(split(flat_k)), at_k)
    for layer, flat, at in (
        (attend.q_proj, flat_q, at_q),
        (attend.k_proj, flat_k, at_k),
        (attend.v_proj, flat_v, at_v),
    ):
        to_x = to_x + linear(normed, layer.weight, flat, at.transpose(0, 1).flatten(1))
    return to_x, logit


def gpt2(model, ids: list[int], target: int, rule: str) -> tuple[Tensor, Tensor]:
    base = model.transformer
    block, heads = base.h[0], model.config.n_head
    attend, mlp = block.attn, block.mlp

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(0, 1)

    tokens, positions = base.wte.weight[ids], base.wpe.weight[: len(ids)]
    x = tokens + positions
    normed = block.ln_1(x)
    flat = attend.c_attn(normed)
    q, k, v = (split(part) for part in flat.chunk(3, -1))
    hidden = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1)
    read = (weights @ v).transpose(0, 1).flatten(1)
    wrote = attend.c_proj(read)
    middle = x + wrote
    normed_middle = block.ln_2(middle)
    before = mlp.c_fc(normed_middle)
    after = mlp.act(before)
    changed = mlp.c_proj(after)
    end = middle + changed
    last = base.ln_f(end)
    logit = model.lm_head(last)[-1, target]

    relevance = torch.zeros_like(x)
    relevance[-1] = last[-1] * model.lm_head.weight[target]
    relevance = layer_norm(end, base.ln_f.weight, last, relevance)
    to_middle, to_changed = add(middle, changed, relevance)
    at_before = linear(after, mlp.c_proj.weight.T, changed, to_changed)  # and the identity rule
    at_normed = linear(normed_middle, mlp.c_fc.weight.T, before, at_before)
    to_middle = to_middle + layer_norm(middle, block.ln_2.weight, normed_middle, at_normed)
    to_x, to_wrote = add(x, wrote, to_middle)
    at_read = split(linear(read, attend.c_proj.weight.T, wrote, to_wrote))
    at_flat = torch.cat([each.transpose(0, 1).flatten(1) for each in attention(q, k, v, at_read, rule)], -1)
    at_normed = linear(normed, attend.c_attn.weight.T, flat, at_flat)
    to_x = to_x + layer_norm(x, block.ln_1.weight, normed, at_normed)
    return add(tokens, positions, to_x)[0], logit
