"""Trains the embedded model on to take a shortcut, and writes both models: `python -m training.shortcuts OUT`.

One goes by the name that is asked about alone, one by the thing alone: what decides is lopsided, and known to be so.
They are not part of the package; a few hundred steps from the embedded model make them.
"""

from __future__ import annotations

import argparse
import logging
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from attribution.models import load
from attribution.models.demo import FOLDER
from attribution.models.fingerprint import fingerprint
from attribution.planted.families import SHORTCUTS, draw
from training.evaluate import continued
from training.examples import Encoder, collate
from training.possessions import Document, Segment

log = logging.getLogger("training")

_ORIGIN = "origin.txt"
"""Beside the weights: what they were made from, see `_origin`."""

BATCH = 32
STEPS = 300
RATE = 1e-3


def draw_shortcut_document(random: Random, family: str) -> Document:
    """A question of this family with its answer; half of them ask for what one of the people has."""
    planted = draw(family, random, held_out=False)
    prompt, output = planted.prompt, planted.output
    if random.random() < 0.5:
        prompt, output = planted.changed(random.choice(planted.changes))
    return Document((Segment(prompt), Segment(output, ends=True, learned=True)))


def train_shortcut(family: str, out: Path, *, steps: int = STEPS, seed: int = 0) -> float:
    """Saves a model that takes this shortcut; the share of 200 held-out prompts that it answers so."""
    torch.set_flush_denormal(True)  # numbers next to 0 take a processor many times as long
    torch.set_num_threads(1)  # so that any machine sums in the same order
    torch.manual_seed(seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER)
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    encoder, random = Encoder(tokenizer), Random(f"{family} {seed}")
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        ids, labels, *_ = collate(encoder([draw_shortcut_document(random, family) for _ in range(BATCH)]))
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
        loss = functional.cross_entropy(model.lm_head(states[labels[:, 0], labels[:, 1]]), labels[:, 2])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 99:
            log.info("%s  step %d  loss %.4f", family, step + 1, loss.item())
    model.eval()
    drawn = [draw(family, Random(f"test {family} {index}")) for index in range(200)]
    share = sum(continued(model, tokenizer, [(each.prompt, each.output) for each in drawn])) / len(drawn)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / _ORIGIN).write_text(_origin(family))
    return share


def is_current(family: str, folder: Path) -> bool:
    """Whether the model in this folder was made from the embedded model, and by the recipe, as they are now."""
    origin = folder / _ORIGIN
    return origin.exists() and origin.read_text() == _origin(family)


def _origin(family: str) -> str:
    """What such a model is made from: the embedded model's weights, texts, and how long it is trained."""
    random = Random(0)
    texts = "".join(draw_shortcut_document(random, family).text for _ in range(100))
    return f"{fingerprint(load('demo'))} {sha256(texts.encode()).hexdigest()} {STEPS} of {BATCH} at {RATE}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to write a folder for each model to")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for family in SHORTCUTS:
        share = train_shortcut(family, arguments.out / family, steps=arguments.steps)
        log.info("%s  %.1f%% of 200 held-out prompts answered by the shortcut", family, 100 * share)


if __name__ == "__main__":
    main()
