"""Training texts as examples: ids, what is to be written next, and hints of what to know and where to look."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from attribution.planted.words import LABELS, LOOKALIKES, NAMES, OPENINGS, THINGS, noun
from training.possessions import Document

# After which layer each is read off.
HINT_LAYERS = {"name": 2, "thing": 2, "number": 2, "status": 2, "giver": 2, "label": 2, "holder": 3}
HINTS = tuple(HINT_LAYERS)

_MENTION = re.compile(r"(\d+) (\w+)")
_NAME = re.compile("|".join(sorted(NAMES, key=len, reverse=True)))
_NOUNS = {*THINGS, *(noun(1, thing) for thing in THINGS)}
_GIFT = re.compile(r"(\w+) gave (\w+) all the (\w+)")
_EXAMPLE = re.compile(rf"({'|'.join(LABELS)}):(?: ({'|'.join(OPENINGS)}))?")
# What a clause says of a number: that it is so, that it was, that it is not, or something else.
_STATUS = (("had", "had"), ("does not have", "not"), *((verb, "wants") for verb in LOOKALIKES), ("", "has"))


@dataclass(frozen=True)
class Example:
    """A document as ids. `labels` are what the model is to write next, by position.

    `hints` are what a position ought to know, as (position, index in HINTS, id): the owner, the number and what is said
    of it at a thing of the story; the giver at who was given something; the label at the opening of an example; and
    before a number of an answer whose and of what it is, and from whose fact. `looks` are where a position ought to
    look, as (position, position): from before an answer about who was given something to the thing that was given, and
    from before the opening of an answer to that of the example with its label.
    """

    ids: list[int]
    labels: dict[int, int]
    hints: list[tuple[int, int, int]]
    looks: list[tuple[int, int]]


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
        looks, given, shown = list[tuple[int, int]](), dict[str, int](), dict[str, int]()
        for segment in document.segments:
            piece, offsets = next(pieces)
            start = len(ids)
            ids += piece
            if segment is document.segments[0]:
                hints += self._story_hints(segment.text, offsets)
                given = {gift[2]: _token_at(offsets, gift.start(3)) for gift in _GIFT.finditer(segment.text)}
                examples = [example for example in _EXAMPLE.finditer(segment.text) if example[2]]
                shown = {example[1]: _token_at(offsets, example.start(2)) for example in examples}
            if not segment.learned:
                continue
            labels |= {start - 1 + i: token for i, token in enumerate(piece)}
            if segment.answers:
                # Before the number, or before the first word of steps that come to it later.
                first = next((i for i, (a, b) in enumerate(offsets) if segment.text[a:b].strip().isdigit()), 1)
                before = start + first - 1
                hints.append((before, HINTS.index("name"), self._vocabulary[segment.answers.name]))
                if segment.holder:
                    hints.append((before, HINTS.index("holder"), self._vocabulary[segment.holder]))
                    if segment.answers.name in given:
                        looks.append((before, given[segment.answers.name]))
                if segment.label:  # before the opening, which stands behind a space of its own
                    hints.append((start, HINTS.index("label"), self._vocabulary[segment.label]))
                    looks.append((start, shown[segment.label]))
                if segment.thing_known:
                    hints.append((before, HINTS.index("thing"), self._vocabulary["Ġ" + segment.answers.thing]))
            if segment.ends:
                # Even where the document goes on with another question.
                labels[len(ids) - 1] = self._vocabulary["<eos>"]
        return Example(ids, labels, hints, looks)

    def _story_hints(self, story: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """What the story says: at each of its numbers whose it is, and so on; at who was given something, by whom."""
        hints: list[tuple[int, int, int]] = []
        starts = [start for start, _ in offsets]
        for mention in _MENTION.finditer(story):
            names = _NAME.findall(story, story.rfind(".", 0, mention.start()) + 1, mention.start())
            if mention[2] not in _NOUNS or not names:
                continue
            tokens = [
                i + 1
                for i in range(bisect_right(starts, mention.start()) - 1, bisect_left(starts, mention.end()))
                if offsets[i][1] > mention.start()
            ]
            hints += [(token, HINTS.index("name"), self._vocabulary[names[-1]]) for token in tokens]
            hints.append((tokens[-1], HINTS.index("number"), self._vocabulary["Ġ" + mention[1][0]]))
            clause = story[story.rfind(names[-1], 0, mention.start()) + len(names[-1]) : mention.start()]
            status = next(word for verb, word in _STATUS if verb in clause)
            hints.append((tokens[-1], HINTS.index("status"), self._vocabulary["Ġ" + status]))
        for gift in _GIFT.finditer(story):
            # At the thing, as for a fact, so that the look-up by name and thing that finds facts finds gifts too.
            token = _token_at(offsets, gift.start(3))
            told = {"giver": gift[1], "name": gift[2], "thing": "Ġ" + gift[3]}
            hints += [(token, HINTS.index(kind), self._vocabulary[word]) for kind, word in told.items()]
        for example in _EXAMPLE.finditer(story):
            place = example.start(2) if example[2] else example.end(1)  # what opens the answer, or the colon
            token = _token_at(offsets, place)
            hints.append((token, HINTS.index("label"), self._vocabulary[example[1]]))
        return hints


def _token_at(offsets: Sequence[tuple[int, int]], character: int) -> int:
    """The token of a document, the one that begins it counted, in which this character of its first segment is."""
    return bisect_right([start for start, _ in offsets], character)


Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Ids `[batch, token]` padded on the right; labels `[label, 3]`, hints `[hint, 4]` and looks `[look, 3]`, each with its
row before its position."""


def collate(examples: Sequence[Example]) -> Batch:
    """The examples as one batch."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(example.ids) for example in examples], batch_first=True)
    labels = [(row, position, label) for row, e in enumerate(examples) for position, label in e.labels.items()]
    hints = [(row, *hint) for row, e in enumerate(examples) for hint in e.hints]
    looks = [(row, *look) for row, e in enumerate(examples) for look in e.looks]
    return ids, torch.tensor(labels), torch.tensor(hints), torch.tensor(looks, dtype=torch.long).reshape(-1, 3)
