"""Checks of what a person passes: texts, counts and seeds."""

from __future__ import annotations

import operator
from typing import Any, cast

from attribution.errors import InputError


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


def check_seed(seed: object) -> int:
    """The seed as an int; `InputError` where it is no whole number from 0 on."""
    try:
        found = -1 if isinstance(seed, bool) else operator.index(cast(Any, seed))
    except TypeError:
        found = -1
    if found < 0:
        raise InputError(f"Expected the seed as an int from 0 on, got {seed!r}.")
    return found
