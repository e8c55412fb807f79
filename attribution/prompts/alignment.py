"""Alignment: which characters of a text those of another stand for, that says the same in slightly other characters."""

from __future__ import annotations

import html
import re
import unicodedata
from ast import literal_eval
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise

UNKNOWN = "\uffff"
"""Stands in what is read for what cannot be read from it."""

_HALVES = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(
    rf"""{_HALVES}|\\u[0-9a-fA-F]{{4}}|\\x[0-9a-fA-F]{{2}}|\\["'\\/bfnrt]|&#?\w{{1,31}};|.""", re.DOTALL
)
_RUN = 3  # characters in a row that tell where two texts are in step again
_ENOUGH = 16  # characters behind something unknown that tell where it ends

Folded = tuple[str, list[int]]
"""A text without what may differ between two that say the same, and the place of each character that is left."""


def align(own: str, read: str) -> list[int]:
    """For every character of `read` the place in `own` of what it stands for, -1 where it stands for nothing.

    The places never go back. Case, accents, width and white space may differ, characters may be escaped (as JSON, XML
    or Python write them), and stretches may be missing, added or `UNKNOWN`.
    """
    if own == read:
        return list(range(len(own)))
    ours = _folded(own)
    spelled = list(read)
    found = _alike(ours, _folded(spelled))
    if found is None:
        escapes = _ESCAPE.findall(read)
        found = _alike(ours, _folded([_unescaped(text) for text in escapes]))
        spelled = spelled if found is None else escapes
    if found is None:
        found = _in_step(own, ours, _folded(spelled))
    own_places = _spread(own, [_unescaped(text) for text in spelled], found)
    return [place for place, text in zip(own_places, spelled, strict=True) for _ in text]


def stands_for(text: str, character: str) -> bool:
    """Whether a text is a character, as it is or escaped."""
    return bool(_ESCAPE.fullmatch(text)) and _unescaped(text) == character


def _alike(ours: Folded, theirs: Folded) -> dict[int, int] | None:
    """The place in our text for those in another that says the same throughout."""
    if ours[0] != theirs[0]:
        return None
    return dict(zip(reversed(theirs[1]), reversed(ours[1]), strict=True))  # the first, where there are several


def _in_step(text: str, ours: Folded, theirs: Folded) -> dict[int, int]:
    """The place in our text for those in another where both go on alike."""
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
            last = j
            while read[last : last + 1] == UNKNOWN:
                last += 1
            behind = read[last : last + _ENOUGH].split(UNKNOWN)[0]
            end = own.find(behind, i) if behind else len(own)
            hidden = our_places[i : max(i + 1, end)]
            starts = [hidden[0], *(b for a, b in pairwise(hidden) if text[a + 1 : b].isspace())]
            if len(starts) != last - j:  # not as many words; as many characters, or the first stands for all
                starts = hidden if len(hidden) == last - j else hidden[:1] * (last - j)
            found |= zip(their_places[j:last], starts, strict=True)
            i, j = max(i, end), last
        else:
            i, j = _in_step_again(own, i, j, runs)
    return found


def _in_step_again(own: str, i: int, j: int, runs: dict[str, list[int]]) -> tuple[int, int]:
    """The nearest places from these on where both texts go on alike; the ends where there are none."""
    best, cost = (len(own), runs[""][-1]), len(own) - i + runs[""][-1] - j
    for ahead in range(len(own) - i):
        if ahead >= cost:
            break
        places = runs.get(own[i + ahead : i + ahead + _RUN], [])
        following = bisect_left(places, j)
        if following < len(places) and ahead + places[following] - j < cost:
            best, cost = (i + ahead, places[following]), ahead + places[following] - j
    return best


def _spread(own: str, read: Sequence[str], found: dict[int, int]) -> list[int]:
    """The places that were found, and next to them those of what was folded away, such as white space."""
    places = [found.get(at, -1) for at in range(len(read))]
    following = len(own)
    for at in range(len(read) - 1, -1, -1):
        known, places[at] = places[at], following  # where the next known one is, for now
        following = following if known < 0 else known
    reached = -1
    for at, ahead in enumerate(places):
        if at in found:
            places[at] = reached = found[at]
        elif reached + 1 < ahead and own[reached + 1] == read[at]:
            places[at] = reached = reached + 1
        else:
            places[at] = -1
    before = list(accumulate(places, max))
    following = len(own)
    for at in range(len(read) - 1, -1, -1):
        if places[at] < 0 and before[at] < following - 1 and own[following - 1] == read[at]:
            places[at] = following - 1
        following = following if places[at] < 0 else places[at]
    return places


def _unescaped(text: str) -> str:
    """The character that an escape stands for; any other text as it is."""
    if len(text) == 1:
        return text
    if text[0] == "&":
        return html.unescape(text)
    plain = "/" if text == r"\/" else str(literal_eval(f'"{text}"'))
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # two halves are a character


def _folded(texts: Sequence[str]) -> Folded:
    folded = ["".join(map(_fold, text)) for text in texts]
    return "".join(folded), [place for place, text in enumerate(folded) for _ in text]


@cache
def _fold(character: str) -> str:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(c for c in plain if not (unicodedata.combining(c) or c.isspace() or c == "▁"))
