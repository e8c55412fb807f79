"""Edits: what a prompt reads after a change, whatever kind of prompt it is."""

from __future__ import annotations

import re
from ast import literal_eval

import numpy as np
import pytest

from attribution.errors import InputError
from attribution.experiments.edits import Edit, apply
from attribution.models.local import LocalModel
from attribution.prompts.chat import Chat
from attribution.prompts.prompt import divide
from attribution.prompts.rendered import Rendered
from attribution.prompts.units import check_units
from attribution.prompts.writing import characters_of, find, places, read_writing, text_of
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
    source = read_prompt(model.codec, prompt)
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
            "without 'Sam' (2 times)",
        ),
        (
            Edit.remove((0, 4)),
            "has 3 apples. Tom has 5 oranges.\nHow many apples does Sam have?",
            "without 'Sam' (1 of 2)",
        ),
        (Edit.remove("How many apples does Sam have?"), "Sam has 3 apples. Tom has 5 oranges.", None),
        (Edit.remove("Tom has 5 oranges."), "Sam has 3 apples.\nHow many apples does Sam have?", None),
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
            "Tom has 5 oranges. Sam has 3 apples.\nHow many apples does Sam have?",
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
    assert edited(llama, TEXT, Edit.remove(-1), "line")[0] == "Sam has 3 apples. Tom has 5 oranges."


@pytest.mark.usefixtures("untyped")
def test_integers_of_another_type(llama: LocalModel) -> None:
    own = TEXT.replace("Sam", "Ann", 1)
    index, start, end = np.arange(1, 2)[0], np.int32(0), np.uint8(3)
    assert edited(llama, TEXT, Edit.replace(index, "Ann"))[0] == own
    assert edited(llama, TEXT, Edit.replace((start, end), "Ann"))[0] == own
    assert Edit.remove((start, end)) == Edit.remove((0, 3))


def test_white_space_around_a_part_stays(llama: LocalModel) -> None:
    ann = TEXT.replace("Tom", "Ann")
    for part, text in (("Tom ", "Ann"), (" Tom ", "Ann"), ("Tom ", "Ann "), (re.compile(r"\s*Tom\s*"), "Ann")):
        assert edited(llama, TEXT, Edit.replace(part, text))[0] == ann
    assert edited(llama, "a. b", Edit.replace(".", ".\n\n"))[0] == "a.\n\n b"  # but what is typed is put there
    assert edited(llama, "a  b", Edit.replace("  ", " "))[0] == "a b"
    assert edited(llama, TEXT, Edit.swap("Sam has ", "Tom has "))[0].startswith("Tom has 3 apples. Sam has 5")


def test_the_same_text_in_several_places_is_told_apart(llama: LocalModel) -> None:
    assert edited(llama, TEXT, Edit.remove(1))[1] == "without 'Sam' (1 of 2)"
    assert edited(llama, TEXT, Edit.remove((58, 61)))[1] == "without 'Sam' (2 of 2)"
    assert edited(llama, TEXT, Edit.swap((0, 3), "Tom"))[1] == "'Sam' (1 of 2) ⇄ 'Tom'"
    assert edited(llama, TEXT, Edit.remove(re.compile("apples|5")))[1] == "without 'apples' (2 times) and '5'"
    assert edited(llama, "a b a c a", Edit.remove(re.compile("a(?! b)")))[1] == "without 'a' (2, 3 of 3)"
    assert edited(llama, "x aaa", Edit.remove((3, 5)))[1] == "without 'aa' (2 of 2)"


