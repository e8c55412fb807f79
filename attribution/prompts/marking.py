"""Marking: where the texts of a chat stand in what a template makes of them.

Templates are programs: they trim, drop, repeat and quote what they are given. So they are run a second time over
messages whose texts carry marks, and where taking the marks out leaves what the first run wrote, the marks tell exactly
where each text went. What no mark tells, the template is asked: with other letters in a text, it writes others where
that text went.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from typing import Any
from unicodedata import category

from jinja2 import Environment

from attribution.errors import InputError
from attribution.prompts.alignment import align, stands_for
from attribution.prompts.chat import Chat, Text, all_texts, copied, put
from attribution.prompts.source import Part, Source, Span

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles that a template need not name to know them."""

_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")  # characters that mean nothing to anybody
_SIGN = re.compile(r"[^\w\s]")
_ESCAPE = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\u[0-9a-fA-F]{4}|&#?\w{1,31};")
_SIZES = (1, 2, 12, 6, 5, 4)  # what a sign is written in: itself, escaped for JSON, for XML
_STRANGE = 4  # characters in a row that are none of a text's: it does not stand there in one piece

Render = Callable[[list[dict[str, Any]], Any], str]
"""What a template makes of messages and tools."""

_END = sys.maxsize

Block = tuple[int, int, int]
"""Characters that stand for a person's: where in what is read, where in their text, and how many."""


@dataclass(frozen=True)
class _Piece:
    """A stretch of a text that a template shows or drops as a whole; `text` is the text's index."""

    text: int
    start: int
    end: int


@dataclass(frozen=True)
class _Found:
    """A piece, and the characters of what is read that it stands in; `guessed` where no mark told."""

    start: int
    end: int
    piece: _Piece
    guessed: bool = False


def find_parts(chat: Chat, render: Render, template: str) -> Source:
    """What the template makes of the chat, and where in it the person's texts stand.

    `template` is its source. Raises `InputError` for a role that it does not know, where it does not show a message,
    and where it changes a text so much that its place cannot be told.
    """
    for index, message in enumerate(chat.messages):
        role = message["role"]
        if role not in ROLES and f"'{role}'" not in template and f'"{role}"' not in template:
            raise InputError(
                f"Expected message {index} to have a role out of {', '.join(ROLES)}, or one that the chat template "
                f"knows, got {role!r}."
            )
    plain = render(copied(chat.messages), copied(chat.tools))
    texts = list(all_texts(chat))
    marking = _Marking(chat, texts, render, plain, template)
    found = marking.find()
    if marking.lost:
        text = texts[marking.lost[0]]
        whose = "a tool" if text.message is None else f"message {text.message} (role {text.role!r})"
        raise InputError(
            f"Cannot tell where the chat template puts {whose}: it changes {text.place} too much. Pass what it makes "
            "of the messages as Rendered(text, spans)."
        )
    parts = tuple(_joined(texts, found, plain))
    shown = {part.message for part in parts}
    for index, message in enumerate(chat.messages):
        if index not in shown and message["role"] != "assistant" and any(text.message == index for text in texts):
            raise InputError(
                f"The chat template does not show message {index} (role {message['role']!r}). Leave it out, or give it "
                f"a role that the template knows, or its content as {_other_content(message.get('content'))}."
            )
    return Source(plain, parts, tokenizer_adds=False, left_out=_left_out(texts, parts), messages=tuple(chat.messages))


