"""Training texts of the families of planted prompts: what is learned in each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from attribution.planted.families import FAMILIES, draw
from attribution.planted.prompt import Planted
from attribution.planted.words import QUESTIONS, VERBS
from training.possessions import Document, Fact, Segment, ask

_ASKED = re.compile(
    "|".join(re.escape(form).replace(r"\{t\}", r"(\w+)").replace(r"\{n\}", r"(\w+)") for form in QUESTIONS)
)
_FACT = re.compile(rf"(\w+) (?:{'|'.join(sorted(VERBS, key=len, reverse=True))}) (\d+) (\w+)\.")
_GIFT = re.compile(r"(\w+) gave (\w+) all the \w+\.")
WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("single", "redundancy"), 0.3),
    **dict.fromkeys(("update", "distractors", "hijack"), 0.5),
    **dict.fromkeys(("conjunction", "written_step", "chain_of_thought"), 0.8),
    "few_shot": 1.2,
    "two_hops": 1.5,
}
"""How often each family but needles is drawn: more often what takes longest."""
_MORE_QUESTIONS = 6
"""Of a long text, since most of the work is to read it."""
_CORRUPTED = 0.5
"""Share of the texts with steps in which a step says what the prompt does not, so that what comes reads the steps."""


def draw_family_document(random: Random, family: str = "", *, needles: float = 1.2) -> Document:
    """A training text of this family, or of any, each as often as `WEIGHTS` and `needles` say."""
    if not family:
        family = random.choices(list(FAMILIES), [{**WEIGHTS, "needle": needles}[name] for name in FAMILIES])[0]
    planted = draw(family, random, held_out=False)
    if family in ("written_step", "chain_of_thought"):
        return _steps(random, planted)
    name, thing = _asked(planted.prompt)
    number = re.search(r"\d+", planted.output)
    assert number
    givers = {receiver: giver for giver, receiver in _GIFT.findall(planted.prompt)}
    fact = Fact(name, thing, int(number[0]))
    label = planted.prompt.split()[-1].removesuffix(":") if family == "few_shot" else ""
    answer = Segment(planted.output, fact, True, True, givers.get(name, ""), label, learned=True)
    if family == "needle":
        return Document((Segment(planted.prompt), answer, *_more_questions(random, planted.prompt, fact)))
    if family == "two_hops":
        return Document((Segment(planted.prompt), answer, *_other_gift(random, planted.prompt, fact)))
    return Document((Segment(planted.prompt), answer))


def _other_gift(random: Random, prompt: str, asked: Fact) -> list[Segment]:
    """The question about who was given what the other one had, with its answer."""
    numbers = {name: int(number) for name, number, _ in _FACT.findall(prompt)}
    ((giver, receiver),) = [gift for gift in _GIFT.findall(prompt) if gift[1] != asked.name]
    return _answered(random, Fact(receiver, asked.thing, numbers[giver]), giver)


def _answered(random: Random, fact: Fact, holder: str = "") -> list[Segment]:
    answer = f"\n\nThe answer is {fact.number}."
    return [Segment(f"\n\n{ask(random, fact)}"), Segment(answer, fact, True, True, holder, learned=True)]


def _more_questions(random: Random, prompt: str, asked: Fact) -> list[Segment]:
    """Questions about other facts that a long text states, with their answers."""
    stated = {(name, thing): int(number) for name, number, thing in _FACT.findall(prompt)}
    others = sorted(pair for pair in stated if pair != (asked.name, asked.thing))
    found: list[Segment] = []
    for name, thing in random.sample(others, min(_MORE_QUESTIONS, len(others))):
        found += _answered(random, Fact(name, thing, stated[name, thing]))
    return found


def _asked(prompt: str) -> tuple[str, str]:
    """The name and the thing that the last question asks for."""
    last = list(_ASKED.finditer(prompt))[-1]
    one, other = (group for group in last.groups() if group)
    return (one, other) if one[0].isupper() else (other, one)


def _steps(random: Random, planted: Planted) -> Document:
    """The written steps, in some texts with a giver or a number that is not what the prompt says."""
    asked, thing = _asked(planted.prompt)
    givers = {receiver: giver for giver, receiver in _GIFT.findall(planted.prompt)}
    numbers = {name: number for name, number, _ in _FACT.findall(planted.prompt)}
    giver, is_true = givers[asked], True
    if random.random() < _CORRUPTED:
        giver = random.choice(list(givers.values()))
        is_true = giver == givers[asked]
    number = numbers[giver]
    first = f"\n\n{giver} gave {asked} all the {thing}. {giver} has"
    asked_fact = Fact(asked, thing, int(number))
    segments = [
        Segment(planted.prompt),
        Segment(first, asked_fact if is_true else None, True, holder=giver, learned=is_true),
    ]
    written = str(random.randint(2, 99)) if random.random() < _CORRUPTED else number
    fact = Fact(giver, thing, int(written))
    segments.append(
        Segment(f" {written}", fact if written == number else None, True, holder=giver, learned=written == number)
    )
    segments.append(Segment(f". The answer is {written}.", None, True, True, learned=True))
    return Document(tuple(segments))
