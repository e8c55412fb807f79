"""Possession stories with known answers: the data of the embedded model.

A story states who has how many of what ("Sam has 3 apples and Tom has 5 oranges."), then asks for one of the stated
numbers. Every story is drawn from a `random.Random`, so a seed fixes the whole data set. Only questions whose answer
is stated are ever asked.

Some (name, thing) pairs are held out: a training story never states or asks about one of them, a held-out question
always asks about one. So a model can answer held-out questions only by looking the answer up in the story.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from attribution.planted.words import FILLERS, NAMES, QUESTIONS, THINGS, VERBS, is_held_out, noun

# {n} is a person, {q} one or several quantities with their things ("3 apples and 4 pears").
_CLAUSES = tuple(f"{{n}} {verb} {{q}}" for verb in VERBS)

REORDER_REQUEST = "Say this in another order."
LIST_REQUEST = "Say this thing by thing."
SENTENCE_REQUEST = "Answer in a sentence."


@dataclass(frozen=True)
class Fact:
    """`name` has `number` of `thing`; `thing` is a plural."""

    name: str
    thing: str
    number: int

    @property
    def quantity(self) -> str:
        """Number and thing, such as "3 apples", or "1 apple"."""
        return f"{self.number} {noun(self.number, self.thing)}"

    @property
    def sentence(self) -> str:
        return f"{self.name} has {self.quantity}."


@dataclass(frozen=True)
class Question:
    """A prompt, the fact that answers it, and what of the question it takes to find that fact."""

    prompt: str
    fact: Fact
    people: int
    needs_name: bool
    needs_thing: bool

    @property
    def answer(self) -> str:
        return f"\n\nThe answer is {self.fact.number}."


@dataclass(frozen=True)
class Segment:
    """A piece of a training document.

    `learned` where the model is to learn to write it. `answers` is the fact whose number it states; `thing_known` says
    that the reader knows of which thing the number is before it comes, `ends` that the text may end after it. `holder`
    is whose fact the number is read from, where that is another than who is asked about; `label` that of the example
    whose form it takes.
    """

    text: str
    answers: Fact | None = None
    thing_known: bool = False
    ends: bool = False
    holder: str = ""
    label: str = ""
    learned: bool = False


@dataclass(frozen=True)
class Document:
    """A training text: the story first, then whatever is asked of it."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


def draw_facts(random: Random, *, must_hold: tuple[str, str] | None = None, size: int = 7) -> tuple[Fact, ...]:
    """Between two and `size` facts about two to four people, in no order.

    Without `must_hold` no held-out pair is among them; with it, that pair is, and the others are drawn freely.
    Half of the stories take their things from a pool so small that several people have the same thing.
    """
    people = random.choice((2, 2, 3, 3, 4))
    names = random.sample(NAMES, people)
    if must_hold:
        names = [must_hold[0], *[name for name in names if name != must_hold[0]][: people - 1]]
    shared_things = random.random() < 0.5
    pool = random.sample(THINGS, random.choice((2, 3))) if shared_things else random.sample(THINGS, 12)
    if must_hold:
        pool = [must_hold[1], *[thing for thing in pool if thing != must_hold[1]]]
    pairs = [must_hold] if must_hold else []
    for name in names:
        free = [t for t in pool if (name, t) not in pairs and (must_hold is not None or not is_held_out(name, t))]
        wanted = random.choice((1, 2, 2, 3)) if shared_things else random.choice((1, 1, 1, 2, 3))
        owned = sum(1 for pair in pairs if pair[0] == name)
        pairs += [(name, thing) for thing in random.sample(free, min(max(wanted - owned, 0), len(free)))]
    if must_hold is None and len({name for name, _ in pairs}) < 2:
        return draw_facts(random, size=size)
    first = must_hold or pairs[0]
    other = next(pair for pair in pairs if pair[0] != first[0])
    rest = [pair for pair in pairs if pair not in (first, other)]
    kept = [first, other, *random.sample(rest, min(len(rest), size - 2))]
    random.shuffle(kept)
    # All small numbers, or any: one digit should be about as common as two.
    high = random.choice((9, 20, 99, 99))
    return tuple(Fact(name, thing, random.randint(0, high)) for name, thing in kept)