class _Marking:
    """Runs of a template over marked texts."""

    def __init__(self, chat: Chat, texts: Sequence[Text], render: Render, plain: str, template: str) -> None:
        self._chat, self._texts, self._render, self._plain = chat, texts, render, plain
        self._literals = _literals(template)
        self.lost: list[int] = []  # texts that are shown, at least in part, nobody knows where
        self._taken = set(_PRIVATE.findall(plain + "".join(text.text for text in texts)))

    def find(self) -> list[_Found]:
        """Where the texts stand in what is read, in order, in one piece each or in several."""
        whole = [[_Piece(index, 0, len(text.text))] for index, text in enumerate(self._texts)]
        found = self._best(whole)
        shown = {each.piece.text for each in found or ()}
        # The template may take a text apart.
        cut = [pieces if pieces[0].text in shown else self._cut(pieces[0]) for pieces in whole]
        if cut != whole:
            again = self._best(cut)
            found = found if again is None else again
        if found is None:  # it notices some marks: one text at a time then
            found = [each for pieces in whole for each in self._alone(pieces)]
        found = [each for each in found if each.start < each.end]
        return sorted([*found, *self._changed(found)], key=lambda each: each.start)

    def _best(self, pieces: Sequence[Sequence[_Piece]]) -> list[_Found] | None:
        """Where these pieces stand, each with as much of the white space around it as the template leaves."""
        found = self._run(pieces)
        if found is not None:
            return found
        best = [self._trimmed(each) for each in pieces]
        found = self._run(best)
        for index, each in enumerate(pieces if found is not None else ()):
            for left, right in ((False, False), (False, True), (True, False)):
                option = self._trimmed(each, left, right)
                if option == best[index]:
                    break
                again = self._run([*best[:index], option, *best[index + 1 :]])
                if again is not None:
                    best[index], found = option, again
                    break
        return found

    def _alone(self, pieces: Sequence[_Piece]) -> list[_Found]:
        """Where one text stands, whole or in pieces; nothing where the template notices its marks too."""
        return self._best([pieces]) or self._best([self._cut(pieces[0])]) or []

    def _run(self, pieces: Sequence[Sequence[_Piece]]) -> list[_Found] | None:
        """Where these pieces stand; None where the template says something else of marked texts."""
        messages, tools = copied(self._chat.messages), copied(self._chat.tools)
        flat = [piece for each in pieces for piece in each]
        marks = list(islice((mark for mark in map(chr, _marks()) if mark not in self._taken), 2 * len(flat)))
        if len(marks) < 2 * len(flat):
            return None
        marked: dict[int, list[str]] = defaultdict(list)
        reached: dict[int, int] = {}
        for number, piece in enumerate(flat):
            own = self._texts[piece.text].text
            before = own[reached.get(piece.text, 0) : piece.start]
            marked[piece.text] += [before, marks[2 * number], own[piece.start : piece.end], marks[2 * number + 1]]
            reached[piece.text] = piece.end
        for index, written in marked.items():
            text = self._texts[index]
            all_of_it = "".join(written) + text.text[reached[index] :]
            put(tools if text.message is None else messages[text.message], text.way, all_of_it)
        try:
            return self._read(self._render(messages, tools), flat, marks)
        except InputError:  # the plain texts passed: it is the marks that it refuses
            return None

    def _read(self, written: str, pieces: Sequence[_Piece], marks: Sequence[str]) -> list[_Found] | None:
        numbers = {mark: number for number, mark in enumerate(marks)}
        found: list[_Found] = []
        opened: dict[int, int] = {}
        kept: list[str] = []
        reached = length = 0
        for match in _PRIVATE.finditer(written):
            number = numbers.get(match.group())
            if number is None:
                continue
            kept.append(written[reached : match.start()])
            length, reached = length + len(kept[-1]), match.end()
            if number % 2 == 0:
                opened[number // 2] = length
            elif number // 2 in opened:
                found.append(_Found(opened.pop(number // 2), length, pieces[number // 2]))
        kept.append(written[reached:])
        return found if "".join(kept) == self._plain else None

    def _cut(self, piece: _Piece) -> list[_Piece]:
        """The pieces of a text around what the template may look for in it, "</think>" for instance."""
        own = self._texts[piece.text].text
        matches = re.finditer("|".join(map(re.escape, self._literals)) or r"(?!)", own)
        edges = [0, *(edge for match in matches for edge in match.span()), len(own)]
        found = [_Piece(piece.text, start, end) for start, end in list(pairwise(edges))[::2] if own[start:end].strip()]
        return found or [piece]

    def _trimmed(self, pieces: Sequence[_Piece], left: bool = True, right: bool = True) -> list[_Piece]:
        """The pieces without the white space before and after them."""
        found: list[_Piece] = []
        for piece in pieces:
            own = self._texts[piece.text].text[piece.start : piece.end]
            start = piece.start + (len(own) - len(own.lstrip())) * left
            end = piece.end - (len(own) - len(own.rstrip())) * right
            if start < end:
                found.append(_Piece(piece.text, start, end))
        return found

    def _changed(self, found: Sequence[_Found]) -> list[_Found]:
        """Where what was not found stands: where other letters are read when it has other letters."""
        missing: list[list[_Piece]] = []
        for index, text in enumerate(self._texts):
            seen = [each.piece for each in found if each.piece.text == index]
            cut = self._cut(_Piece(index, 0, len(text.text)))
            left = [piece for piece in cut if not any(a.start < piece.end and piece.start < a.end for a in seen)]
            left = [piece for piece in left if not self._is_dropped(text.text[piece.start : piece.end])]
            missing += [left] * bool(left)
        every = [piece for left in missing for piece in left]
        if not every or all(self._probed(every, step) == self._plain for step in (1, 2)):
            return []
        guessed: list[_Found] = []
        for left in missing:
            text = left[0].text
            whole = _Piece(text, left[0].start, left[-1].end)
            here = self._as_it_is(whole, left)
            if not here:
                for piece in left:
                    place = self._as_it_is(piece, [piece]) or self._altered(piece, [*found, *guessed, *here])
                    if place is None:
                        self.lost.append(text)
                    here += place or []
            guessed += here
        return guessed

    def _is_dropped(self, own: str) -> bool:
        """Whether a text that no mark shows is nothing but what the template looks for, "</think>" for instance."""
        literals = "|".join(map(re.escape, self._literals)) or "(?!)"
        return re.fullmatch(rf"(?:\s|{literals})+", own) is not None

    def _probed(self, pieces: Sequence[_Piece], step: int) -> str | None:
        """What the template makes of the chat with other letters in these pieces; None where it refuses them."""
        messages, tools = copied(self._chat.messages), copied(self._chat.tools)
        texts: dict[int, str] = {}
        for piece in pieces:
            own = texts.get(piece.text, self._texts[piece.text].text)
            texts[piece.text] = own[: piece.start] + _other(own[piece.start : piece.end], step) + own[piece.end :]
        for index, own in texts.items():
            text = self._texts[index]
            put(tools if text.message is None else messages[text.message], text.way, own)
        try:
            return self._render(messages, tools)
        except InputError:
            return None

    def _as_it_is(self, whole: _Piece, changed: Sequence[_Piece]) -> list[_Found]:
        """The places where a piece is read letter for letter, and with other letters when these parts of it change."""
        (core,) = self._trimmed([whole])
        own = other = self._texts[core.text].text
        for piece in changed:
            other = other[: piece.start] + _other(own[piece.start : piece.end], 1) + other[piece.end :]
        own, other = own[core.start : core.end], other[core.start : core.end]
        probed = self._probed(changed, 1)
        found: list[_Found] = []
        if probed is None or len(probed) != len(self._plain):
            return found
        start = self._plain.find(own)
        while start >= 0:
            end = start + len(own)
            if probed[start:end] == other:
                found.append(_Found(start, end, core, guessed=True))
            else:
                end = start + 1
            start = self._plain.find(own, end)
        return found

    def _altered(self, piece: _Piece, others: Sequence[_Found]) -> list[_Found] | None:
        """The one place where a piece is read in other characters, or in part; None where that cannot be told."""
        plain, own = self._plain, self._texts[piece.text].text
        other = own[: piece.start] + _other(own[piece.start : piece.end], 1) + own[piece.end :]
        places: set[int] = set()
        for step in (1, 2):
            probed = self._probed([piece], step)
            if probed is None or len(probed) != len(plain):
                return None
            places |= {at for at, (a, b) in enumerate(zip(plain, probed, strict=True)) if a != b}
        if not places:
            return []
        start, end = min(places), max(places) + 1
        near = max(0, start - 12)
        for match in _ESCAPE.finditer(plain[near : end + 12]):  # a letter that is written as several
            first, last = near + match.start(), near + match.end()
            if first < end and start < last:
                start, end = min(start, first), max(end, last)
        edges = [at for at, (a, b) in enumerate(zip(own, other, strict=True)) if a != b]
        begin = edges[0]
        stands = [begin + at if at >= 0 else -1 for at in align(own[begin : edges[-1] + 1], plain[start:end])]
        known = [at for at, place in enumerate(stands) if place >= 0]
        if not known or any(b - a > _STRANGE for a, b in pairwise([-1, *known, len(stands)])):
            return None
        first, last = stands[known[0]], stands[known[-1]] + 1
        start, end = start + known[0], start + known[-1] + 1
        while first > piece.start and own[first - 1] == other[first - 1]:  # what has not changed is next to it
            size = next((n for n in _SIZES if n <= start and stands_for(plain[start - n : start], own[first - 1])), 0)
            if not size:
                break
            start, first = start - size, first - 1
        while last < piece.end and own[last] == other[last]:
            size = next((n for n in _SIZES if stands_for(plain[end : end + n], own[last])), 0)
            if not size:
                break
            end, last = end + size, last + 1
        if any(each.start < end and start < each.end for each in others):
            return None
        return [_Found(start, end, piece, guessed=True)]


def _other(text: str, step: int) -> str:
    """The text in other letters and digits; in other signs where it has none."""
    found = "".join(_next(character, step) if character.isalnum() else character for character in text)
    return found if found != text else "".join(_next(c, step) if not c.isspace() else c for c in text)


@cache
def _next(character: str, step: int) -> str:
    """Another character of the same kind, as long in capitals."""
    for first, last in ("az", "AZ", "19"):
        if first <= character <= last:
            return chr(ord(first) + (ord(character) - ord(first) + step) % (ord(last) - ord(first) + 1))
    near = (ord(character) + way * far for far in range(1, 100) for way in (1, -1))
    alike = (
        other
        for other in map(chr, (number for number in near if 0 <= number <= sys.maxunicode))
        if category(other) == category(character)
        and other.isascii() == character.isascii()
        and len(other.upper()) == len(character.upper())
    )
    return next(islice(alike, step - 1, None), "xy"[step - 1])


def _marks() -> Iterator[int]:
    """The numbers of characters for private use, which are also what they are in every normal form."""
    yield from range(0xF0000, 0xFFFFE)
    yield from range(0x100000, 0x10FFFE)


@cache
def _literals(template: str) -> list[str]:
    """What a template compares texts with, or looks for in them; the longest first."""
    values = {token.value for token in Environment().lexer.tokenize(template) if token.type == "string"}
    return sorted((value for value in values if len(value) > 1 and _SIGN.search(value)), key=len, reverse=True)


def _joined(texts: Sequence[Text], found: Sequence[_Found], plain: str) -> Iterator[Part]:
    """One part for pieces of a text that stand as they stood in it; what was between them, and around, is theirs."""
    blocks: list[Block] = []
    reached = first = 0
    exact = True
    for number, each in enumerate(found):
        start, end, piece = each.start, each.end, each.piece
        text = texts[piece.text]
        own = text.text
        if not blocks:  # a literal at the beginning of the text
            lead = own[: piece.start].lstrip()
            first = start - len(lead) if plain.endswith(lead, reached, start) else start
            blocks += [(first, piece.start - len(lead), len(lead))] * (first < start)
            exact = True
        blocks += _blocks(own[piece.start : piece.end], plain[start:end], start, piece.start)
        exact &= not each.guessed and own[piece.start : piece.end] == plain[start:end]
        reached = end
        following = found[number + 1] if number + 1 < len(found) else None
        rest = len(own)
        if following is not None and following.piece.text == piece.text and following.piece.start >= piece.end:
            rest = following.piece.start
            if following.start >= end and plain[end : following.start] == own[piece.end : rest]:
                blocks += [(end, piece.end, rest - piece.end)] * (rest > piece.end)
                continue
        ceiling = following.start if following is not None else len(plain)
        tail = own[piece.end :].rstrip()
        if tail and rest == len(own) and plain.startswith(tail, end, ceiling):
            blocks.append((end, piece.end, len(tail)))
            reached = end + len(tail)
        yield Part(first, reached, text.role, text.message, text.place, tuple(_merged(blocks)), exact, own)
        blocks = []


def _blocks(own: str, read: str, at: int, start: int) -> list[Block]:
    """The characters of a text that stand in what is read, one by one or together."""
    if own == read:
        return [(at, start, len(own))]
    return [(at + number, start + place, 1) for number, place in enumerate(align(own, read)) if place >= 0]


def _merged(blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks that go on where the one before ended, as one."""
    last: Block | None = None
    for block in blocks:
        if last is not None and (last[0] + last[2], last[1] + last[2]) == block[:2]:
            last = (last[0], last[1], last[2] + block[2])
            continue
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield last


def _left_out(texts: Sequence[Text], parts: Sequence[Part]) -> tuple[tuple[int | None, str, int, int], ...]:
    """The stretches of texts that stand nowhere in what is read, but for names and white space."""
    shown: dict[tuple[int | None, str], list[Span]] = defaultdict(list)
    for part in parts:
        shown[part.message, part.place] += _shown(part)
    found: list[tuple[int | None, str, int, int]] = []
    for text in texts:
        reached = 0
        for start, end in [*sorted(shown[text.message, text.place]), (len(text.text), len(text.text))]:
            if text.text[reached:start].strip() and text.way != ("name",):
                found.append((text.message, text.place, reached, start))
            reached = max(reached, end)
    return tuple(found)


def _shown(part: Part) -> Iterator[Span]:
    """The stretches of a text that a part shows, maybe in other characters."""
    edges = [(part.start, 0, 0), *part.blocks, (part.end, _END, 0)]
    for (at, own, length), (next_at, next_own, next_length) in pairwise(edges):
        if next_at > at + length:
            yield own + length, next_own
        if next_length:
            yield next_own, next_own + next_length


def _other_content(content: Any) -> str:
    return '[{"type": "text", "text": "..."}]' if isinstance(content, str) else "one text"
