"""Segments: known words, sentences, lines, paragraphs, list items, lines of code and examples."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.errors import InputError
from attribution.prompts.segments import CUTS, word_spans


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def segments(name: str, text: str) -> list[str]:
    """The text cut, white space and all."""
    return [text[start:end] for start, end in pairwise((0, *CUTS[name](text), len(text)))]


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom's 3.5 well-known.", ["Tom's", "3.5", "well-known", "."]),
        ("Don’t! ’tis", ["Don’t", "!", "’", "tis"]),
        ("3rd of 3.5kg, 1,000.50 or 12:30", ["3rd", "of", "3.5kg", ",", "1,000.50", "or", "12", ":", "30"]),
        ("$3.50 -3 20%", ["$", "3.50", "-", "3", "20", "%"]),
        (
            "e.g. the U.S.A. and i.e.: J.R.R. Tolkien",
            ["e.g.", "the", "U.S.A.", "and", "i.e.", ":", "J.R.R.", "Tolkien"],
        ),
        ("It is I. Go", ["It", "is", "I", ".", "Go"]),
        ("f(x) = a.b.c + x_1", ["f", "(", "x", ")", "=", "a", ".", "b", ".", "c", "+", "x_1"]),
        ("x != y -> 'z'", ["x", "!", "=", "y", "-", ">", "'", "z", "'"]),
        ("2024-01-02", ["2024-01-02"]),
        # Addresses
        ("See https://a.b/c(d)?x=1,2. Ok", ["See", "https://a.b/c(d)?x=1,2", ".", "Ok"]),
        ('<a href="http://x.y/z">', ["<", "a", "href", "=", '"', "http://x.y/z", '"', ">"]),
        ("(www.x.org/é), ftp://h", ["(", "www.x.org/é", ")", ",", "ftp://h"]),
        ("mail a.b+c@d-e.co.uk.", ["mail", "a.b+c@d-e.co.uk", "."]),
        ("请访问http://a.cn/路径，谢谢", ["请", "访问", "http://a.cn/路径", "，", "谢谢"]),
        ("邮箱a@b.cn。", ["邮箱", "a@b.cn", "。"]),
        # Languages without spaces
        ("สวัสดีครับผมชื่อแซม", ["สวัสดี", "ครับ", "ผม", "ชื่อ", "แซม"]),
        ("日本語を勉強します。", ["日本語", "を", "勉強", "し", "ます", "。"]),
        ("手机iPhone很好", ["手机", "iPhone", "很好"]),
        ("ພາສາລາວ", ["ພາສາ", "ລາວ"]),
        # Marks, joiners and what is not seen
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301!", ["cafe\u0301", "!"]),
        ("می‌خواهم بروم", ["می‌خواهم", "بروم"]),
        ("שָׁלוֹם, עולם", ["שָׁלוֹם", ",", "עולם"]),
        ("\ufeffHi \u200fשלום\u200f", ["\ufeffHi", "\u200fשלום\u200f"]),
        ("Do\xadnau a\u200bb", ["Do\xadnau", "a", "\u200b", "b"]),
        ("👩‍👩‍👧x 🇩🇪🇫🇷 1️⃣ ☃️!", ["👩‍👩‍👧", "x", "🇩🇪", "🇫🇷", "1️⃣", "☃️", "!"]),
        ("a\x00b\x1cc\ud800\udc00", ["a", "\x00", "b", "c", "\ud800", "\udc00"]),
        ("\r\n \t\u3000\xa0", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_white_space_between_words() -> None:
    assert segments("word", " a  b\tc ") == [" a", "  b", "\tc "]
    assert segments("word", "a \n\n  b\r\nc") == ["a \n\n", "  b\r\n", "c"]


# Sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith paid 3.50 dollars, e.g. to U.S. banks.", " See http://a.b/c.d?x=1.", " Ok!"],
        ["Mr. and Mrs. J. R. Tolkien wrote v1.2.3 at 5 p.m. sharp.", " He did."],
        ["Wait... what?!", " Yes."],
        ["He ran.\n", "I too\n", "and you."],
        ["今天天气很好。", "我们去公园吧！", "你呢？", "好"],
        ["これは本です。", "あれはペンです。"],
        ["مرحبا بك.", " كيف حالك؟", " أنا بخير."],
        ["यह एक किताब है।", " वह एक कलम है।", " क्या?"],
        ["x = a.b; y = c.d()\n", "print(x.y)"],
        ["1. One.", " Two.\n", "2. Three."],
        ["a\ud800b.", " Half a \ud800.", " Whole."],
        ["Hi.\r\n", "  You.\t"],
        ["no end"],
    ],
    ids=lambda sentences: sentences[0],
)
def test_sentences(sentences: list[str]) -> None:
    assert segments("sentence", "".join(sentences)) == sentences


# Lines and paragraphs


def test_lines_and_paragraphs() -> None:
    text = "\n one\r\ntwo\n\n\n  three\u2028four\x85\n five\n"
    assert segments("line", text) == ["\n one\r\n", "two\n\n\n", "  three\u2028", "four\x85\n", " five\n"]
    assert segments("paragraph", text) == ["\n one\r\ntwo\n\n\n", "  three\u2028four\x85\n", " five\n"]
    assert segments("paragraph", "a\n \t\nb") == ["a\n \t\n", "b"]
    assert segments("line", "\r\r") == ["\r\r"]


# Lists


def test_list_items() -> None:
    assert segments("list_item", "Buy:\n- milk,\n  fresh\n- 3 eggs\n\nThen go.") == [
        "Buy:\n",
        "- milk,\n  fresh\n",
        "- 3 eggs\n\n",
        "Then go.",
    ]
    assert segments("list_item", "1. one\n2) two\n(a) three\niv. four\n• five") == [
        "1. one\n",
        "2) two\n",
        "(a) three\n",
        "iv. four\n",
        "• five",
    ]


def test_what_continues_a_list_item() -> None:
    assert segments("list_item", "- one\n\n  goes on\n\n    and on\n  - inner\n- two\n\nout\n\n  of it") == [
        "- one\n\n  goes on\n\n    and on\n",
        "  - inner\n",
        "- two\n\n",
        "out\n\n",
        "  of it",
    ]
    assert segments("list_item", "1. ab\r\n2. c") == ["1. ab\r\n", "2. c"]


@pytest.mark.parametrize("text", ["a - b", "-5 is 1.5", "---\nno", "1.\n2.", ""])
def test_no_list(text: str) -> None:
    with pytest.raises(InputError, match=r'lines that begin with "-", "\*" or "1.", and found none'):
        CUTS["list_item"](text)


# Code


def test_lines_of_code_in_fences() -> None:
    text = "Run. Then\nlook:\n```python\nif x:\n    f(`y`)\n\n    g()\n```\nDone.\nYes.\n\n~~~\n``` a\n~~~~\n"
    assert segments("code_line", text) == [
        "Run. Then\nlook:\n",
        "```python\n",
        "if x:\n",
        "    f(`y`)\n\n",
        "    g()\n",
        "```\n",
        "Done.\nYes.\n\n",
        "~~~\n",
        "``` a\n",
        "~~~~\n",
    ]


def test_lines_of_code_without_fences() -> None:
    assert segments("code_line", "if x:\n\n    f()\n\ng()") == ["if x:\n\n", "    f()\n\n", "g()"]
    assert segments("code_line", "```one line```\ntwo") == ["```one line```\n", "two"]
    assert segments("code_line", "a\n```\nb\nc") == ["a\n", "```\n", "b\n", "c"]  # never closed


# Few-shot examples


@pytest.mark.parametrize(
    "examples",
    [
        ["Be brief.\n\n", "One by one.\n", "Q: 1?\nA: one\n\n", "Q: 2?\nA:\n\n two\n", "Q: 3?\nA:"],
        ["Example 1:\nInput: a\nOutput: b\n", "Example 2:\nInput: c\nOutput:"],
        ["Input: 3 - 1\nOutput: 2\n###\n", "Input: 1\nOutput:"],
        ["**Question:** a?\n**Answer:** b\n", "**Question:** c?\n**Answer:**"],
        ["### Q1: x\n### A1: y\n", "### Q2: z"],
        ["问：一\n答：二\n", "问：三\n答："],
        ["text: a\nlabel: b\n\n", "text: c\nlabel:"],
        # A label that repeats, but begins no example
        ["Note: a\nNote: b\n", "Q: a\nA: b\n", "Q: c\nA: d"],
        ["Note: a\nNote: b\n", "Q: a\nStep: b\nStep: c\nA: d\n", "Q: e\nStep: f\nA: g\n", "Q: h\nStep:"],
        ["Note: a\nNote: b\n", "Q: a\nA: b\n", "Q: c\nB: d\n", "Q: e\nA: f\nB: g"],
        ["Example: a\n", "Example: b\nNote: c"],
    ],
    ids=lambda examples: examples[0],
)
def test_examples(examples: list[str]) -> None:
    assert segments("example", "".join(examples)) == examples


@pytest.mark.parametrize("text", ["Note: a", "Q: a\nA: b", "no: labels: here", "12: a\n12: b", ""])
def test_no_examples(text: str) -> None:
    with pytest.raises(InputError, match="each begin with the same label"):
        CUTS["example"](text)


# All of them


PIECES = st.sampled_from(
    [*"ab .,\n\r\t-:`\"'é日。?!3", "\r\n", "\n\n", "- ", "1. ", "```\n", "Q: ", "http://a.b", "e.g. "]
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(text=st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text(max_size=30)))
def test_cuts_lie_between_words(text: str) -> None:
    spans = word_spans(text)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(text[start:end].strip() for start, end in spans)
    assert not "".join(text[a[1] : b[0]] for a, b in pairwise([(0, 0), *spans, (len(text), 0)])).strip()
    between = set(CUTS["word"](text))
    assert len(between) == max(0, len(spans) - 1)
    for name, cuts in CUTS.items():
        try:
            found = cuts(text)
        except InputError:
            assert name in ("list_item", "example")
            continue
        assert found == sorted(set(found))
        assert set(found) <= between
    for coarse, fine in pairwise(("paragraph", "line", "sentence", "word")):
        assert set(CUTS[coarse](text)) <= set(CUTS[fine](text))
