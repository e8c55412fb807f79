"""The data that the embedded model learns from keeps its promises."""

from __future__ import annotations

import re
from random import Random

import pytest

from training.possessions import (
    NAMES,
    THINGS,
    Fact,
    draw_document,
    draw_held_out_question,
    is_held_out,
)

DOCUMENTS = [draw_document(Random(seed)) for seed in range(3000)]
QUESTIONS = [draw_held_out_question(Random(seed)) for seed in range(1000)]

HELD_OUT = [(name, thing) for name in NAMES for thing in THINGS if is_held_out(name, thing)]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?])\s+", text)


def test_a_tenth_of_all_pairs_is_held_out() -> None:
    assert 0.08 < len(HELD_OUT) / (len(NAMES) * len(THINGS)) < 0.13
    assert ("Sam", "apples") in HELD_OUT  # the question of the demo was never trained on


def test_no_training_document_states_or_asks_about_a_held_out_pair() -> None:
    """The clauses and questions are read back from the text, so this does not trust the generator's own bookkeeping."""
    held_out = set(HELD_OUT)
    singular = {Fact("", thing, 1).quantity.removeprefix("1 "): thing for thing in THINGS}
    seen = 0
    for document in DOCUMENTS:
        for sentence in sentences(document.text):
            owner = None
            for word in re.findall(r"\w+", sentence):
                if word in NAMES:
                    owner = word
                thing = word if word in THINGS else singular.get(word)
                if owner and thing:
                    assert (owner, thing) not in held_out, sentence
                    seen += 1
            for pattern in (r"(\w+) belong to (\w+)", r"[Hh]ow many (\w+) (?:does|has) (\w+)", r"Of (\w+), (\w+) has"):
                for thing, name in re.findall(pattern, sentence):
                    assert (name, thing) not in held_out, sentence
    assert seen > 10_000


def test_every_answer_is_stated() -> None:
    for document in DOCUMENTS:
        story = document.segments[0].text
        for segment in document.segments:
            if segment.answers:
                for number in re.findall(r"\d+", segment.text):
                    assert re.search(rf"\b{number}\b", story)


def test_held_out_questions() -> None:
    for question in QUESTIONS:
        assert is_held_out(question.fact.name, question.fact.thing)
        assert question.fact.name in question.prompt
        assert question.fact.thing in question.prompt
        assert 0 <= question.fact.number <= 99
        assert question.answer == f"\n\nThe answer is {question.fact.number}."
    assert {question.people for question in QUESTIONS} == {2, 3, 4}
    both = sum(question.needs_name and question.needs_thing for question in QUESTIONS)
    assert both > 250  # in a good share name and thing are both needed


def test_a_seed_fixes_the_data() -> None:
    assert DOCUMENTS[:50] == [draw_document(Random(seed)) for seed in range(50)]
    assert QUESTIONS[:50] == [draw_held_out_question(Random(seed)) for seed in range(50)]
    assert DOCUMENTS[0] != DOCUMENTS[1]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_quantities_are_english(number: int) -> None:
    assert Fact("Sam", "boxes", number).sentence == f"Sam has {number} {'box' if number == 1 else 'boxes'}."
    assert Fact("Sam", "apples", number).quantity == f"{number} apple{'' if number == 1 else 's'}"
