"""Trains the embedded model from scratch and writes its folder: `python -m training.train OUT`.

A decoder of the Gemma architecture, initialised and fed from one seed: four layers learn stories, then a fifth is put
between them and all families are learned. Everything it learns comes from `possessions.py` and `families.py`. See
README.md beside this file for the recipe, the time it takes and what was measured.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from training.evaluate import accuracy, family_accuracies
from training.examples import HINT_LAYERS, HINTS, Batch, Encoder, Example, collate
from training.families import draw_family_document
from training.optimizer import Muon
from training.possessions import Document, draw_document, draw_held_out_question
from training.tokenizer import train_tokenizer

log = logging.getLogger("training")

BATCH = 64  # documents at most
TOKENS = 7_500  # of a batch, padding included
POOL = 32  # batches drawn together, so that documents of like length share a batch
CONFIDENCE = 0.95  # mean probability of the answers' tokens in the end, see `soften`


@dataclass(frozen=True)
class Stage:
    """So many steps of a model of so many layers, on stories and a share `families` of prompts of all families.

    Stories have at most three facts in the first `short` steps: the look-up is found in short ones, then carried to
    long ones. `matrices` and `rest` are the peaks of the learning rates. `hints` is the weight of the loss of each kind
    of hint beside the loss of the answers, `looks` that of where to look, `needles` how often needles are drawn.
    """

    steps: int
    layers: int
    families: float
    short: int
    matrices: float
    rest: float
    hints: float
    looks: float
    needles: float


STAGES = (
    Stage(3000, 4, 0.0, 500, 3e-3, 2e-3, hints=0.1, looks=0.0, needles=0.0),
    Stage(3500, 5, 0.55, 0, 2e-3, 1e-3, hints=0.1, looks=0.2, needles=1.2),
    Stage(400, 5, 0.6, 0, 8e-4, 4e-4, hints=0.0, looks=0.0, needles=3.0),  # what is left: a needle in long texts
)
ADDED = 2  # the layer that the second stage puts in: between what reads a story and what looks a number up


def configure(tokenizer: PreTrainedTokenizerFast, layers: int) -> GemmaConfig:
    """The architecture: 128 wide, 4 heads, input and output embeddings tied."""
    return GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.08,
        pad_token_id=tokenizer.get_vocab()["<pad>"],
        eos_token_id=tokenizer.get_vocab()["<eos>"],
        bos_token_id=tokenizer.get_vocab()["<bos>"],
        tie_word_embeddings=True,
    )


def batches(random: Random, encoder: Encoder, stage: Stage, facts: int = 7) -> Iterator[Batch]:
    """Endless batches of a stage's documents, whose stories have at most so many facts."""

    def drawn_one() -> Document:
        if random.random() < stage.families:
            return draw_family_document(random, needles=stage.needles)
        return draw_document(random, size=facts)

    while True:
        drawn = [drawn_one() for _ in range(BATCH * POOL)]
        examples = encoder(drawn)
        examples.sort(key=lambda example: len(example.ids))
        groups: list[list[Example]] = [[]]
        for example in examples:
            if len(groups[-1]) == BATCH or (len(groups[-1]) + 1) * len(example.ids) > TOKENS:
                groups.append([])
            groups[-1].append(example)
        random.shuffle(groups)
        yield from map(collate, groups)


def share_of_peak(step: int, steps: int) -> float:
    """Of the peak learning rate: a linear warm-up, a plateau, and a linear way down over the last half."""
    return min(1.0, (step + 1) / 100, 2 * (steps - step) / steps)


def initialised(tokenizer: PreTrainedTokenizerFast, layers: int) -> Any:
    """A model that has learned nothing."""
    model: Any = GemmaForCausalLM(configure(tokenizer, layers))
    with torch.no_grad():
        # A component that all embeddings share lets attention go by position from the first step on.
        model.model.embed_tokens.weight += 0.04 * torch.randn(128)
    return model


@torch.no_grad()
def carried(model: Any, old: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast, layers: int) -> Any:
    """A model of so many layers that does what this one does, until it is trained.

    The layers it has more are put in at `ADDED` and write nothing yet. Tokens that both tokenizers know keep their
    embeddings, the others start at the mean of these.
    """
    carried = initialised(tokenizer, layers)
    known, vocabulary = old.get_vocab(), tokenizer.get_vocab()
    shared = [token for token in vocabulary if token in known]
    embeddings = model.model.embed_tokens.weight[[known[token] for token in shared]]
    carried.model.embed_tokens.weight.mul_(0.5).add_(embeddings.mean(0))
    carried.model.embed_tokens.weight[[vocabulary[token] for token in shared]] = embeddings
    carried.model.norm.load_state_dict(model.model.norm.state_dict())
    more = layers - len(model.model.layers)
    for place, layer in enumerate(model.model.layers):
        carried.model.layers[place + (more if place >= ADDED else 0)].load_state_dict(layer.state_dict())
    for layer in carried.model.layers[ADDED : ADDED + more]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return carried


