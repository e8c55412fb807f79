"""Edits: what a prompt reads after a change, whatever kind of prompt it is."""

from __future__ import annotations

import re

import pytest

from attribution.edits import Edit, apply, read_writing
from attribution.errors import InputError
from attribution.models.local import LocalModel
from attribution.prompts.chat import Chat
from attribution.prompts.prompt import divide
from attribution.prompts.rendered import Rendered
from attribution.prompts.units import check_units
from attribution.question import read_prompt
from tests.templates import FAMILIES
from tests.tiny import tiny_model
from tests.tokenizers_ import chat_tokenizer

TEXT = "Sam has 3 apples. Tom has 5 oranges.\nHow many apples does Sam have?"
MESSAGES = [
    {"role": "system", "content": "Be brief. Never lie."},
    {"role": "user", "content": "Tom has 5 oranges. Who has 3?"},
]


@pytest.fixture(scope="module")
def chatty() -> LocalModel:
    family = next(family for family in FAMILIES if family.name == "chatml")
    return LocalModel(tiny_model("llama"), chat_tokenizer(family))


def edited(model: LocalModel, prompt, edit: Edit, units: str = "word"):
    source = read_prompt(model, prompt)
    divided = divide(source, model.codec.encode_source(source), check_units(units))
    return apply(edit, read_writing(prompt), divided)


@pytest.mark.parametrize(
    ("edit", "expected", "words"),
    [
        (Edit.remove("Tom"), "Sam has 3 apples. has 5 oranges.\nHow many apples does Sam have?", "without 'Tom'"),
        (
            Edit.remove("oranges"),
            "Sam has 3 apples. Tom has 5.\nHow many apples does Sam have?",
            "without 'oranges'",
        ),
        (
            Edit.remove(re.compile("Sam ?")),
            "has 3 apples. Tom has 5 oranges.\nHow many apples does have?",
            "without 'Sam ' (2 times)",
        ),
        (Edit.remove((0, 4)), "has 3 apples. Tom has 5 oranges.\nHow many apples does Sam have?", "without 'Sam'"),
        (Edit.remove("How many apples does Sam have?"), "Sam has 3 apples. Tom has 5 oranges.\n", None),
        (
            Edit.replace("Tom", "Ann"),
            "Sam has 3 apples. Ann has 5 oranges.\nHow many apples does Sam have?",
            "'Tom' → 'Ann'",
        ),
        (
            Edit.replace(re.compile(r"\d"), "7"),
            "Sam has 7 apples. Tom has 7 oranges.\nHow many apples does Sam have?",
            "'3' and '5' → '7'",
        ),
        (
            Edit.swap("3", "oranges"),
            "Sam has oranges apples. Tom has 5 3.\nHow many apples does Sam have?",
            "'3' ⇄ 'oranges'",
        ),
        (
            Edit.move("Tom has 5 oranges.", before="Sam has"),
            "Tom has 5 oranges.\nSam has 3 apples.\nHow many apples does Sam have?",
            "'Tom has 5 oranges.' before 'Sam has'",
        ),
        (
            Edit.move("Sam has 3 apples.", before="How"),
            "Tom has 5 oranges.\nSam has 3 apples. How many apples does Sam have?",
            None,
        ),
        (Edit.rewrite("Another."), "Another.", "another prompt"),
    ],
)
def test_edits_of_a_text(edit: Edit, expected: str, words: str | None, llama: LocalModel) -> None:
    prompt, said = edited(llama, TEXT, edit)
    assert prompt == expected
    assert words in (None, said)


def test_units_by_their_index(llama: LocalModel) -> None:
    # 0 is BOS; the white space that is a unit's own goes with it.
    assert edited(llama, TEXT, Edit.replace(1, "Ann"))[0] == TEXT.replace("Sam", "Ann", 1)
    assert edited(llama, TEXT, Edit.remove(2))[0] == TEXT.replace(" has", "", 1)
    assert edited(llama, TEXT, Edit.swap(1, 2), "sentence")[0] == (
        "Tom has 5 oranges. Sam has 3 apples.\nHow many apples does Sam have?"
    )
    assert edited(llama, TEXT, Edit.remove(-1), "line")[0] == "Sam has 3 apples. Tom has 5 oranges.\n"


