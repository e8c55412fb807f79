"""Outputs: which tokens of an output a person means, by index, text, characters or pattern, alone or as whole words."""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, cast

import regex

from attribution.errors import InputError
from attribution.prompts.segments import CUTS
from attribution.prompts.source import Span

Outputs = int | str | re.Pattern[str] | tuple[int, int] | Sequence[int] | None
"""A part of the output: the index of a token, a piece of its text, a regular expression, a span `(start, end)` of its
characters, a list of indices; None for all of it."""

WHOLES = ("token", "word", "sentence", "line", "paragraph")
"""What an output can be divided into."""


def find_outputs(texts: Sequence[str], outputs: Outputs = None, units: str = "token") -> list[int]:
    """The indices of the output tokens that are meant, given the text that each of them adds.

    A text means its first place in the output, a regular expression all that it matches; an index below 0 counts from
    the end. With another unit than "token", all tokens of the words, sentences, lines or paragraphs that what is meant
    stands in. Raises `InputError` for what the output does not have.
    """
    if units not in WHOLES:
        raise InputError(f"Expected units of the output out of {', '.join(map(repr, WHOLES))}, got {units!r}.")
    whole = "".join(texts)
    if isinstance(outputs, str):
        start = whole.find(outputs)
        if start < 0 or not outputs:
            raise InputError(f"Expected a part of the output {whole!r}, got {outputs!r}.")
        chosen = _overlapping(texts, [(start, start + len(outputs))])
    elif isinstance(outputs, (re.Pattern, regex.Pattern)):
        if not isinstance(cast(Any, outputs).pattern, str):
            raise InputError(f"Expected a regular expression for text, got one for bytes: {outputs!r}.")
        spans = [match.span() for match in cast(Any, outputs).finditer(whole) if match.end() > match.start()]
        if not spans:
            raise InputError(f"Expected a pattern that matches a part of the output {whole!r}, got {outputs!r}.")
        chosen = _overlapping(texts, spans)
    elif isinstance(outputs, tuple):
        chosen = _overlapping(texts, [_check_span(outputs, whole)])
    else:
        chosen = _check_indices(outputs, len(texts))
    return chosen if units == "token" else _wholes(texts, chosen, units)


def _check_indices(outputs: Any, count: int) -> list[int]:
    if outputs is None:
        return list(range(count))
    given = list(outputs) if isinstance(outputs, Iterable) else [outputs]
    try:
        indices = [count if isinstance(index, bool) else operator.index(index) for index in given]
    except TypeError:
        indices = [count]
    if not indices or not all(-count <= index < count for index in indices):
        raise InputError(
            f"Expected indices of output tokens from 0 to {count - 1}, or a part of the output, got {outputs!r}."
        )
    return [index % count for index in indices]


def _check_span(outputs: tuple[Any, ...], whole: str) -> Span:
    try:
        span = tuple(-1 if isinstance(place, bool) else operator.index(place) for place in outputs)
    except TypeError:
        span = ()
    if len(span) != 2 or not 0 <= span[0] < span[1] <= len(whole):
        raise InputError(
            f"Expected a span (start, end) within the output's {len(whole)} characters, got {outputs!r}. For several "
            "tokens pass a list of their indices."
        )
    return span


def _overlapping(texts: Sequence[str], spans: Iterable[Span]) -> list[int]:
    """The tokens that some of these characters are in."""
    places = _places(texts)
    chosen = {
        index for start, end in spans for index, (begin, stop) in enumerate(places) if begin < end and stop > start
    }
    return sorted(chosen)


def _places(texts: Sequence[str]) -> list[Span]:
    """The characters that each token stands for; without text it is a later piece of the character before it."""
    places: list[Span] = []
    for text, end in zip(texts, accumulate(map(len, texts)), strict=True):
        places.append((end - len(text), end) if text or not places else places[-1])
    return places


def nesting(texts: Sequence[str]) -> dict[str, list[int]]:
    """For words, sentences, lines and paragraphs, which of them each output token belongs to, counted from 0."""
    return {units: _owners(texts, units) for units in WHOLES[1:]}


def _wholes(texts: Sequence[str], chosen: Sequence[int], units: str) -> list[int]:
    owners = _owners(texts, units)
    wanted = {owners[index] for index in chosen}
    return [index for index, owner in enumerate(owners) if owner in wanted]


def _owners(texts: Sequence[str], units: str) -> list[int]:
    """The word, or sentence, line or paragraph, of every token: the one with its first visible character."""
    whole = "".join(texts)
    cuts = CUTS[units](whole)
    owners: list[int] = []
    for start, end in _places(texts):
        own = whole[start:end]
        blank = len(own) - len(own.lstrip())
        owners.append(bisect_right(cuts, start + (blank if blank < len(own) else 0)))
    return owners
