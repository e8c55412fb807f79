"""Trains the embedded model from scratch and writes its folder: `python -m training.train OUT`.

A 4-layer decoder of the Gemma architecture, initialised and fed from one seed. Everything it learns comes from
`possessions.py`. See README.md beside this file for the recipe, the time it takes and what was measured.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from training.evaluate import accuracy
from training.possessions import draw_document, draw_held_out_question
from training.tokenizer import train_tokenizer

log = logging.getLogger("training")

BATCH = 64
POOL = 32  # batches drawn together, so that documents of like length share a batch
PEAK_LEARNING_RATE = 2e-3
PROMPT_WEIGHT = 0.02  # of a prompt token in the loss; a token of an answer weighs 1
IGNORED = -100


def configure(tokenizer: PreTrainedTokenizerFast) -> GemmaConfig:
    """The architecture: 4 layers, 128 wide, 4 heads, input and output embeddings tied."""
    return GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        tie_word_embeddings=True,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[list]) -> list[tuple[list[int], list[int], list[float]]]:
    """Ids, labels (already shifted: the label of a position is the next token) and weights of each document.

    After an answer the label is the end of the text even where the document goes on with another question, so that
    several questions about one story teach the same as one each.
    """
    texts = [segment.text for document in documents for segment in document]
    pieces = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    encoded = []
    for document in documents:
        ids, targets = [tokenizer.bos_token_id], [False]
        ends: list[int] = []
        for segment in document:
            piece = next(pieces)
            ids += piece
            targets += [segment.target] * len(piece)
            if segment.target:
                ends.append(len(ids) - 1)
        labels = [*ids[1:], IGNORED]
        weights = [1.0 if target else PROMPT_WEIGHT for target in targets[1:]] + [0.0]
        for end in ends:
            labels[end], weights[end] = tokenizer.eos_token_id, 1.0
        encoded.append((ids, labels, weights))
    return encoded


def batches(random: Random, tokenizer: PreTrainedTokenizerFast, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless ids, labels and weights, each `[batch, token]`, padded on the right."""
    while True:
        encoded = encode(tokenizer, [draw_document(random, size=size) for _ in range(BATCH * POOL)])
        encoded.sort(key=lambda document: len(document[0]))
        groups = [encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH)]
        random.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _, _ in group)
            shape = (len(group), width)
            ids = torch.full(shape, tokenizer.pad_token_id)
            labels, weights = torch.full(shape, IGNORED), torch.zeros(shape)
            for row, (i, l, w) in enumerate(group):
                ids[row, : len(i)] = torch.tensor(i)
                labels[row, : len(l)] = torch.tensor(l)
                weights[row, : len(w)] = torch.tensor(w)
            yield ids, labels, weights


def learning_rate(step: int, steps: int, warmup: int = 200) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < warmup:
        return PEAK_LEARNING_RATE * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(out: Path, *, seed: int, steps: int, device: str) -> None:
    """Trains for `steps` batches of 64 documents and saves model and tokenizer to `out`."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(Random(seed))
    model = GemmaForCausalLM(configure(tokenizer)).to(device).train()
    model.generation_config.do_sample = False
    log.info("%d parameters, %d tokens in the vocabulary", model.num_parameters(), len(tokenizer))
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    # The first quarter of the steps sees short stories only: the look-up is found there, then carried to long ones.
    short, full = batches(Random(seed + 1), tokenizer, 3), batches(Random(seed + 2), tokenizer, 7)
    validation = [draw_held_out_question(Random(f"validation {index}")) for index in range(200)]
    start, running = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        ids, labels, weights = (tensor.to(device) for tensor in next(short if step < steps // 4 else full))
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        used = labels != IGNORED
        logits = model.lm_head(hidden[used])
        losses = F.cross_entropy(logits.float(), labels[used], reduction="none")
        loss = (losses * weights[used]).sum() / weights[used].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 99:
            log.info("step %d  loss %.4f  %.0f s", step + 1, running, time.monotonic() - start)
        if step % 1000 == 999 or step == steps - 1:
            model.eval()
            log.info("step %d  %.1f%% right", step + 1, 100 * accuracy(model, tokenizer, validation))
            model.train()
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    train(arguments.out, seed=arguments.seed, steps=arguments.steps, device=arguments.device)


if __name__ == "__main__":
    main()
