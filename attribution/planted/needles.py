"""Needles: one sentence of a long text decides."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from attribution.planted.prompt import Planted, Slot, plant
from attribution.planted.sentences import Sentence, draw_numbers, joined
from attribution.planted.words import FILLERS, NAMES, QUESTIONS, THINGS, VERBS, draw_words, is_held_out


def needle(random: Random, held_out: bool, sentences: int | None = None) -> Planted:
    """One sentence among 20 to 200 states the fact; others share its name or its thing. To be explained by sentence."""
    count = sentences or random.choice((20, 20, 30, 40, 60, 100, 150, 200))
    (own,), (thing,) = draw_words(random, 1, 1, held_out=held_out)
    answer, fresh, last = draw_numbers(random, 3)
    pairs: dict[tuple[str, str], None] = {}
    for place in range(1 + round(count * random.choice((0.15, 0.3, 0.5)))):
        name = own if random.random() < 0.1 else random.choice(NAMES)
        what = thing if place == 0 or random.random() < 0.1 else random.choice(THINGS)
        if (name, what) != (own, thing) and (held_out or not is_held_out(name, what)):
            pairs[name, what] = None
    verbs = VERBS if random.random() < 0.4 else VERBS[:1]
    others = [str(n) for n in range(2, 100) if str(n) not in (answer, fresh, last)]
    texts = [f"{name} {random.choice(verbs)} {random.choice(others)} {what}." for name, what in pairs][: count - 1]
    while len(texts) < count - 1:
        texts.append(_plain(random, held_out, others))
    random.shuffle(texts)
    tried = set(random.sample(range(count - 1), 3))  # a sentence that says nothing in the place of each of these
    story: list[Sentence] = [
        [Slot(text, "irrelevant", "other sentence", {_says_nothing(text): answer} if place in tried else {})]
        for place, text in enumerate(texts)
    ]
    verb = random.choice(verbs)
    said, *instead = (f"{own} {verb} {n} {thing}." for n in (answer, fresh, last))
    fact = Slot(said, "cause", "needle", dict(zip(instead, (fresh, last), strict=True)))
    story.insert(random.randint(0, len(story)), [fact])
    asked = random.choice(QUESTIONS[:1] * 5 + QUESTIONS).format(n=own, t=thing)
    return plant("needle", joined(story, [Slot(asked, "open", "question")]), answer, units="sentence")


def _says_nothing(text: str) -> str:
    """A sentence that says nothing of what anybody has, other than this one."""
    return next(filler for filler in ("Everyone is happy.", "It rained all morning.") if filler != text)


def _plain(random: Random, held_out: bool, numbers: Sequence[str]) -> str:
    """A filler as plain text, with one of these numbers."""
    n, m = random.sample(NAMES, 2)
    thing = random.choice([thing for thing in THINGS if held_out or not is_held_out(n, thing)])
    return random.choice(FILLERS).format(n=n, m=m, t=thing, k=random.choice(numbers))