DOCS = "Doc one says a.\n\nDoc two says b.\n\nDoc three says c.\n\nWhat?"
LIST = "- a\n- b\n- c"
NESTED = "- a\n  - b\n  - c\n- d"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("text", "edit", "expected"),
    [
        (
            DOCS,
            Edit.move("Doc three says c.", before="Doc one says a."),
            "Doc three says c.\n\nDoc one says a.\n\nDoc two says b.\n\nWhat?",
        ),
        (
            DOCS,
            Edit.move("Doc one says a.", before="What?"),
            "Doc two says b.\n\nDoc three says c.\n\nDoc one says a.\n\nWhat?",
        ),
        (
            DOCS,
            Edit.move("What?", before="Doc one"),
            "What?\n\nDoc one says a.\n\nDoc two says b.\n\nDoc three says c.",
        ),
        (DOCS, Edit.move("Doc one says a.", before="Doc two"), DOCS),
        (DOCS, Edit.remove("Doc two says b."), "Doc one says a.\n\nDoc three says c.\n\nWhat?"),
        (DOCS, Edit.remove("Doc one says a."), "Doc two says b.\n\nDoc three says c.\n\nWhat?"),
        (DOCS, Edit.remove("What?"), "Doc one says a.\n\nDoc two says b.\n\nDoc three says c."),
        (DOCS, Edit.remove(re.compile(r"Doc \w+ says \w\.")), "What?"),
        (DOCS, Edit.remove("says b."), "Doc one says a.\n\nDoc two\n\nDoc three says c.\n\nWhat?"),
        (LIST, Edit.move("- c", before="- a"), "- c\n- a\n- b"),
        (LIST, Edit.move("- a", before="- c"), "- b\n- a\n- c"),
        (LIST, Edit.remove(re.compile("- [bc]")), "- a"),
        (LIST, Edit.remove(re.compile("- .")), ""),
        (LIST + "\n\nWhich?", Edit.move("- c", before="- a"), "- c\n- a\n- b\n\nWhich?"),
        (LIST + "\n\nWhich?", Edit.remove("- c"), "- a\n- b\n\nWhich?"),
        ("These:\n\n" + LIST, Edit.remove("- a"), "These:\n\n- b\n- c"),
        (LIST + "\n", Edit.remove("- c"), "- a\n- b\n"),
        (NESTED, Edit.remove("- c"), "- a\n  - b\n- d"),
        (NESTED, Edit.remove("- b"), "- a\n  - c\n- d"),
        (NESTED, Edit.move("- c", before="- b"), "- a\n  - c\n  - b\n- d"),
        (NESTED, Edit.move("- d", before="- b"), "- a\n- d\n  - b\n  - c"),
        ("  - a\n  - b", Edit.move("- b", before="- a"), "  - b\n  - a"),
        ("  Tom has 5.\nWho?", Edit.remove("Tom"), "  has 5.\nWho?"),
        ("One. Two. Three.\nWho?", Edit.move("Three.", before="One."), "Three. One. Two.\nWho?"),
        ("One. Two.\n\nThree. Four.", Edit.remove(re.compile("Two.|Three.")), "One.\n\nFour."),
        ("a  b  c", Edit.remove("b"), "a  c"),
        ("a\nb\n\nc", Edit.remove(re.compile(r"[\r\n]+(?=b)|b")), "a\n\nc"),
        ("(Tom) x", Edit.remove("Tom"), "() x"),
        ("x, Tom!", Edit.remove("Tom"), "x,!"),
        ("x, Tom-like", Edit.remove("Tom"), "x, -like"),
        ("Tom", Edit.remove("Tom"), ""),
    ],
)
def test_lines_and_paragraphs_stay_apart(text: str, edit: Edit, expected: str, end: str, llama: LocalModel) -> None:
    changed, _ = edited(llama, text.replace("\n", end), edit)
    assert changed == expected.replace("\n", end)


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
    source = read_prompt(chatty.codec, MESSAGES)
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


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in Paris.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Such as Paris."}}},
    },
}
CALLING = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is Paris?"},
    {
        "role": "assistant",
        "content": "Paris, then.",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
    },
    {"role": "tool", "content": "Sun in Paris."},
]
PARTED = [{"role": "user", "content": [{"type": "text", "text": "Tom and Tom."}]}]


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        (TEXT, "Sam", [(0, 3), (58, 61)]),
        (
            Chat(CALLING, [WEATHER]),
            "Paris",
            [
                (1, 7, 12),
                (2, 0, 5),
                (2, "tool_calls[0].function.arguments.city", 0, 5),
                (3, 7, 12),
                (None, "[0].function.description", 21, 26),
                (None, "[0].function.parameters.properties.city.description", 8, 13),
            ],
        ),
        (Chat(PARTED), "Tom", [(0, "content[0].text", 0, 3), (0, "content[0].text", 8, 11)]),
        (Rendered("<u>Tom</u><a>Tom", [(3, 6, "user"), (13, 16, "assistant")]), "Tom", [(0, 0, 3), (1, 0, 3)]),
    ],
)
def test_the_places_that_an_error_offers_are_those(prompt, text: str, expected: list, llama: LocalModel) -> None:
    writing = read_writing(prompt)
    source = read_prompt(llama.codec, "a")
    units = divide(source, llama.codec.encode_source(source), check_units("word"))
    with pytest.raises(InputError, match=f"stands there {len(expected)} times. Give its characters: ") as caught:
        find(text, writing, units)
    offered = str(caught.value).partition("characters: ")[2].partition("; or")[0]
    assert [literal_eval(place) for place in offered.split(" or ")] == expected
    everywhere = places(text, writing)
    assert [characters_of(stretch) for stretch in everywhere] == expected
    for place, stretch in zip(expected, everywhere, strict=True):
        assert find(place, writing, units) == [stretch]
        after = read_writing(apply(Edit.replace(place, "Ann"), writing, units)[0])
        assert [address for address, own in writing.texts.items() if after.texts[address] != own] == [stretch[0]]
        assert text_of((stretch[0], stretch[1], stretch[1] + 3), after) == "Ann"


