"""Alignment: which characters of a text those of another stand for, that says the same in slightly other characters."""

from __future__ import annotations

import html
import re
import unicodedata
from ast import literal_eval
from bisect import bisect_left
from collections import defaultdict
from functools import cache

UNKNOWN = "\uffff"
"""Stands in what is read for what cannot be read from it."""

_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[\"'\\/bfnrt]|&#?\w{1,31};|(?s:.)")
_RUN = 3  # characters in a row that tell where two texts are in step again
_ENOUGH = 16  # characters behind something unknown that tell where it ends


def align(own: str, read: str) -> list[int]:
    """For every character of `read` the place in `own` of what it stands for, -1 where it stands for nothing.

    The places never go back. Case, accents, width and white space may differ, characters may be escaped (as JSON, XML
    or Python write them), and stretches may be missing, added or `UNKNOWN`.
    """
    if own == read:
        return list(range(len(own)))
    ours = _folded([(character, place) for place, character in enumerate(own)])
    spelled = [(match.group(), match.start()) for match in _ESCAPE.finditer(read)]
    plain = [(character, place) for place, character in enumerate(read)]
    for pairs in (plain, [(_unescaped(text), place) for text, place in spelled]):
        theirs = _folded(pairs)
        if ours[0] == theirs[0]:
            found = dict(zip(theirs[1][::-1], ours[1][::-1], strict=True))  # the first of several
            break
    else:
        found, spelled = _in_step(ours, _folded(plain)), plain
    places = [-1] * len(read)
    for text, start in spelled:
        places[start : start + len(text)] = [found.get(start, -1)] * len(text)
    _spread(own, read, places)
    return places


def _in_step(ours: tuple[str, list[int]], theirs: tuple[str, list[int]]) -> dict[int, int]:
    """The places in what is read, and those in our text, where both go on alike."""
    found: dict[int, int] = {}
    (own, our_places), (read, their_places) = ours, theirs
    runs: dict[str, list[int]] = defaultdict(list)
    for start in range(len(read) + 1):
        runs[read[start : start + _RUN]].append(start)
    i = j = 0
    while i < len(own) and j < len(read):
        if own[i] == read[j]:
            found.setdefault(their_places[j], our_places[i])
            i, j = i + 1, j + 1
        elif read[j] == UNKNOWN:
            count = len(read) - j - len(read[j:].lstrip(UNKNOWN))
            behind = read[j + count : j + count + _ENOUGH].split(UNKNOWN)[0]
            end = own.find(behind, i) if behind else len(own)
            one_each = end - i == count
            for number in range(count):
                found[their_places[j + number]] = our_places[i + number * one_each]
            i, j = max(i, end), j + count
        else:
            steps = _nearest(own, i, j, runs)
            i, j = i + steps[0], j + steps[1]
    return found


def _nearest(own: str, i: int, j: int, runs: dict[str, list[int]]) -> tuple[int, int]:
    """How far both texts have to go from here until they go on alike."""
    best = (len(own) - i, max(runs[""]) - j)
    for ahead in range(len(own) - i):
        if ahead >= sum(best):
            break
        places = runs.get(own[i + ahead : i + ahead + _RUN], [])
        next_one = bisect_left(places, j)
        if next_one < len(places) and ahead + places[next_one] - j < sum(best):
            best = (ahead, places[next_one] - j)
    return best


def _spread(own: str, read: str, places: list[int]) -> None:
    """Finds the places of what was folded away, such as white space, next to what has one."""
    ahead = [len(own)] * (len(read) + 1)
    for at in range(len(read) - 1, -1, -1):
        ahead[at] = ahead[at + 1] if places[at] < 0 else places[at]
    reached = -1
    for at, place in enumerate(places):
        if place < 0 and reached + 1 < ahead[at] and own[reached + 1] == read[at]:
            places[at] = reached + 1
        reached = max(reached, places[at])
    following = len(own)
    for at in range(len(read) - 1, -1, -1):
        before = max(places[:at][-1:] or [-1])
        if places[at] < 0 <= before < following - 1 and own[following - 1] == read[at]:
            places[at] = following - 1
        following = following if places[at] < 0 else places[at]


def _unescaped(text: str) -> str:
    """The character that an escape stands for; any other text as it is."""
    if len(text) == 1:
        return text
    if text[0] == "&":
        return html.unescape(text)
    return "/" if text == r"\/" else str(literal_eval(f'"{text}"'))


def _folded(pairs: list[tuple[str, int]]) -> tuple[str, list[int]]:
    """Texts without what may differ between two that say the same, and the place of each character that is left."""
    folded: list[str] = []
    places: list[int] = []
    for text, place in pairs:
        for character in text:
            own = _fold(character)
            folded.append(own)
            places += [place] * len(own)
    return "".join(folded), places


@cache
def _fold(character: str) -> str:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(c for c in plain if not (unicodedata.combining(c) or c.isspace() or c == "▁"))