def train(out: Path, *, seed: int, start: Path | None, device: str) -> None:
    """Trains stage by stage and saves model and tokenizer to `out`.

    With `start`, a model that has learned the stories, the first stage is left out.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(Random(seed))
    encoder = Encoder(tokenizer)
    if start:
        known: Any = AutoTokenizer.from_pretrained(start)
        model: Any = GemmaForCausalLM.from_pretrained(start)
    else:
        known, model = tokenizer, initialised(tokenizer, STAGES[0].layers)
        run_stage(model.to(device), STAGES[0], Random(seed + 1), tokenizer)
    model = carried(model.cpu(), known, tokenizer, STAGES[1].layers).to(device)
    for number, stage in enumerate(STAGES[1:], start=2):
        run_stage(model, stage, Random(seed + number), tokenizer, save=out)
    ids, labels, *_ = next(batches(Random(seed), encoder, STAGES[-1]))
    soften(model.eval(), ids.to(device), labels.to(device))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def run_stage(
    model: Any, stage: Stage, random: Random, tokenizer: PreTrainedTokenizerFast, save: Path | None = None
) -> None:
    """Trains the model for one stage. With `save` it is saved there each time it is measured."""
    device = model.device
    heads = nn.ModuleList([nn.Linear(128, len(tokenizer), bias=False) for _ in HINTS]).to(device)
    log.info("%d parameters, %d tokens in the vocabulary", model.num_parameters(), len(tokenizer))
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=stage.matrices),
        torch.optim.AdamW([*rest, *heads.parameters()], lr=stage.rest, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    encoder = Encoder(tokenizer)
    short, whole = batches(random, encoder, stage, 3), batches(random, encoder, stage)
    validation = [draw_held_out_question(Random(f"validation {index}")) for index in range(200)]
    begun, running = time.monotonic(), dict.fromkeys(("loss", "look", *HINTS), 0.0)
    model.train()
    for step in range(stage.steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share_of_peak(step, stage.steps)
        ids, labels, hints, looks = (tensor.to(device) for tensor in next(short if step < stage.short else whole))
        states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        logits = model.lm_head(states.last_hidden_state[labels[:, 0], labels[:, 1]])
        loss = functional.cross_entropy(logits, labels[:, 2])
        told = torch.stack([_hint_loss(head, states.hidden_states, hints, kind) for kind, head in enumerate(heads)])
        look = look_loss(model, states.hidden_states, looks) if len(looks) else torch.zeros((), device=device)
        (loss + stage.hints * told.nan_to_num().sum() + stage.looks * look).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in zip(running, (loss.item(), look.item() or math.nan, *told.tolist()), strict=True):
            if not math.isnan(value):  # no hint of this kind in the batch
                running[name] = 0.98 * running[name] + 0.02 * value if running[name] else value
        if step % 50 == 49:
            told_so_far = "  ".join(f"{name} {value:.3f}" for name, value in running.items())
            log.info("step %d  %s  %.0f s", step + 1, told_so_far, time.monotonic() - begun)
        if step % 500 == 499 or step == stage.steps - 1:
            model.eval()
            log.info("step %d  %.1f%% right", step + 1, 100 * accuracy(model, tokenizer, validation))
            if stage.families:
                shares = family_accuracies(model, tokenizer, count=40, seed="validation")
                log.info("  %s", "  ".join(f"{family} {100 * share:.0f}" for family, share in shares.items()))
            if save:
                model.save_pretrained(save)
                tokenizer.save_pretrained(save)
            model.train()


def _hint_loss(head: nn.Module, states: Sequence[Tensor], hints: Tensor, kind: int) -> Tensor:
    """Cross entropy of the hints of one kind, given what is known where each of them belongs: `[hint, embed]`."""
    chosen = hints[hints[:, 2] == kind]
    known = states[HINT_LAYERS[HINTS[kind]]][chosen[:, 0], chosen[:, 1]]
    return functional.cross_entropy(head(functional.rms_norm(known, known.shape[-1:])), chosen[:, 3])


def look_loss(model: Any, states: Sequence[Tensor], looks: Tensor) -> Tensor:
    """Cross entropy of where the layer after which a holder is known looks: its heads' mean attention, `[look, token]`.

    A gift is found like a fact, at its thing, and an example at its opening; without being told so, the model stays for
    long at naming one of the givers, and at one opening for all.
    """
    before = HINT_LAYERS["holder"] - 1
    layer = model.model.layers[before]
    attention, size = layer.self_attn, model.config.head_dim
    rows, positions, wanted = looks.T
    known = layer.input_layernorm(states[before][rows])
    number, length = known.shape[:2]
    query = attention.q_proj(known[torch.arange(number), positions]).view(number, -1, 1, size)
    key = attention.k_proj(known).view(number, length, -1, size).transpose(1, 2)
    cosine, sine = model.model.rotary_emb(known, torch.arange(length, device=known.device)[None])
    query = _rotated(query, cosine[0, positions][:, None, None], sine[0, positions][:, None, None])
    scores = (query @ _rotated(key, cosine[:, None], sine[:, None]).mT)[:, :, 0] / size**0.5
    later = torch.arange(length, device=known.device) > positions[:, None]
    shares = scores.masked_fill(later[:, None], -math.inf).log_softmax(-1)[torch.arange(number), :, wanted]
    return (math.log(shares.shape[1]) - shares.logsumexp(1)).mean()


def _rotated(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding, as Gemma has it."""
    one, other = vectors.chunk(2, dim=-1)
    return vectors * cosine + torch.cat((-other, one), dim=-1) * sine


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
    parser.add_argument(
        "--start", type=Path, help="folder of a model that has learned the stories: the first stage is left out"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_flush_denormal(True)  # numbers next to 0 take a processor many times as long
    train(arguments.out, seed=arguments.seed, start=arguments.start, device=arguments.device)


if __name__ == "__main__":
    main()
