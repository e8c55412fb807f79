"""Outputs: which tokens are meant by an index, a text, characters or a pattern, alone or as whole words."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.errors import InputError
from attribution.explainer import explain
from attribution.models.codec import Codec
from attribution.models.local import LocalModel
from attribution.outputs import WHOLES, find_outputs, nesting
from tests.tiny import VOCABULARY
from tests.tokenizers_ import FAMILIES_OF_TOKENIZERS, slow_tokenizer

#        0       1          2      3     4    5    6    7      8   9   10      11   12
TEXTS = [" The", " answer", " is", " 3", "0", ".", "5", " 😀", "", "", " Yes", ".", "<eos>"]
WHOLE = " The answer is 30.5 😀 Yes.<eos>"


@pytest.mark.parametrize(
    ("outputs", "units", "expected"),
    [
        (None, "token", list(range(13))),
        (0, "token", [0]),
        (-1, "token", [12]),
        ([3, -1, 0], "token", [3, 12, 0]),
        (range(2), "token", [0, 1]),
        ("3", "token", [3]),
        ("30.5", "token", [3, 4, 5, 6]),
        (" is 3", "token", [2, 3]),
        ("e", "token", [0]),  # the first place
        ("😀", "token", [7, 8, 9]),  # with its later pieces
        ((0, 5), "token", [0, 1]),
        ((15, 16), "token", [3]),
        (re.compile(r"\d"), "token", [3, 4, 6]),
        (re.compile(r"\.|e"), "token", [0, 1, 5, 10, 11, 12]),
        ("3", "word", [3, 4, 5, 6]),
        (8, "word", [7, 8, 9]),
        ([0, 4], "word", [0, 3, 4, 5, 6]),
        (re.compile("an|Y"), "word", [1, 10]),
        ("answer", "sentence", list(range(12))),
        ((20, 21), "line", list(range(13))),
        (None, "paragraph", list(range(13))),
    ],
)
def test_outputs(outputs: object, units: str, expected: list[int]) -> None:
    assert find_outputs(TEXTS, outputs, units) == expected


@pytest.mark.usefixtures("untyped")
def test_a_pattern_of_the_regex_library() -> None:
    assert find_outputs(TEXTS, regex.compile(r"\p{Lu}")) == [0, 10]


def test_whole_sentences_and_lines() -> None:
    texts = ["One", ".", " Two", ".\n", "3", " two"]
    assert find_outputs(texts, "Two", "sentence") == [2, 3]
    assert find_outputs(texts, "Two", "line") == [0, 1, 2, 3]
    assert find_outputs(texts, re.compile("two"), "line") == [4, 5]
    # A token over the edge of two words belongs to the first visible character's.
    assert find_outputs(["a", ' "b', "c"], "b", "word") == [1]
    assert find_outputs(["a", " b", "c"], "c", "word") == [1, 2]


def test_tokens_without_text() -> None:
    assert find_outputs(["", "a", ""], "a") == [1, 2]
    assert find_outputs(["", "a"], 0) == [0]
    assert find_outputs(["", ""], None, "word") == [0, 1]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("no", "a part of the output ' The answer is 30.5 😀 Yes.<eos>', got 'no'"),
        ("", "got ''"),
        (re.compile("zz"), "a pattern that matches a part of the output"),
        (re.compile("$"), "a pattern that matches a part of the output"),
        (re.compile(b"a"), "for text, got one for bytes"),
        (13, "output tokens from 0 to 12, or a part of the output, got 13"),
        (-14, "got -14"),
        ([0, 13], r"got \[0, 13\]"),
        ([], r"got \[\]"),
        (True, "got True"),
        ([True], r"got \[True\]"),
        (0.5, "got 0.5"),
        (b"3", "got b'3'"),
        (np.array([True, False]), r"got array\(\[ True, False\]\)"),
        ((3, 3), r"a span \(start, end\) within the output's 31 characters, got \(3, 3\)"),
        ((0, 32), r"got \(0, 32\). For several tokens pass a list"),
        ((-1, 3), r"got \(-1, 3\)"),
        ((0, 1, 2), r"got \(0, 1, 2\)"),
        ((0.5, 2), r"got \(0.5, 2\)"),
        ((), r"got \(\)"),
    ],
)
def test_outputs_that_are_not_there(outputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_outputs(TEXTS, outputs)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("units", ["message", "words", "", None, 3])
def test_units_of_outputs(units: object) -> None:
    with pytest.raises(InputError, match="units of the output out of 'token', 'word'"):
        find_outputs(TEXTS, "3", units)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(texts=st.lists(st.text(st.sampled_from("ab .\n3日é"), max_size=4), min_size=1, max_size=12), data=st.data())
def test_wholes_hold_what_is_meant(texts: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(texts) - 1))
    found = [find_outputs(texts, index, units) for units in WHOLES]
    for finer, coarser in pairwise(found):
        assert set(finer) <= set(coarser)
    for outputs, units in zip(found, WHOLES, strict=True):
        assert index in outputs
        assert find_outputs(texts, outputs, units) == outputs
    whole = "".join(texts)
    if texts[index]:
        start = len("".join(texts[:index]))
        assert index in find_outputs(texts, (start, start + 1))
        assert whole[start] in "".join(texts[i] for i in find_outputs(texts, whole[start]))


def test_nesting_is_what_wholes_are_made_of() -> None:
    texts = ["One", ".", " Two", ".\n", "\n", "3", "0", "", " two"]
    groups = nesting(texts)
    assert groups == {
        "word": [0, 1, 2, 3, 3, 4, 4, 4, 5],
        "sentence": [0, 0, 1, 1, 1, 2, 2, 2, 2],
        "line": [0, 0, 0, 0, 0, 1, 1, 1, 1],
        "paragraph": [0, 0, 0, 0, 0, 1, 1, 1, 1],
    }
    for units, owners in nesting(TEXTS).items():
        for index, owner in enumerate(owners):
            assert find_outputs(TEXTS, index, units) == [i for i, other in enumerate(owners) if other == owner]
    assert nesting([""]) == {units: [0] for units in WHOLES[1:]}


def test_why_3_is_asked_of_the_word_it_stands_in(llama: LocalModel) -> None:
    result = explain(llama, "Sam has 3 apples.", output=" He has 35 of them", method="leave_one_out")
    texts = [output.text for output in result.outputs]
    word = result.output_indices("3", "word")
    assert "".join(texts[index] for index in word).strip() == "35"
    assert np.allclose(result.total("3", units="word"), result.scores[word].sum(0))
    assert np.allclose(result.total("3"), result.scores[texts.index("3")])
    assert np.allclose(result.total((9, 10)), result.total("5"))
    assert np.allclose(result.total(re.compile(r"\d")), result.total("35"))


# The text of each token


CODECS = {
    name: Codec(make(), lambda: VOCABULARY)
    for name, make in (FAMILIES_OF_TOKENIZERS | {"slow": slow_tokenizer}).items()
}
WRITTEN = ("Sam has 3 apples. ", "日本é", "😀 👩‍👩‍👧", "\ufffd\ufffd日", "a\r\n\tb", "שלום", " ")


@pytest.mark.parametrize("name", [name for name in CODECS if name != "wordpiece"])
@pytest.mark.parametrize("before", ["", "日本日本", "Sam "])
@pytest.mark.parametrize("text", WRITTEN)
def test_texts_of_tokens_add_up(name: str, before: str, text: str) -> None:
    codec = CODECS[name]
    prompt = codec.ids_of(before) if before else ()
    ids = codec.ids_of(text)
    texts = codec.output_texts(prompt, ids)
    assert len(texts) == len(ids)
    assert codec.decode(prompt) + "".join(texts) == codec.decode([*prompt, *ids])


def test_a_split_character_belongs_to_its_first_token() -> None:
    for name in ("byte_level", "metaspace", "slow"):
        codec = CODECS[name]
        for before in ("", "x", "😀😀😀"):  # more bytes than are looked back
            prompt = codec.ids_of(before) if before else codec.ids_of("x")
            texts = codec.output_texts(prompt, codec.ids_of("a😀é")[-6:])
            assert texts == ["😀", "", "", "", "é", ""], (name, before)


@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("text", WRITTEN)
def test_an_alternative_adds_what_it_would_if_it_were_written(name: str, text: str) -> None:
    codec = CODECS[name]
    prompt, ids = codec.ids_of("Sam has 日本 apples"), codec.ids_of(text)
    others = [(token, *codec.ids_of("x é")) for token in ids]
    found = codec.alternative_texts(prompt, ids, others)
    assert list(map(len, found)) == list(map(len, others))
    for place, (asked, said) in enumerate(zip(others, found, strict=True)):
        for other, added in zip(asked, said, strict=True):
            alone = codec.output_texts(prompt, (*ids[:place], other))[-1]
            assert added.endswith(alone)
            assert alone in ("", added)


def test_an_alternative_that_ends_a_character_has_all_of_it() -> None:
    codec = CODECS["byte_level"]
    prompt, first, second = codec.ids_of("x"), codec.ids_of("日"), codec.ids_of("既")
    assert first[:2] == second[:2]
    (letter,) = codec.ids_of("y")
    texts = codec.alternative_texts(prompt, first, [(), (letter,), (first[2], second[2], letter)])
    assert texts == [[], ["y"], ["日", "既", "y"]]
    assert codec.alternative_texts((), first[:1], [(first[0], letter)]) == [["\ufffd", "y"]]


def test_an_alternative_without_a_text() -> None:
    for codec in CODECS.values():
        assert codec.alternative_texts(codec.ids_of("x"), codec.ids_of("x"), [(10**6,)])[0] in ([""], ["<unk>"])


def test_bytes_that_are_no_character() -> None:
    codec = CODECS["byte_level"]
    half = codec.ids_of("日")[:2]
    (letter,) = codec.ids_of("x")
    assert codec.output_texts((), half) == ["\ufffd", ""]
    assert codec.output_texts((), (*half, letter)) == ["\ufffd", "", "x"]
    assert codec.output_texts((), (letter, *half)) == ["x", "\ufffd", ""]
    assert codec.output_texts((), codec.ids_of("\ufffd日x")) == ["\ufffd", "", "", "日", "", "", "x"]


def test_long_outputs_are_read_quickly() -> None:
    codec = CODECS["byte_level"]
    ids = codec.ids_of("Sam has 3 apples. 日本 " * 1000)
    assert "".join(codec.output_texts((), ids)) == "Sam has 3 apples. 日本 " * 1000
