"""What was changed between two texts, word by word."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import takewhile

_PIECES = re.compile(r"\w+|\s+|.", re.DOTALL)

_MOST_COMPARED = 500_000
"""Pairs of equal words within what differs that are looked at, a second's worth at most; beyond, all of it counts as
replaced."""

_LONG = 4_000
"""Characters of a text from which on what is the same is folded."""

_AROUND = 200
"""Characters that stay on each side of a change in a long text."""


def differences(before: str, after: str) -> list[list[str | int]]:
    """Stretches of both texts in order, each with -1 where it was removed, 1 where it was added, 0 where it stayed."""
    old, new = _PIECES.findall(before), _PIECES.findall(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    old_end, new_end = len(old) - tail, len(new) - tail
    found: list[list[str | int]] = []
    _add(found, old[:head], 0)
    middle, other = old[head:old_end], new[head:new_end]
    if _pairs(middle, other) > _MOST_COMPARED:
        _add(found, middle, -1)
        _add(found, other, 1)
    else:
        for tag, i, j, k, m in SequenceMatcher(None, middle, other).get_opcodes():
            if tag == "equal":
                _add(found, middle[i:j], 0)
            else:
                _add(found, middle[i:j], -1)
                _add(found, other[k:m], 1)
    _add(found, old[old_end:], 0)
    return _folded(found) if len(before) > _LONG else found


def _common(one: list[str], other: list[str]) -> int:
    """How many pieces both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _pairs(one: list[str], other: list[str]) -> int:
    """How many pairs of equal words a matcher looks at: none of those that make up over a hundredth of a long text."""
    counts, others = Counter(one), Counter(other)
    frequent = len(other) // 100 + 1 if len(other) >= 200 else len(other)
    return sum(count * others[word] for word, count in counts.items() if others[word] <= frequent)


def _add(found: list[list[str | int]], pieces: list[str], how: int) -> None:
    if pieces:
        found.append(["".join(pieces), how])


def _folded(found: list[list[str | int]]) -> list[list[str | int]]:
    """The same without the middle of long stretches that stayed."""
    folded: list[list[str | int]] = []
    for place, (text, how) in enumerate(found):
        own = str(text)
        if how == 0 and len(own) > 3 * _AROUND:
            before = "" if place == 0 else own[:_AROUND]
            after = "" if place == len(found) - 1 else own[-_AROUND:]
            own = f"{before} … {after}"
        folded.append([own, how])
    return folded
