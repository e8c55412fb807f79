"""Chat: messages as a person writes them, and every text within them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, cast

from attribution.errors import InputError

Message = Mapping[str, Any]
Messages = Sequence[Message]

_RESERVED = {
    "tools": "Pass them as Chat(messages, tools)",
    "messages": "Pass them as Chat(messages)",
    "conversation": "Pass it as Chat(messages)",
    "tokenize": "Leave it out: a template is read as text",
}
"""Options that are no template's, and what to do instead."""

_TEXTS = ("reasoning_content", "reasoning", "thinking", "content", "name")


@dataclass(frozen=True)
class Chat:
    """Messages, and what else their template is given.

    - `messages`: dicts with `role` and `content`; `tool_calls` and the like where the template has them. Where the last
      one is the assistant's, the model goes on writing it.
    - `tools`: what the model may call, as JSON schemas.
    - `options`: what else the template knows, for instance `{"enable_thinking": False}`.

    Raises `InputError` for messages that no template could take, and for options that are none of a template's.
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
        if not isinstance(self.options, Mapping):
            raise InputError(f'Expected options as a dict such as {{"enable_thinking": False}}, got {self.options!r}.')
        for name in self.options:
            if name in _RESERVED:
                raise InputError(f"Expected options that a template knows, got {name!r}. {_RESERVED[name]}.")
        if isinstance(self.tools, (str, bytes)) or not isinstance(self.tools, (Sequence, NoneType)):
            raise InputError(f"Expected tools as a list of JSON schemas or functions, got {self.tools!r}.")
        try:  # a copy, in what JSON has: a result is saved with it
            own = json.loads(json.dumps([dict(message) for message in self.messages]))
        except (TypeError, ValueError) as error:
            raise InputError(f"Expected messages that JSON can hold: {error}.") from error
        object.__setattr__(self, "messages", tuple(own))

    @property
    def continues(self) -> bool:
        """Whether the model goes on with the last message instead of answering it, or writing what it thought out."""
        last = self.messages[-1]
        said = any(_leaves(last.get("content"), ("content",)))
        return last["role"] == "assistant" and said and not last.get("tool_calls")


@dataclass(frozen=True)
class Text:
    """A text within messages or tools: whose it is, and the way to it."""

    message: int | None
    role: str
    way: tuple[str | int, ...]
    text: str

    @property
    def place(self) -> str:
        """The way to it as a person would type it."""
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.way).removeprefix(".")


def all_texts(chat: Chat) -> Iterator[Text]:
    """Every text of the messages that a template may show, and what the tools' descriptions say."""
    for index, message in enumerate(chat.messages):
        for key in _TEXTS:
            yield from (Text(index, message["role"], *found) for found in _leaves(message.get(key), (key,)))
        calls: list[Any] = message.get("tool_calls") or []
        for number, call in enumerate(calls):
            for key in ("function", "name", "arguments"):
                way = ("tool_calls", number, key)
                inner = call.get(key) if isinstance(call, Mapping) else None
                yield from (Text(index, message["role"], *found) for found in _leaves(inner, way))
    for number, tool in enumerate(chat.tools or ()):
        if isinstance(tool, Mapping):
            for way, text in _leaves(tool, (number,)):
                if way[-1] == "description":
                    yield Text(None, "tools", way, text)


def read_texts(chat: Chat) -> dict[tuple[int | None, str], str]:
    """Every text of the messages, by the index of its message and its place in it ("content").

    What the tools' descriptions say is of no message: `(None, "[0].function.description")`.
    """
    return {(text.message, text.place): text.text for text in all_texts(chat)}


def write_texts(chat: Chat, texts: Mapping[tuple[int | None, str], str]) -> Chat:
    """The chat with other texts in the places that `read_texts` names; messages left without content are left out."""
    messages, tools = copied(chat.messages), copied(chat.tools)
    for text in all_texts(chat):
        if (text.message, text.place) in texts:
            root = tools if text.message is None else messages[text.message]
            put(root, text.way, texts[text.message, text.place])
    return replace(chat, messages=[message for message in messages if _says_something(message)], tools=tools)


def put(root: Any, way: Sequence[str | int], value: str) -> None:
    """Sets what stands at the end of a text's way through nested lists and dicts."""
    for step in way[:-1]:
        root = root[step]
    root[way[-1]] = value


def copied(value: Any) -> Any:
    """A copy in lists and dicts, which templates may change."""
    if isinstance(value, Mapping):
        return {key: copied(inner) for key, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [copied(inner) for inner in cast("Sequence[Any]", value)]
    return value


def _check_message(index: int, message: object) -> None:
    if not isinstance(message, Mapping):
        raise InputError(f"Expected message {index} as a dict with role and content, got {type(message).__name__}.")
    own = cast("Mapping[str, Any]", message)
    role, content = own.get("role"), own.get("content")
    if not isinstance(role, str) or not role:
        raise InputError(f"Expected message {index} to have a role such as 'user', got {role!r}.")
    for part in _parts(content):
        given = cast("Mapping[str, Any]", part).get("text") if isinstance(part, Mapping) else part
        if isinstance(part, Mapping) and given is None and "type" in part:
            raise InputError(f"Expected the content of message {index} as text, got {part['type']!r}.")
        if isinstance(part, Mapping) and given is None:
            raise InputError(
                f"Expected the content of message {index} as text, got {type(part).__name__}. Type json.dumps(...)."
            )
        if not isinstance(given, str):
            raise InputError(f"Expected the content of message {index} as text, got {type(given).__name__}.")
    if not _says_something(own):
        raise InputError(f"Expected message {index} (role {role!r}) to have content, it is empty. Leave it out.")


def _parts(content: Any) -> list[Any]:
    """What a content consists of: one text, or several parts."""
    if content is None:
        return []
    return content if isinstance(content, list) else [content]


def _says_something(message: Mapping[str, Any]) -> bool:
    """Whether there is text in it; what a tool gave may be nothing, and who calls one need not say a word."""
    if message.get("tool_calls") or message["role"] in ("tool", "function"):
        return True
    return any(any(_leaves(message.get(key), (key,))) for key in _TEXTS if key != "name")


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
