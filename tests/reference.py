"""Slow, obvious implementations that the engines must agree with. They share no code with the package."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy(model, ids: list[int], length: int) -> list[int]:
    """The greedy continuation, every step from the start."""
    written: list[int] = []
    for _ in range(length):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*ids, *written]]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
    return written


def gradient(model, ids: list[int], scalar) -> tuple[Tensor, Tensor]:
    """Gradient of `scalar(logits [token, vocabulary])` by the embeddings of `ids`, and these: [token, embed] both.

    The embeddings are the embedding layer's own output, put in its place for one forward pass.
    """
    layer = model.get_input_embeddings()
    embeddings = layer(torch.tensor([ids])).detach().requires_grad_(True)
    handle = layer.register_forward_hook(lambda *_: embeddings)
    try:
        value = scalar(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float())
    finally:
        handle.remove()
    (found,) = torch.autograd.grad(value, embeddings)
    return found[0].float(), embeddings.detach()[0].float()


def classic_scores(model, prompt: list[int], length: int) -> tuple[Tensor, list[int]]:
    """What compute_attributions promises: one forward and one backward per output token, no cache, no batch."""
    ids = list(prompt)
    rows = []
    for _ in range(length):
        token = greedy(model, ids, 1)[0]
        found, _ = gradient(model, ids, lambda logits, token=token: logits[-1].softmax(-1)[token])
        row = torch.zeros(len(prompt) + length)
        row[: len(ids)] = found.abs().sum(-1)
        rows.append(row)
        ids.append(token)
    return torch.stack(rows), ids


def logprobs(model, prompt: list[int], output: list[int]) -> list[float]:
    """Log-probability of each output token, a forward pass for each."""
    found = []
    for position, token in enumerate(output):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *output[:position]]]), use_cache=False).logits
        found.append(float(logits[0, -1].float().log_softmax(-1)[token]))
    return found


def masked_logprobs(model, prompt: list[int], gone: set[int], output: list[int]) -> list[float]:
    """Log-probability of each output token where nothing looks at some tokens of the prompt, a forward pass for each.

    It is read at the last token before it that is still there. All tokens are where they were.
    """
    found = []
    for position, token in enumerate(output):
        ids = [*prompt, *output[:position]]
        there = [0 if i in gone else 1 for i in range(len(ids))]
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.tensor([there]),
                position_ids=torch.arange(len(ids))[None],
                use_cache=False,
            ).logits
        last = max(i for i, kept in enumerate(there) if kept)
        found.append(float(logits[0, last].float().log_softmax(-1)[token]))
    return found
