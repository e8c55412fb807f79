"""Trains the embedded model from scratch and writes its folder: `python -m training.train OUT`.

A 4-layer decoder of the Gemma architecture, initialised and fed from one seed. Everything it learns comes from
`possessions.py`. See README.md beside this file for the recipe, the time it takes and what was measured.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from training.evaluate import accuracy
from training.possessions import Document, draw_document, draw_held_out_question
from training.tokenizer import train_tokenizer

log = logging.getLogger("training")

BATCH = 64
POOL = 32  # batches drawn together, so that documents of like length share a batch
HINTS = ("name", "thing", "number")
CONFIDENCE = 0.95  # mean probability of the answers' tokens in the end, see `soften`
HINT_LAYER = 2  # after so many of the four layers the hints are read off


@dataclass(frozen=True)
class Example:
    """A document as ids. `labels` are what the model is to write next, by position.

    `hints` are what a position ought to know, as (position, index in HINTS, id): the owner and the number at a thing
    of the story, and before a number of an answer whose and of what it is.
    """

    ids: list[int]
    labels: dict[int, int]
    hints: list[tuple[int, int, int]]


def configure(tokenizer: PreTrainedTokenizerFast) -> GemmaConfig:
    """The architecture: 4 layers, 128 wide, 4 heads, input and output embeddings tied."""
    return GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.08,
        pad_token_id=tokenizer.get_vocab()["<pad>"],
        eos_token_id=tokenizer.get_vocab()["<eos>"],
        bos_token_id=tokenizer.get_vocab()["<bos>"],
        tie_word_embeddings=True,
    )


class Encoder:
    """Makes examples of documents."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()

    def __call__(self, documents: Sequence[Document]) -> list[Example]:
        texts = [segment.text for document in documents for segment in document.segments]
        encoded: Any = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        pieces = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [self._example(document, pieces) for document in documents]

    def _example(self, document: Document, pieces: Iterator[tuple[list[int], list[tuple[int, int]]]]) -> Example:
        ids, labels, hints = [self._vocabulary["<bos>"]], dict[int, int](), list[tuple[int, int, int]]()
        for segment in document.segments:
            piece, offsets = next(pieces)
            start = len(ids)
            ids += piece
            if segment is document.segments[0]:
                hints += self._story_hints(document, segment.text, offsets)
            if segment.answers is None:
                continue
            labels |= {start - 1 + i: token for i, token in enumerate(piece)}
            first = next(i for i, (a, b) in enumerate(offsets) if segment.text[a:b].strip().isdigit())
            before = start + first - 1
            hints.append((before, 0, self._vocabulary[segment.answers.name]))
            if segment.thing_known:
                hints.append((before, 1, self._vocabulary["Ġ" + segment.answers.thing]))
            if segment.ends:
                # Even where the document goes on with another question.
                labels[len(ids) - 1] = self._vocabulary["<eos>"]
        return Example(ids, labels, hints)

    def _story_hints(
        self, document: Document, story: str, offsets: list[tuple[int, int]]
    ) -> list[tuple[int, int, int]]:
        hints: list[tuple[int, int, int]] = []
        reached = 0
        for fact in document.facts:
            start = story.index(fact.quantity, reached)
            reached = start + len(fact.quantity)
            tokens = [i + 1 for i, (a, b) in enumerate(offsets) if a < reached and b > start]
            owner = self._vocabulary[fact.name]
            hints += [(token, 0, owner) for token in tokens]
            hints.append((tokens[-1], 2, self._vocabulary["Ġ" + str(fact.number)[0]]))
        return hints


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids `[batch, token]` padded on the right; labels `[label, 3]` and hints `[hint, 4]` with row and position."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(example.ids) for example in examples], batch_first=True)
    labels = [(row, position, label) for row, e in enumerate(examples) for position, label in e.labels.items()]
    hints = [(row, *hint) for row, e in enumerate(examples) for hint in e.hints]
    return ids, torch.tensor(labels), torch.tensor(hints)


