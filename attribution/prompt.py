"""Prompt: the text that is asked about, its tokens, and the units that scores are given to."""

from __future__ import annotations

import operator
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, cast

import regex

from attribution.errors import InputError

GRANULARITIES = ("token", "word")

# A word or number with its marks, inner apostrophes, hyphens and decimal points; or one other character as it is seen.
_PARAGRAPH: Any = regex.compile(r"\n\s*\n")
_SENTENCE: Any = regex.compile(r"[.!?…][\p{Pe}\p{Pf}\"']*\s+|[。！？]|\n")
_WORD: Any = regex.compile(r"[\w\p{M}]+(?:(?:['’-]|(?<=\d)[.,](?=\d))[\w\p{M}]+)*|(?!\s)\X")

Span = tuple[int, int]
"""A half-open range `(start, end)`, of characters or of tokens."""


@dataclass(frozen=True)
class Encoding:
    """A text as a tokenizer sees it; one entry per token in each field.

    `offsets` are character spans in the text; a special token that the tokenizer added (BOS) has an empty one.
    """

    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    special: tuple[bool, ...]


@dataclass(frozen=True)
class PromptUnit:
    """A part of the prompt that gets one score: which characters, which tokens, and whether the tokenizer added it."""

    characters: Span
    tokens: Span
    special: bool


@dataclass(frozen=True)
class Prompt:
    """A text with its tokens and its units. The units tile the tokens: no gap, no overlap, in order."""

    text: str
    encoding: Encoding
    units: tuple[PromptUnit, ...]

    def unit_text(self, unit: PromptUnit) -> str:
        """The unit's own characters; empty for a special token."""
        start, end = unit.characters
        return self.text[start:end]


def check_prompt(text: object) -> str:
    """`text` itself where it is a text with something in it; `InputError` otherwise."""
    if not isinstance(text, str):
        raise InputError(f"Expected the prompt as a string, got {type(text).__name__}. Pass one text.")
    if not text.strip():
        raise InputError("Expected a prompt with at least one word, got an empty one. Pass the text to explain.")
    return check_text("prompt", text)


def check_text(name: str, text: str) -> str:
    """`text` itself where it can be encoded; `InputError` for one with half a character (a lone surrogate) in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Expected the {name} as text, but character {error.start} is only half of one "
            f"(U+{ord(text[error.start]):04X}). Read it with the encoding that it was written in."
        ) from error
    return text


def check_count(name: str, value: object) -> int:
    """`value` as an int where it is a whole number from 1 on, of whatever integer type; `InputError` otherwise."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(cast(Any, value))
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(f"Expected {name} as a whole number from 1 on, got {value!r}.")
    return count


def divide(text: str, encoding: Encoding, granularity: str) -> Prompt:
    """The prompt divided into units of the given granularity, `"token"` or `"word"`.

    Special tokens are units of their own. A token belongs to the word that holds its first visible character, a token
    of white space alone to the word after it (at the end of the text: to the last word). A character that a tokenizer
    split over several tokens belongs to the first of them.

    Raises `InputError` where the granularity is unknown or nothing of the text is left after tokenization.
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"Expected units out of {', '.join(map(repr, GRANULARITIES))}, got {granularity!r}.")
    if all(encoding.special):
        raise InputError(f"Expected a prompt with at least one token, but the tokenizer made none of {text!r}.")
    spans = _without_overlap(encoding)
    if granularity == "token":
        units = [PromptUnit(span, (i, i + 1), encoding.special[i]) for i, span in enumerate(spans)]
    else:
        units = _words(text, encoding, spans)
    return Prompt(text, encoding, tuple(units))


def levels(prompt: Prompt, n_more: int = 0) -> list[list[int]]:
    """How the units belong together, from coarse to fine: by paragraph, sentence and word.

    On each level the number of every unit's group; `n_more` units behind the prompt are groups of their own together.
    A level that divides nothing further is left out.
    """
    found: list[list[int]] = []
    parts = (_PARAGRAPH, _SENTENCE, _WORD)
    ends: set[int] = set()
    for part in parts:
        # What ends on a coarser level ends on a finer one.
        ends |= {match.start() if part is _WORD else match.end() for match in part.finditer(prompt.text)}
        edges = sorted(ends)
        groups: list[int] = []
        for unit in prompt.units:
            own = prompt.unit_text(unit)
            seen = unit.characters[0] + len(own) - len(own.lstrip())
            before = groups[-1] if groups else 0
            groups.append(before if unit.special else max(before, bisect_right(edges, seen)))
        groups += [groups[-1] + 1 if groups else 0] * n_more
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        level = [numbers[group] for group in groups]
        if level[-1] > (found[-1][-1] if found else 0) and level[-1] + 1 < len(level):
            found.append(level)
    return found


def _without_overlap(encoding: Encoding) -> list[Span]:
    """The offsets, each starting no earlier than the one before it ended."""
    spans: list[Span] = []
    reached = 0
    for (start, end), special in zip(encoding.offsets, encoding.special, strict=True):
        if special:
            spans.append((reached, reached))
            continue
        start = max(start, reached)
        reached = max(reached, end)
        spans.append((start, max(start, end)))
    return spans


def _words(text: str, encoding: Encoding, spans: list[Span]) -> list[PromptUnit]:
    words: list[Span] = [match.span() for match in _WORD.finditer(text)] or [(0, len(text))]
    starts = [start for start, _ in words]
    owners: list[int | None] = []
    for i, (start, end) in enumerate(spans):
        if encoding.special[i]:
            owners.append(None)
        elif start == end and i and owners[-1] is not None:  # a later piece of a split character
            owners.append(owners[-1])
        else:
            owners.append(_owner(text, (start, end), words, starts))
    units: list[PromptUnit] = []
    first = 0
    for i in range(1, len(owners) + 1):
        if i < len(owners) and owners[i] is not None and owners[i] == owners[first]:
            continue
        owner = owners[first]
        if owner is None:
            units.append(PromptUnit(spans[first], (first, i), True))
        else:
            # A token that reaches past its word takes what it reaches into along: "." in a token '."'.
            units.append(PromptUnit((words[owner][0], max(words[owner][1], spans[i - 1][1])), (first, i), False))
        first = i
    return units


def _owner(text: str, span: Span, words: list[Span], starts: list[int]) -> int:
    """The index of the word that a token belongs to."""
    start, end = span
    visible = start
    while visible < end and text[visible].isspace():
        visible += 1
    if visible == end > start:  # white space alone: the next word
        return min(bisect_right(starts, end - 1), len(words) - 1)
    return max(bisect_right(starts, visible) - 1, 0)