def test_neighbours_are_removed_together(llama: LocalModel) -> None:
    assert edited(llama, "a b c d", Edit.remove(re.compile("b|c")))[0] == "a d"
    assert edited(llama, "a b c d", Edit.remove(re.compile("a|b|c")))[0] == "d"
    assert edited(llama, "a b", Edit.remove(re.compile(r"\w")))[0] == ""


def test_edits_of_a_chat_are_made_in_its_messages(chatty: LocalModel) -> None:
    changed, _ = edited(chatty, MESSAGES, Edit.replace("Tom", "Ann"))
    assert isinstance(changed, Chat)
    assert changed.messages == ({**MESSAGES[0]}, {"role": "user", "content": "Ann has 5 oranges. Who has 3?"})
    changed, _ = edited(chatty, MESSAGES, Edit.swap("Never lie.", "Who has 3?"))
    assert isinstance(changed, Chat)
    assert [message["content"] for message in changed.messages] == [
        "Be brief. Who has 3?",
        "Tom has 5 oranges. Never lie.",
    ]
    changed, _ = edited(chatty, MESSAGES, Edit.remove((1, 0, 19)))
    assert isinstance(changed, Chat)
    assert changed.messages[1]["content"] == "Who has 3?"
    assert MESSAGES[1]["content"] == "Tom has 5 oranges. Who has 3?"  # what was given stays as it was


def test_a_message_that_is_removed_is_gone(chatty: LocalModel) -> None:
    source = read_prompt(chatty, MESSAGES)
    prompt = divide(source, chatty.codec.encode_source(source), check_units("message"))
    system = next(index for index, unit in enumerate(prompt.units) if unit.role == "system")
    changed, words = apply(Edit.remove(system), read_writing(MESSAGES), prompt)
    assert isinstance(changed, Chat)
    assert changed.messages == (MESSAGES[1],)
    assert words == "without 'Be brief. Never lie.'"


def test_edits_of_a_rendered_prompt_keep_its_template(chatty: LocalModel) -> None:
    rendered = Rendered("<|im_start|>user\nTom has 5.<|im_end|>", [(17, 27, "user")])
    changed, _ = edited(chatty, rendered, Edit.replace("Tom", "Anna"))
    assert changed == Rendered("<|im_start|>user\nAnna has 5.<|im_end|>", ((17, 28, "user"),))
    first = edited(chatty, rendered, Edit.remove((0, 0, 4)))[0]
    assert first == Rendered("<|im_start|>user\nhas 5.<|im_end|>", ((17, 23, "user"),))
    word = edited(chatty, rendered, Edit.remove(1))[0]
    assert word == first


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: Edit.remove("Ann"), "'Ann' does not stand in it"),
        (lambda: Edit.remove("Sam"), r"stands there 2 times. Give one of its places: \(0, 3\), \(58, 61\)"),
        (lambda: Edit.remove(99), "unit from 0 to 17, got 99"),
        (lambda: Edit.remove(0), "unit 0 is the special's"),
        (lambda: Edit.remove((3, 3)), r"Expected characters \(start, end\)"),
        (lambda: Edit.remove((0, 999)), r"Expected characters \(start, end\)"),
        (lambda: Edit.remove((0, 0, 3)), r"Expected characters \(start, end\)"),
        (lambda: Edit.remove(re.compile("x*")), "does not stand in it"),
        (lambda: Edit.remove(""), "does not stand in it"),
        (lambda: Edit.remove(1.5), "Expected a part of the prompt"),
        (lambda: Edit.remove(True), "Expected the index of a unit"),
        (lambda: Edit.replace("Tom", ""), "To remove it: Edit.remove"),
        (lambda: Edit.swap(re.compile("Sam"), "Tom"), "one place for each part to swap"),
        (lambda: Edit.swap("Tom has", "has 5"), "do not overlap"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_edits_that_do_not_fit(edit, message: str, llama: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        edited(llama, TEXT, edit())
