"""Chat: messages as a person writes them, and how their text is found again in what a template makes of them.

Templates are programs: they trim, drop, repeat and quote what they are given. So they are run a second time over
messages whose texts carry marks, and where taking the marks out leaves what the first run wrote, the marks tell exactly
where each text went. Nothing is guessed from the text itself unless a template notices the marks.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import cache
from typing import Any, cast

from jinja2 import Environment

from attribution.errors import InputError
from attribution.source import Part, Source

Message = Mapping[str, Any]
Messages = Sequence[Message]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles that a template need not name to know them."""

_MARKS = (0xF0000, 0x100000)  # planes of characters for private use
_TEXTS = ("reasoning_content", "reasoning", "thinking", "content", "name")
_SIGN = re.compile(r"[^\w\s]")

Render = Callable[[list[dict[str, Any]], Any], str]
"""What a template makes of messages and tools."""


@dataclass(frozen=True)
class Chat:
    """Messages, and what else their template is given.

    - `messages`: dicts with `role` and `content`; `tool_calls` and the like where the template has them. Where the last
      one is the assistant's, the model goes on writing it.
    - `tools`: what the model may call, as JSON schemas.
    - `options`: what else the template knows, for instance `{"enable_thinking": False}`.

    Raises `InputError` for messages that no template could take.
    """

    messages: Messages
    tools: Sequence[Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if isinstance(self.messages, (str, bytes, Mapping)) or not isinstance(self.messages, Sequence):
            raise InputError(
                f'Expected messages as a list such as [{{"role": "user", "content": "Hi"}}], got {self.messages!r}.'
            )
        if not self.messages:
            raise InputError('Expected at least one message, got none. Type [{"role": "user", "content": "..."}].')
        for index, message in enumerate(self.messages):
            _check_message(index, message)
        object.__setattr__(self, "messages", tuple(deepcopy(dict(message)) for message in self.messages))

    @property
    def continues(self) -> bool:
        """Whether the model goes on with the last message instead of answering it."""
        last = self.messages[-1]
        return last["role"] == "assistant" and not last.get("tool_calls")


@dataclass(frozen=True)
class _Text:
    """A text within messages or tools: whose it is, and the way to it."""

    message: int | None
    role: str
    way: tuple[str | int, ...]
    text: str

    @property
    def place(self) -> str:
        """The way to it as a person would type it."""
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.way).removeprefix(".")


@dataclass(frozen=True)
class _Piece:
    """A stretch of a text that a template shows or drops as a whole; `text` is the text's index."""

    text: int
    start: int
    end: int


Found = tuple[int, int, _Piece]
"""A piece, and the characters of what is read that it stands in."""


def find_parts(chat: Chat, render: Render, template: str) -> Source:
    """What the template makes of the chat, and where in it the person's texts stand.

    `template` is its source. Raises `InputError` where it does not show a message.
    """
    for index, message in enumerate(chat.messages):
        role = message["role"]
        if role not in ROLES and f"'{role}'" not in template and f'"{role}"' not in template:
            raise InputError(
                f"Expected message {index} to have a role out of {', '.join(ROLES)}, or one that the chat template "
                f"knows, got {role!r}."
            )
    plain = render(_copy(chat.messages), _copy(chat.tools))
    texts = list(_texts(chat))
    pieces = [_pieces(index, text.text, template) for index, text in enumerate(texts)]
    found = _Marking(chat, texts, render, plain).find(pieces)
    shown = {piece for *_, piece in found}
    for index, message in enumerate(chat.messages):
        own = [p for each, text in zip(pieces, texts, strict=True) if text.message == index for p in each]
        if own and message["role"] != "assistant" and not any(_covers(shown, piece) for piece in own):
            raise InputError(
                f"The chat template does not show message {index} (role {message['role']!r}). Leave it out, or give it "
                "a role that the template knows."
            )
    left_out = tuple(
        (texts[piece.text].message, texts[piece.text].place, piece.start, piece.end)
        for each in pieces
        for piece in each
        if not _covers(shown, piece) and texts[piece.text].way != ("name",)
    )
    parts = tuple(_joined(texts, found, plain))
    return Source(plain, parts, tokenizer_adds=False, left_out=left_out, messages=tuple(chat.messages))


