"""Confirmation: whether a model agrees with what was planted, seen by changing the prompt and reading what moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attribution.models.local import LocalModel
from attribution.outputs import find_outputs
from attribution.planted.prompt import Change, Planted

_TOKENS_AT_ONCE = 8_000
"""Of changed prompts, padding included."""


@dataclass(frozen=True)
class Confirmation:
    """What a model does with a planted prompt and with each of its changes."""

    right: bool
    """Whether it continues the prompt by the planted output, to the letter."""
    followed: tuple[bool, ...]
    """For each change, whether its answer is what the model then finds likeliest."""
    drops: tuple[float, ...]
    """For each change, by how much the log-probability of the first answer falls, in nats."""
    effects: tuple[float | None, ...]
    """For each part, the mean drop of the changes that put it to the test, in nats; None where none does."""

    @property
    def holds(self) -> bool:
        """Whether the model does in every case what was planted: its causes are those that the prompt says."""
        return self.right and all(self.followed)


@torch.no_grad()
def confirm(model: LocalModel, planted: Planted) -> Confirmation:
    """Whether the planted causes are the model's own.

    Every change makes another prompt of the same family, so that the model is nowhere asked what it has never seen: no
    word is deleted. What is written before the answer is given, what the model makes of it is read. It takes a forward
    pass for the prompt itself and for each change that leaves the answer what it was, two for every other change, and
    those that writing takes.
    """
    ids = model.codec.encode(planted.prompt).ids
    expected = model.codec.encode_output(planted.prompt, ids, planted.output)
    written = tuple(token for token in model.generate(ids, len(expected) + 1) if token not in model.stop_ids)
    before = _read(model, planted, [Change({}, planted.answered, ())])[0]
    found = _read(model, planted, planted.changes)
    drops = tuple(before[1] - logprob for _, logprob in found)
    effects: list[float | None] = []
    for index in range(len(planted.parts)):
        own = [drop for drop, change in zip(drops, planted.changes, strict=True) if index in change.tested]
        effects.append(float(np.mean(own)) if own else None)
    return Confirmation(written == expected, tuple(followed for followed, _ in found), drops, tuple(effects))


def _read(model: LocalModel, planted: Planted, changes: Sequence[Change]) -> list[tuple[bool, float]]:
    """After each change, whether its answer is likeliest, and the log-probability of the first answer in nats."""
    texts: list[_Text] = []
    places: list[tuple[int, int]] = []
    for change in changes:
        prompt, output = planted.changed(change)
        start = planted.answer[0] + sum(
            len(text) - (planted.parts[index].end - planted.parts[index].start)
            for index, text in change.texts.items()
            if planted.parts[index].written
        )
        rest = output[start + len(change.answer) :]
        answers = dict.fromkeys((change.answer, planted.answered))  # one text, where they are the same
        texts += [_located(model, prompt, output[:start], answer, rest) for answer in answers]
        places.append((len(texts) - len(answers), len(texts) - 1))
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index].ids))
    found: dict[int, tuple[bool, float]] = {}
    while order:
        count = max(1, _TOKENS_AT_ONCE // len(texts[order[0]].ids))
        some, order = order[:count], order[count:]
        found |= zip(some, _logprobs(model, [texts[index] for index in some]), strict=True)
    return [(found[own][0], found[first][1]) for own, first in places]


@dataclass(frozen=True)
class _Text:
    """The ids of a prompt and its output; the places among them of the answer, and of the token behind it, if any."""

    ids: list[int]
    answer: list[int]
    behind: list[int]


def _located(model: LocalModel, prompt: str, before: str, answer: str, rest: str) -> _Text:
    ids = model.codec.encode(prompt).ids
    output = model.codec.encode_output(prompt, ids, before + answer + rest)
    places = find_outputs(model.codec.output_texts(ids, output), (len(before), len(before) + len(answer)))
    start, end = len(ids) + places[0], len(ids) + places[-1] + 1
    whole = [*ids, *output]
    return _Text(whole, list(range(start, end)), [end] if end < len(whole) else [])


def _logprobs(model: LocalModel, texts: Sequence[_Text]) -> list[tuple[bool, float]]:
    """For each text whether its answer is likeliest, to its end, and the answer's log-probability in nats."""
    padded = torch.full((len(texts), len(texts[0].ids)), texts[0].ids[0])  # behind their ends, where nothing looks
    for row, text in enumerate(texts):
        padded[row, : len(text.ids)] = torch.tensor(text.ids)
    rows = sorted({place - 1 for text in texts for place in (*text.answer, *text.behind)})
    with model.borrowed():
        logits = model.logits(padded.to(model.device), torch.tensor(rows, device=model.device))
    logprobs = logits.double().log_softmax(-1).cpu()
    found: list[tuple[bool, float]] = []
    for row, text in enumerate(texts):
        places = [*text.answer, *text.behind]
        read = logprobs[row, [rows.index(place - 1) for place in places]]
        wanted = torch.tensor([text.ids[place] for place in places])
        own = read.gather(1, wanted[:, None])[: len(text.answer)].sum()
        # The token behind tells "3" from the beginning of "37".
        found.append((bool((read.argmax(-1) == wanted).all()), float(own)))
    return found