def test_tool_descriptions_are_edited() -> None:
    qwen = next(family for family in FAMILIES if family.name == "qwen3")
    model = LocalModel(tiny_model("llama"), chat_tokenizer(qwen))
    chat = Chat(CALLING, [WEATHER])
    writing, source = read_writing(chat), read_prompt(model.codec, chat)
    prompt = divide(source, model.codec.encode_source(source), check_units("word"))
    own = {
        prompt.unit_text(unit).strip(): index
        for index, unit in enumerate(prompt.units)
        if unit.role == "tools" and not unit.special
    }
    assert list(own) == ["Tells", "the", "weather", "in", "Paris", ".", "Such", "as"]
    for text, index in own.items():  # counterfactuals find them so
        (stretch,) = find(index, writing, prompt)
        assert text_of(stretch, writing) == text
    changed, words = apply(Edit.remove(own["Tells"]), writing, prompt)
    assert isinstance(changed, Chat)
    assert changed.tools
    assert changed.tools[0]["function"]["description"] == "the weather in Paris."
    assert changed.messages == chat.messages
    assert words == "without 'Tells'"
    assert WEATHER["function"]["description"] == "Tells the weather in Paris."  # what was given stays as it was
    gone, _ = apply(Edit.remove((None, "[0].function.description", 0, 27)), writing, prompt)
    assert isinstance(gone, Chat)
    assert gone.tools
    assert gone.tools[0]["function"]["description"] == ""
    assert read_prompt(model.codec, gone).parts


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: Edit.remove("Ann"), "'Ann' does not stand in it"),
        (
            lambda: Edit.remove("Sam"),
            r"stands there 2 times. Give its characters: \(0, 3\) or \(58, 61\); or, for all .* re.compile\('Sam'\)",
        ),
        (lambda: Edit.remove("a"), r"characters: \(1, 2\) or \(5, 6\) or .*, \.\.\.; or, for all of them"),
        (lambda: Edit.remove(99), "unit from 0 to 17, got 99"),
        (lambda: Edit.remove(0), "unit 0 is the special's"),
        (lambda: Edit.remove((3, 3)), r"Expected characters .*\(3, 3\). Give some that lie within \(0, 67\)"),
        (lambda: Edit.remove((0, 999)), r"Expected characters of the prompt, got \(0, 999\)"),
        (lambda: Edit.remove((0, 0, 3)), r"Expected characters of the prompt, got \(0, 0, 3\)"),
        (lambda: Edit.remove((None, "", 0, 3)), "Expected characters of the prompt"),
        (lambda: Edit.remove(re.compile("x*")), "does not stand in it"),
        (lambda: Edit.swap(re.compile("Sam"), "Tom"), r"to swap, got 'Sam' \(2 times\). Give the .* \(0, 3\) or \(58"),
        (lambda: Edit.swap("Tom has", "has 5"), r"do not overlap, got .* they are \(18, 25\) and \(22, 27\)"),
    ],
)
def test_edits_that_do_not_fit(edit, message: str, llama: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        edited(llama, TEXT, edit())


NO_PARTS = [
    *("", 1.5, True, np.True_, None, b"Tom", ["a", "b"], ("a", "b"), (), (3,), (1.0, 2), (True, 2), (None, 0, 3)),
    *((0, 1, 2, 3), (0, "content", 3), (1.5, "content", 0, 3), (True, "content", 0, 3), (0, "content", "0", 3)),
    re.compile(b"Tom"),
]


@pytest.mark.parametrize("part", NO_PARTS, ids=repr)
@pytest.mark.usefixtures("untyped")
def test_parts_that_are_none(part, llama: LocalModel) -> None:
    for make in (Edit.remove, lambda part: Edit.swap("Tom", part), lambda part: Edit.replace(part, "Ann")):
        with pytest.raises(InputError, match=r"Expected a part of the prompt, got .*\. Give a text that stands there"):
            make(part)
    source = read_prompt(llama.codec, "a")
    units = divide(source, llama.codec.encode_source(source), check_units("word"))
    with pytest.raises(InputError, match="Expected a part of the prompt"):
        find(part, read_writing(TEXT), units)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit("remove"), r"Expected one part to remove, as a tuple, got \(\). Make it with Edit.remove\(...\)"),
        (lambda: Edit("swap", ("Tom",)), "Expected two parts to swap"),
        (lambda: Edit("remove", "T"), "Expected one part to remove, as a tuple, got 'T'"),
        (lambda: Edit("explode", ("Tom", "5")), "out of remove, replace, swap, move, rewrite, got 'explode'"),
        (lambda: Edit([], ()), r"Expected a kind of edit .*, got \[\]"),
        (lambda: Edit("replace", ("Tom",)), "To remove it: Edit.remove"),
        (lambda: Edit.replace("Tom", ""), "To remove it: Edit.remove"),
        (lambda: Edit.replace("Tom", 5), "To remove it: Edit.remove"),
        (lambda: Edit.replace(5, None), "To remove it: Edit.remove"),
        (lambda: Edit.rewrite(42), "Expected another prompt, got 42. Give a text"),
        (lambda: Edit.rewrite(None), "Expected another prompt, got None"),
        (lambda: Edit.rewrite(" "), "at least one word"),
        (lambda: Edit.rewrite([]), "at least one message"),
        (lambda: Edit.rewrite(["Tom"]), "message 0 as a dict"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_edits_that_are_none(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