class _Marking:
    """Runs of a template over marked texts."""

    def __init__(self, chat: Chat, texts: Sequence[_Text], render: Render, plain: str) -> None:
        self._chat, self._texts, self._render, self._plain = chat, texts, render, plain
        used = plain + "".join(text.text for text in texts)
        self._first = next(
            (plane for plane in _MARKS if not any(plane <= ord(c) < plane + 2**16 for c in used)), _MARKS[0]
        )

    def find(self, pieces: Sequence[Sequence[_Piece]]) -> list[Found]:
        """Where the pieces of all texts stand in what is read, in order."""
        trimmed = [self._trimmed(each) for each in pieces]
        found = self._run(pieces)
        if found is None and (found := self._run(trimmed)) is not None:
            # The template trims some texts; the others keep the white space around them.
            best = list(trimmed)
            for index, (whole, core) in enumerate(zip(pieces, trimmed, strict=True)):
                if whole != core:
                    again = self._run([*best[:index], whole, *best[index + 1 :]])
                    if again is not None:
                        best[index], found = whole, again
        if found is None:  # the template notices some marks: one text at a time then
            found = []
            for whole, core in zip(pieces, trimmed, strict=True):
                own = self._run([whole])
                own = self._run([core]) if own is None else own
                found += self._search(core) if own is None else own
        return sorted(found, key=lambda each: each[:2])

    def _run(self, pieces: Sequence[Sequence[_Piece]]) -> list[Found] | None:
        """Where these pieces stand; None where the template says something else of marked texts."""
        messages, tools = _copy(self._chat.messages), _copy(self._chat.tools)
        flat = [piece for each in pieces for piece in each]
        if 2 * len(flat) > 2**16 - 2:
            return None
        for index in {piece.text for piece in flat}:
            text = self._texts[index]
            marked, reached = "", 0
            for number, piece in enumerate(flat):
                if piece.text == index:
                    opening, closing = chr(self._first + 2 * number), chr(self._first + 2 * number + 1)
                    own = text.text[piece.start : piece.end]
                    marked += text.text[reached : piece.start] + opening + own + closing
                    reached = piece.end
            _put(tools if text.message is None else messages[text.message], text.way, marked + text.text[reached:])
        try:
            written = self._render(messages, tools)
        except InputError:  # the plain texts passed: it is the marks that it refuses
            return None
        return self._read(written, flat)

    def _read(self, written: str, pieces: Sequence[_Piece]) -> list[Found] | None:
        found: list[Found] = []
        opened: dict[int, int] = {}
        kept: list[str] = []
        for character in written:
            number = ord(character) - self._first
            if not 0 <= number < 2 * len(pieces):
                kept.append(character)
            elif number % 2 == 0:
                opened[number // 2] = len(kept)
            elif number // 2 in opened:
                found.append((opened.pop(number // 2), len(kept), pieces[number // 2]))
        return found if "".join(kept) == self._plain else None

    def _trimmed(self, pieces: Sequence[_Piece]) -> list[_Piece]:
        """The pieces without the white space around them."""
        found: list[_Piece] = []
        for piece in pieces:
            own = self._texts[piece.text].text[piece.start : piece.end]
            start = piece.start + len(own) - len(own.lstrip())
            end = piece.start + len(own.rstrip())
            if start < end:
                found.append(_Piece(piece.text, start, end))
        return found

    def _search(self, pieces: Sequence[_Piece]) -> list[Found]:
        """Pieces that stand in what is read exactly once, as they are."""
        found: list[Found] = []
        for piece in pieces:
            own = self._texts[piece.text].text[piece.start : piece.end]
            if self._plain.count(own) == 1:
                start = self._plain.index(own)
                found.append((start, start + len(own), piece))
        return found


def read_texts(chat: Chat) -> dict[tuple[int, str], str]:
    """Every text of the messages, by the index of its message and its place in it ("content")."""
    return {(text.message, text.place): text.text for text in _texts(chat) if text.message is not None}


def write_texts(chat: Chat, texts: Mapping[tuple[int, str], str]) -> Chat:
    """The chat with other texts in the places that `read_texts` names; messages without content are left out."""
    messages = _copy(chat.messages)
    for text in _texts(chat):
        if text.message is not None and (text.message, text.place) in texts:
            _put(messages[text.message], text.way, texts[text.message, text.place])
    emptied = {index for (index, place), text in texts.items() if place == "content" and not text.strip()}
    return replace(chat, messages=[message for index, message in enumerate(messages) if index not in emptied])


def _check_message(index: int, message: object) -> None:
    if not isinstance(message, Mapping):
        raise InputError(f"Expected message {index} as a dict with role and content, got {type(message).__name__}.")
    own = cast("Mapping[str, Any]", message)
    role, content = own.get("role"), own.get("content")
    if not isinstance(role, str) or not role:
        raise InputError(f"Expected message {index} to have a role such as 'user', got {role!r}.")
    texts: list[Any] = content if isinstance(content, list) else [content]
    for text in texts:
        given = cast("dict[str, Any]", text).get("text") if isinstance(text, dict) else text
        if given is not None and not isinstance(given, str):
            raise InputError(f"Expected the content of message {index} as text, got {type(given).__name__}.")
        if isinstance(text, dict) and given is None:
            raise InputError(f"Expected the content of message {index} as text, got {cast(Any, text).get('type')!r}.")
        if (given is None or not given.strip()) and role not in ("tool", "function") and not own.get("tool_calls"):
            raise InputError(f"Expected message {index} (role {role!r}) to have content, it is empty. Leave it out.")


def _texts(chat: Chat) -> Iterator[_Text]:
    """Every text of the messages that a template may show, and what the tools' descriptions say."""
    for index, message in enumerate(chat.messages):
        for key in _TEXTS:
            yield from (_Text(index, message["role"], *found) for found in _leaves(message.get(key), (key,)))
        calls: list[Any] = message.get("tool_calls") or []
        for number, call in enumerate(calls):
            for key in ("function", "name", "arguments"):
                way = ("tool_calls", number, key)
                inner = call.get(key) if isinstance(call, Mapping) else None
                yield from (_Text(index, message["role"], *found) for found in _leaves(inner, way))
    for number, tool in enumerate(chat.tools or ()):
        if isinstance(tool, Mapping):
            for way, text in _leaves(tool, (number,)):
                if way[-1] == "description":
                    yield _Text(None, "tools", way, text)


def _leaves(value: Any, way: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The texts within nested lists and dicts, but for what says of which type something is."""
    if isinstance(value, str):
        if value.strip():
            yield way, value
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, Any]", value).items():
            if key != "type":
                yield from _leaves(inner, (*way, key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast("Sequence[Any]", value)):
            yield from _leaves(inner, (*way, number))


def _pieces(index: int, text: str, template: str) -> list[_Piece]:
    """The text cut around what the template may look for in it, "</think>" for instance."""
    found: list[_Piece] = []
    reached = 0
    for match in re.finditer("|".join(map(re.escape, _literals(template))) or r"(?!)", text):
        found.append(_Piece(index, reached, match.start()))
        reached = match.end()
    found.append(_Piece(index, reached, len(text)))
    return [piece for piece in found if text[piece.start : piece.end].strip()] or [_Piece(index, 0, len(text))]


@cache
def _literals(template: str) -> list[str]:
    """What a template compares texts with, or looks for in them; the longest first."""
    tokens = Environment().lex(template)
    values = {literal_eval(value) for _, kind, value in tokens if kind == "string"}
    return sorted((value for value in values if len(value) > 1 and _SIGN.search(value)), key=len, reverse=True)


def _joined(texts: Sequence[_Text], found: Sequence[Found], plain: str) -> Iterator[Part]:
    """One part for pieces of a text that stand as they stood in it; what was between them, and behind, is theirs."""
    blocks: list[tuple[int, int, int]] = []
    first = 0
    for number, (start, end, piece) in enumerate(found):
        text = texts[piece.text]
        own = text.text
        if not blocks:  # a literal at the beginning of the text
            floor = found[number - 1][1] if number else 0
            lead = own[: piece.start].lstrip()
            first = start - len(lead) if plain.endswith(lead, floor, start) else start
            blocks += [(first, piece.start - len(lead), len(lead))] * (first < start)
        blocks += _blocks(own[piece.start : piece.end], plain[start:end], start, piece.start)
        following = found[number + 1] if number + 1 < len(found) else None
        rest = len(own)
        if following is not None and following[2].text == piece.text and following[2].start >= piece.end:
            rest = following[2].start
            if plain[end : following[0]] == own[piece.end : rest]:
                blocks += [(end, piece.end, rest - piece.end)] * (rest > piece.end)
                continue
        ceiling = following[0] if following is not None else len(plain)
        tail = own[piece.end :].rstrip()
        if tail and rest == len(own) and plain.startswith(tail, end, ceiling):
            blocks.append((end, piece.end, len(tail)))
            end += len(tail)
        yield Part(first, end, text.role, text.message, text.place, tuple(_merged(blocks)))
        blocks = []


def _blocks(own: str, read: str, at: int, start: int) -> list[tuple[int, int, int]]:
    """The stretches of a text that stand in what is read character for character."""
    if own == read:
        return [(at, start, len(own))]
    matching = SequenceMatcher(None, own, read, autojunk=False).get_matching_blocks()
    return [(at + block.b, start + block.a, block.size) for block in matching if block.size]


def _merged(blocks: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Blocks that go on where the one before ended, as one."""
    last: tuple[int, int, int] | None = None
    for block in blocks:
        if last is not None and (last[0] + last[2], last[1] + last[2]) == block[:2]:
            last = (last[0], last[1], last[2] + block[2])
            continue
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield last


def _covers(shown: set[_Piece], piece: _Piece) -> bool:
    """Whether a piece is shown, maybe without the white space around it."""
    return any(other.text == piece.text and piece.start <= other.start and other.end <= piece.end for other in shown)


def _put(root: Any, way: Sequence[str | int], value: str) -> None:
    """Sets what stands at the end of the way."""
    for step in way[:-1]:
        root = root[step]
    root[way[-1]] = value


def _copy(value: Any) -> Any:
    """A copy in lists and dicts, which templates may change."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_copy(inner) for inner in cast("Sequence[Any]", value)]
    return value