def tell(random: Random, facts: Sequence[Fact]) -> str:
    """The facts as running text, in the given order, with or without distracting sentences."""
    clauses = _clauses(random, facts)
    sentences: list[str] = []
    while clauses:
        taken = clauses[: random.choice((1, 1, 2, 2, 3))]
        del clauses[: len(taken)]
        sentences.append(_join(taken) + ".")
    if random.random() < 0.35:
        for _ in range(random.choice((1, 1, 2))):
            sentences.insert(random.randint(0, len(sentences)), _distractor(random, facts))
    return " ".join(sentences)


def _clauses(random: Random, facts: Sequence[Fact]) -> list[str]:
    """One clause per fact, or one per run of facts about the same person."""
    usual = random.random() < 0.6
    clauses: list[str] = []
    position = 0
    while position < len(facts):
        end = position + 1
        while end < len(facts) and facts[end].name == facts[position].name and random.random() < 0.8:
            end += 1
        run = facts[position:end]
        form = _CLAUSES[0] if usual else random.choice(_CLAUSES)
        clauses.append(form.format(n=run[0].name, q=_join([fact.quantity for fact in run])))
        position = end
    return clauses


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _distractor(random: Random, facts: Iterable[Fact]) -> str:
    present = sorted({fact.name for fact in facts})
    n, m = random.sample(present if random.random() < 0.6 else NAMES, 2)
    thing = random.choice([thing for thing in THINGS if not is_held_out(n, thing)])
    return random.choice(FILLERS).format(n=n, m=m, t=thing, k=random.randint(0, 99))


def _ordered(random: Random, facts: Sequence[Fact]) -> list[Fact]:
    """The facts scattered, or grouped by person."""
    shuffled = random.sample(facts, len(facts))
    if random.random() < 0.6:
        names = list(dict.fromkeys(fact.name for fact in shuffled))
        shuffled.sort(key=lambda fact: names.index(fact.name))
    return shuffled


def ask(random: Random, fact: Fact) -> str:
    """A question whose answer is `fact`; half of all questions take the first form."""
    form = QUESTIONS[0] if random.random() < 0.5 else random.choice(QUESTIONS)
    return form.format(n=fact.name, t=fact.thing)


def draw_document(random: Random, *, size: int = 7) -> Document:
    """One training document about at most `size` facts: in two of five a restatement, else questions with answers."""
    facts = _ordered(random, draw_facts(random, size=size))
    story = tell(random, facts)
    if random.random() < 0.4:
        request = random.choice((REORDER_REQUEST, LIST_REQUEST))
        segments = [Segment(f"{story} {request}")]
        by_thing = request == LIST_REQUEST
        for place, fact in enumerate(random.sample(facts, len(facts)), 1):
            text = f"Of {fact.thing}, {fact.name} has {fact.number}." if by_thing else fact.sentence
            segments.append(
                Segment((" " if place > 1 else "\n\n") + text, fact, by_thing, place == len(facts), learned=True)
            )
        return Document(tuple(segments))
    segments = [Segment(story)]
    for place, fact in enumerate(random.sample(facts, min(len(facts), random.choice((1, 2, 3))))):
        question = ("\n\n" if place else " ") + ask(random, fact)
        if random.random() < 0.3:
            segments += [
                Segment(f"{question} {SENTENCE_REQUEST}"),
                Segment(f"\n\n{fact.sentence}", fact, True, True, learned=True),
            ]
        else:
            segments += [
                Segment(question),
                Segment(f"\n\nThe answer is {fact.number}.", fact, True, True, learned=True),
            ]
    return Document(tuple(segments))


def draw_held_out_question(random: Random) -> Question:
    """A question about a (name, thing) pair that no training story contains."""
    while True:
        name, thing = random.choice(NAMES), random.choice(THINGS)
        if is_held_out(name, thing):
            break
    facts = draw_facts(random, must_hold=(name, thing))
    fact = next(fact for fact in facts if (fact.name, fact.thing) == (name, thing))
    return Question(
        prompt=f"{tell(random, _ordered(random, facts))} {ask(random, fact)}",
        fact=fact,
        people=len({f.name for f in facts}),
        needs_name=sum(f.thing == thing for f in facts) > 1,
        needs_thing=sum(f.name == name for f in facts) > 1,
    )
