"""Sentences of planted stories, as pieces and slots: who has what, the question, and what says nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from random import Random

from attribution.planted.prompt import Piece, Slot
from attribution.planted.words import FILLERS, QUESTIONS, VERBS

Sentence = list[Piece]
"""The pieces of a sentence, full stop included."""

Exchange = tuple[Mapping[Slot, str], str, Sequence[Slot]]
"""New texts for slots, the answer then, and which of the slots this puts to the test."""


def draw_numbers(random: Random, count: int, taken: Set[str] = frozenset()) -> list[str]:
    """Different numbers that are not taken, from 2 on, so that things behind them are plural; small ones, or any."""
    high = 100 if taken else random.choice((10, 21, 100, 100))
    return random.sample([str(n) for n in range(2, high) if str(n) not in taken], count)


def idle(number: str, other: str, answer: str) -> Slot:
    """A number in whose place another would do."""
    return Slot(number, "irrelevant", "other number", {other: answer})


def draw_verb(random: Random, answer: str) -> Slot:
    """A way to say "has", in whose place another would do."""
    verb = VERBS[0] if random.random() < 0.6 else random.choice(VERBS)
    return Slot(verb, "template", "verb", {next(other for other in VERBS if other != verb): answer})


def state(random: Random, name: Slot, number: Slot, thing: Slot, answer: str) -> Sentence:
    """A fact: this person has so many of this thing."""
    return [name, " ", draw_verb(random, answer), " ", number, " ", thing, "."]


def ask(random: Random, name: Slot, thing: Slot) -> Sentence:
    """A question for the number; half of all take the first form."""
    form = QUESTIONS[0] if random.random() < 0.5 else random.choice(QUESTIONS)
    filled = {"{n}": name, "{t}": thing}
    return [filled.get(piece, piece) for piece in re.split(r"(\{[nt]\})", form) if piece]


def draw_filler(random: Random, names: Sequence[str], thing: str, answer: str, taken: set[str]) -> Sentence:
    """A sentence that says nothing of what anybody has; its number may be another, and neither is taken elsewhere."""
    one, other = random.sample(names, 2)
    number, fresh = draw_numbers(random, 2, taken)
    taken |= {number, fresh}
    filled = {
        "{n}": Slot(one, "irrelevant", "name in a filler"),
        "{m}": Slot(other, "irrelevant", "name in a filler"),
        "{t}": Slot(thing, "irrelevant", "thing in a filler"),
        "{k}": idle(number, fresh, answer),
    }
    form = random.choice(FILLERS)
    return [filled.get(piece, piece) for piece in re.split(r"(\{[nmtk]\})", form) if piece]


def scatter(random: Random, story: list[Sentence], sentences: Sequence[Sentence]) -> None:
    """Puts these sentences anywhere into the story."""
    for sentence in sentences:
        story.insert(random.randint(0, len(story)), sentence)


def joined(story: Sequence[Sentence], question: Sentence) -> list[Piece]:
    """The pieces of all sentences and of the question, with a space between one and the next."""
    found: list[Piece] = []
    for sentence in story:
        found += [*sentence, " "]
    return [*found, *question]
