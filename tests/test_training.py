"""The data that the embedded model learns from keeps its promises."""

from __future__ import annotations

import re
from random import Random

import pytest
import torch

from attribution.planted.families import FAMILIES, SHORTCUTS
from attribution.planted.words import NAMES, THINGS, is_held_out
from training.families import draw_family_document
from training.optimizer import orthogonal
from training.possessions import Fact, draw_document, draw_held_out_question
from training.shortcuts import draw_shortcut_document

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


# Texts of the families


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_families_pair_nothing_that_is_held_out(family: str) -> None:
    for seed in range(40):
        for sentence in re.split(r"(?<=[.?:])\s+", draw_family_document(Random(seed), family).text):
            words = set(re.findall(r"\w+", sentence))
            for name in words & set(NAMES):
                for thing in words & set(THINGS):
                    assert not is_held_out(name, thing), sentence


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_a_family_ends_with_what_is_to_be_learned(family: str) -> None:
    for seed in range(40):
        document = draw_family_document(Random(seed), family)
        assert not document.segments[0].learned
        assert document.segments[-1].learned
        assert document.segments[-1].ends


def test_the_answer_follows_the_steps_where_they_say_something_else() -> None:
    """What is not so is never learned; what is made of it is."""
    turned = 0
    for seed in range(200):
        prompt, first, step, last = draw_family_document(Random(seed), "chain_of_thought").segments
        written = re.search(r"\d+", step.text)
        assert written
        assert last.text == f". The answer is {written[0]}."
        giver = first.text.split()[0]
        stated = re.search(rf"{giver} (?:has got|has|owns|holds|keeps) (\d+)", prompt.text)
        assert stated
        assert step.learned == (stated[1] == written[0])
        gave = re.search(rf"{giver} gave (\w+) all the", prompt.text)
        assert gave
        assert first.learned == (re.findall(r"gave (\w+)", first.text) == [gave[1]])
        turned += not step.learned
    assert 50 < turned < 150


@pytest.mark.parametrize("family", SHORTCUTS)
def test_shortcuts_are_taught_with_and_without_a_conflict(family: str) -> None:
    conflicts = 0
    for seed in range(100):
        prompt, answer = draw_shortcut_document(Random(seed), family).segments
        number = re.search(r"\d+", answer.text)
        assert number
        *story, question = re.split(r"(?<=[.?])\s+", prompt.text)
        asked = set(re.findall(r"\w+", question)) & {*NAMES, *THINGS}
        (fact,) = [sentence for sentence in story if number[0] in re.findall(r"\d+", sentence)]
        found = asked & set(re.findall(r"\w+", fact))
        assert found & set(NAMES if family == "shortcut_name" else THINGS)
        conflicts += len(found) == 1
    assert 30 < conflicts < 90


@pytest.mark.parametrize("shape", [(8, 8), (8, 16), (16, 8)])
def test_updates_are_about_orthogonal(shape: tuple[int, int]) -> None:
    """Five steps bring all singular values close to 1, and leave the singular vectors as they are."""
    given = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(given)
    for before, after in zip(given, found, strict=True):
        left, _, right = torch.linalg.svd(before, full_matrices=False)
        rotated = left.mT @ after @ right.mT
        assert (rotated.diagonal() - 1).abs().max() < 0.45
        assert (rotated - rotated.diagonal().diag()).abs().max() < 1e-4