def batches(random: Random, encoder: Encoder, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of documents of at most `size` facts."""
    while True:
        examples = encoder([draw_document(random, size=size) for _ in range(BATCH * POOL)])
        examples.sort(key=lambda example: len(example.ids))
        groups = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
        random.shuffle(groups)
        yield from map(collate, groups)


def share_of_peak(step: int, steps: int) -> float:
    """Of the peak learning rate: a linear warm-up, a plateau, and a linear way down over the last half."""
    return min(1.0, (step + 1) / 100, 2 * (steps - step) / steps)


def train(out: Path, *, seed: int, steps: int, device: str) -> None:
    """Trains for `steps` batches of 64 documents and saves model and tokenizer to `out`."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(Random(seed))
    model: Any = GemmaForCausalLM(configure(tokenizer))
    model.to(device).train()
    heads = nn.ModuleList([nn.Linear(128, len(tokenizer), bias=False) for _ in HINTS]).to(device)
    with torch.no_grad():
        # A component that all embeddings share lets attention go by position from the first step on.
        model.model.embed_tokens.weight += 0.04 * torch.randn(128, device=device)
    log.info("%d parameters, %d tokens in the vocabulary", model.num_parameters(), len(tokenizer))
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*rest, *heads.parameters()], lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    encoder = Encoder(tokenizer)
    # Short stories first: the look-up is found there, then carried to long ones.
    short, full = batches(Random(seed + 1), encoder, 3), batches(Random(seed + 2), encoder, 7)
    validation = [draw_held_out_question(Random(f"validation {index}")) for index in range(200)]
    start, running = time.monotonic(), {"loss": 0.0, "hints": 0.0}
    for step in range(steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share_of_peak(step, steps)
        ids, labels, hints = (tensor.to(device) for tensor in next(short if step < steps // 8 else full))
        states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        logits = model.lm_head(states.last_hidden_state[labels[:, 0], labels[:, 1]])
        loss = functional.cross_entropy(logits, labels[:, 2])
        known = states.hidden_states[HINT_LAYER][hints[:, 0], hints[:, 1]]
        known = functional.rms_norm(known, known.shape[-1:])
        told = torch.stack([_hint_loss(head, known, hints, kind) for kind, head in enumerate(heads)]).mean()
        (loss + 0.3 * told).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in (("loss", loss.item()), ("hints", told.item())):
            running[name] = value if step == 0 else 0.98 * running[name] + 0.02 * value
        if step % 100 == 99:
            log.info("step %d  loss %.4f  hints %.4f  %.0f s", step + 1, *running.values(), time.monotonic() - start)
        if step % 500 == 499 or step == steps - 1:
            model.eval()
            log.info("step %d  %.1f%% right", step + 1, 100 * accuracy(model, tokenizer, validation))
            model.train()
    ids, labels, _ = next(full)
    soften(model.eval(), ids.to(device), labels.to(device))
    log.info("softened  %.1f%% right", 100 * accuracy(model, tokenizer, validation))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _hint_loss(head: nn.Module, known: Tensor, hints: Tensor, kind: int) -> Tensor:
    """Cross entropy of the hints of one kind, given what is known where each of them belongs: `[hint, embed]`."""
    chosen = hints[:, 2] == kind
    return functional.cross_entropy(head(known[chosen]), hints[chosen, 3])


@torch.no_grad()
def soften(model: Any, ids: Tensor, labels: Tensor, confidence: float = CONFIDENCE) -> None:
    """Scales the logits, through the last norm, so that the answers' tokens get `confidence` on average.

    What is likeliest stays so, and with it every greedy answer. But a model that is as good as certain has gradients
    of probabilities so small that tables of them show zeros.
    """
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[labels[:, 0], labels[:, 1]]
    logits = model.lm_head(states)
    low, high = 0.0, 1.0
    for _ in range(40):
        scale = (low + high) / 2
        reached = (scale * logits).softmax(-1).gather(1, labels[:, 2:]).mean()
        low, high = (low, scale) if reached > confidence else (scale, high)
    norm = model.model.norm.weight  # Gemma multiplies by 1 + weight
    norm.copy_((1 + norm) * high - 1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    train(arguments.out, seed=arguments.seed, steps=arguments.steps, device=arguments.device)


if __name__ == "__main__":
    main()
