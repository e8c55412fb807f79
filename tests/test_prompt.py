"""Units: which characters and which tokens a word is."""

from __future__ import annotations

from itertools import pairwise

import pytest

from attribution.checks import check_text
from attribution.errors import InputError
from attribution.prompts.prompt import Encoding, Prompt, check_prompt, levels
from attribution.prompts.prompt import divide as divide_source
from attribution.prompts.source import text_source
from attribution.prompts.units import check_units


def divide(text: str, encoding: Encoding, units: object) -> Prompt:
    return divide_source(text_source(text), encoding, check_units(units))


def words(text: str, *tokens: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
    """Word units of a text cut into tokens at the given character spans, after a BOS token."""
    encoding = Encoding(tuple(range(len(tokens) + 1)), ((0, 0), *tokens), (True, *[False] * len(tokens)))
    prompt = divide(text, encoding, "word")
    assert prompt.units[0].special
    return [(prompt.unit_text(unit).strip(), unit.tokens) for unit in prompt.units[1:]]


def test_words_gather_their_tokens() -> None:
    #                                            Sam      ha       s       ␣       3
    assert words("Sam has 3", (0, 3), (3, 6), (6, 7), (7, 8), (8, 9)) == [
        ("Sam", (1, 2)),
        ("has", (2, 4)),
        ("3", (4, 6)),  # the space before a number goes with the number
    ]


def test_repeated_words_are_units_of_their_own() -> None:
    assert words("ja ja", (0, 2), (2, 5)) == [("ja", (1, 2)), ("ja", (2, 3))]


def test_a_token_over_two_words_belongs_to_the_first_visible_character() -> None:
    # One token holds '."': the quote has no token left, so the unit of the full stop reaches over it.
    assert words('x."', (0, 1), (1, 3)) == [("x", (1, 2)), ('."', (2, 3))]


def test_white_space_at_the_end_goes_to_the_last_word() -> None:
    assert words("a  ", (0, 1), (1, 3)) == [("a", (1, 3))]
    prompt = divide("a  ", Encoding((1, 2), ((0, 1), (1, 3)), (False, False)), "word")
    assert [prompt.unit_text(unit) for unit in prompt.units] == ["a  "]


def test_a_split_character_belongs_to_its_first_token() -> None:
    encoding = Encoding((5, 6, 7), ((0, 1), (0, 1), (1, 2)), (False,) * 3)
    prompt = divide("é!", encoding, "token")
    assert [prompt.unit_text(unit) for unit in prompt.units] == ["é", "", "!"]
    assert words("é!", (0, 1), (0, 1), (1, 2)) == [("é", (1, 3)), ("!", (3, 4))]
    assert words("日、本", *[(i, i + 1) for i in range(3) for _ in range(3)]) == [
        ("日", (1, 4)),
        ("、", (4, 7)),
        ("本", (7, 10)),
    ]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("bad", ["", "  \n", None, 3, b"text", ["a"]])
def test_no_prompt(bad: object) -> None:
    with pytest.raises(InputError, match=r"Expected (the|a) prompt"):
        check_prompt(bad)


@pytest.mark.parametrize("text", ["\ud800", "a \udc00", "\ud83d\ude00"])
def test_half_a_character_is_a_prompt(text: str) -> None:
    assert check_prompt(text) == text
    with pytest.raises(InputError, match=r"the output as text, but character \d is only half of one"):
        check_text("output", text)


def test_a_prompt_without_tokens() -> None:
    with pytest.raises(InputError, match="at least one token"):
        divide("a", Encoding((1,), ((0, 0),), (True,)), "word")


# How units belong together


def groups(text: str, granularity: str, n_more: int = 0) -> list[list[str]]:
    """The texts of each group on each level."""
    prompt = divide(text, by_character(text), granularity)
    found = []
    for level in levels(prompt, n_more):
        assert len(level) == len(prompt.units) + n_more
        assert level[0] == 0
        assert all(0 <= b - a <= 1 for a, b in pairwise(level))  # in order, none left out
        texts = [""] * (level[-1] + 1)
        for unit, group in zip(prompt.units, level, strict=False):
            texts[group] += prompt.unit_text(unit) + "|" * (granularity == "word")
        found.append(texts)
    return found


def by_character(text: str) -> Encoding:
    offsets = tuple((i, i + 1) for i in range(len(text)))
    return Encoding(tuple(range(len(text))), offsets, (False,) * len(text))


def test_levels_of_words() -> None:
    text = 'Tom has 3.5 pears. "Why?" Ann asks.\nSo do I.\n\nNobody knows.'
    paragraphs, lines, sentences = groups(text, "word")
    assert [paragraph.count("|") for paragraph in paragraphs] == [16, 3]
    assert [line.count("|") for line in lines] == [12, 4, 3]
    assert [sentence.replace("\n", "").replace("| ", "|") for sentence in sentences] == [
        "Tom|has|3.5|pears|.|",
        ' "|Why|?|"|',
        " Ann|asks|.|",
        "So|do|I|.|",
        "Nobody|knows|.|",
    ]


def test_levels_of_tokens() -> None:
    sentences, words = groups("He ran. I too", "token")
    assert sentences == ["He ran.", " I too"]
    assert words == ["He", " ran", ".", " I", " too"]
    assert groups("One sentence only", "word") == []
    assert groups("日本語。です。", "token")[0] == ["日本語。", "です。"]


def test_output_tokens_are_a_group_of_their_own() -> None:
    for level in groups("He ran. I too", "word", n_more=3):
        assert level[-1] == ""
