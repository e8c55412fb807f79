"""Words of the planted stories: who has what, and which pairs of them the embedded model never saw together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

NAMES = tuple(
    (
        "Sam Tom Ann Ben Eva Max Lea Tim Mia Dan Kim Joe Amy Bob Ida Leo Zoe Ian Sue Ray Jane John Mary Paul Rosa "
        "Luke Nina Adam Lucy Mark Emma Jack Anna Eric Lily Noah Ruth Hugo Vera Omar Clara Peter Laura David Alice "
        "Simon Sarah Oscar Julia Frank Maria Felix Helen Bruno Irene Oliver Sophie Martin Teresa Victor"
    ).split()
)

THINGS = tuple(
    (
        "apples oranges pears lemons plums grapes melons bananas onions carrots eggs cakes nuts books pens "
        "pencils coins stamps marbles balls cards shells stones keys cups plates spoons forks bottles boxes bags "
        "hats shirts socks shoes rings toys dolls kites drums horses cows goats ducks cats dogs birds rabbits "
        "chairs lamps clocks flowers tickets letters maps photos candles ropes nails tomatoes"
    ).split()
)

VERBS = ("has", "owns", "holds", "has got", "keeps")
"""Ways to say that somebody has something; the first is the usual one."""

LOOKALIKES = ("wants", "sees", "needs", "draws")
"""What has the form of having something, and is not."""

LABELS = ("Red", "Blue", "Green", "Black", "White", "Brown", "Pink", "Gray")
"""What examples are labelled with."""

OPENINGS = ("Total", "Count", "Sum", "Result", "Reply", "Number", "Amount", "Exactly")
"""How the answers of examples begin."""

QUESTIONS = (
    "How many {t} does {n} have?",
    "How many {t} has {n} got?",
    "How many {t} are there in the hands of {n}?",
    "What number of {t} does {n} have?",
    "Tell me how many {t} {n} has.",
    "{n} has how many {t}?",
    "How many {t} belong to {n}?",
)
"""Ways to ask for the number of somebody's things; the first is the usual one."""

FILLERS = (
    "The weather is fine today.",
    "It rained all morning.",
    "They meet at the market.",
    "The shop closes at {k}.",
    "The bus number {k} is late.",
    "{n} is {k} years old.",
    "{n} lives in a small town.",
    "{n} likes {t}.",
    "{n} is a friend of {m}.",
    "{n} and {m} go to school.",
    "There are {k} houses in the street.",
    "Everyone is happy.",
    "{n} waits for {m}.",
    "The road to the lake is {k} miles long.",
)
"""Sentences that say nothing of what anybody has: `{n}` and `{m}` are people, `{t}` things, `{k}` a number."""

_SINGULAR = {"boxes": "box", "tomatoes": "tomato"}


def noun(number: int, thing: str) -> str:
    """The thing as it stands behind the number: "apple" behind 1, else "apples"."""
    return _SINGULAR.get(thing, thing[:-1]) if number == 1 else thing


def is_held_out(name: str, thing: str) -> bool:
    """Whether the embedded model never saw this name with this thing: about one pair in ten, and Sam with apples."""
    if (name, thing) == ("Sam", "apples"):
        return True
    return hashlib.sha256(f"{name} {thing}".encode()).digest()[0] < 26


def draw_words(random: Random, n_names: int, n_things: int, *, held_out: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Different names and things. With `held_out` the first of each were never seen together, else no two were not."""
    while True:
        names = random.sample(NAMES, n_names)
        if held_out:
            unseen = [thing for thing in THINGS if is_held_out(names[0], thing)]
            if not unseen:
                continue
            first = random.choice(unseen)
            return names, [first, *random.sample([thing for thing in THINGS if thing != first], n_things - 1)]
        seen = [thing for thing in THINGS if not any(is_held_out(name, thing) for name in names)]
        if len(seen) >= n_things:
            return names, random.sample(seen, n_things)
