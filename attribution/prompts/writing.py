"""Writing: what a person wrote, text by text, before any template; and where in it a part stands."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import regex

from attribution.errors import InputError
from attribution.prompts.chat import Chat, Messages, read_texts, write_texts
from attribution.prompts.prompt import Prompt
from attribution.prompts.rendered import Rendered

Where = (
    int
    | str
    | re.Pattern[str]
    | tuple[int, int]
    | tuple[int, int, int]
    | tuple[int, str, int, int]
    | tuple[None, str, int, int]
)
"""A part of the prompt: the index of a unit, a text that stands there once, a regular expression, or characters.

Characters are `(start, end)` of a text; `(message, start, end)` of a message's content, or of a span where the prompt
came rendered; `(message, place, start, end)` of another text in a message, with a place such as "content[0].text" or
"tool_calls[0].function.arguments.city"; and `(None, place, start, end)` of a tool's description, with a place such as
"[0].function.description".
"""

Address = tuple[int | None, str] | None
"""A message's index, None for the tools, and the place in it; None alone for a prompt that is a text."""

Stretch = tuple[Address, int, int]
"""Characters of one of the person's texts."""

Written = str | Messages | Chat | Rendered
"""A prompt of whatever kind."""

_CHARACTERS = {(int, int), (int, int, int), (int, str, int, int), (type(None), str, int, int)}
_SPAN = "span"  # the place of a text in a prompt that came rendered
_LISTED = 6  # of the places that an error tells


@dataclass(frozen=True)
class Writing:
    """What a person wrote, text by text, and how a prompt is made of such texts."""

    texts: Mapping[Address, str]
    remake: Callable[[Mapping[Address, str]], Written]

    def edited(self, changes: Mapping[Stretch, str]) -> Written:
        """The prompt with other texts in the place of some stretches, none of which overlap."""
        texts = dict(self.texts)
        for (address, start, end), text in sorted(changes.items(), key=lambda change: change[0][1:], reverse=True):
            own = texts[address]
            texts[address] = own[:start] + text + own[end:]
        return self.remake(texts)


def read_writing(prompt: Written) -> Writing:
    """The texts of a prompt, as a person wrote them."""
    if isinstance(prompt, str):
        return Writing({None: prompt}, lambda texts: texts[None])
    if isinstance(prompt, Rendered):
        own: dict[Address, str] = {
            (index, _SPAN): prompt.text[start:end] for index, (start, end, _) in enumerate(prompt.spans)
        }
        return Writing(own, lambda texts: _rendered(prompt, texts))
    chat = prompt if isinstance(prompt, Chat) else Chat(prompt)
    return Writing(
        cast("dict[Address, str]", read_texts(chat)),
        lambda texts: write_texts(chat, {address: text for address, text in texts.items() if address is not None}),
    )


def text_of(stretch: Stretch, writing: Writing) -> str:
    """What stands in a stretch."""
    address, start, end = stretch
    return writing.texts[address][start:end]


def characters_of(stretch: Stretch) -> Where:
    """The stretch as a person gives it: as few of its address as `Where` needs."""
    address, start, end = stretch
    if address is None:
        return start, end
    message, place = address
    if message is None:
        return None, place, start, end
    return (message, start, end) if place in ("content", _SPAN) else (message, place, start, end)


def places(text: str, writing: Writing) -> list[Stretch]:
    """Everywhere that a text stands, also where these overlap."""
    pattern = regex.compile(regex.escape(text))
    return [
        (address, match.start(), match.end())
        for address, own in writing.texts.items()
        for match in pattern.finditer(own, overlapped=True)
    ]


def listed(stretches: Iterable[Stretch]) -> str:
    """Stretches as a person gives them, to choose from; the first of many."""
    given = [str(characters_of(stretch)) for stretch in stretches]
    return " or ".join(given[:_LISTED]) + ", ..." * (len(given) > _LISTED)


def check_part(part: object) -> Where:
    """`part` itself where it may be one, with integers of whatever type as Python's; `InputError` otherwise."""
    if isinstance(part, str) and part:
        return part
    if isinstance(part, (re.Pattern, regex.Pattern)) and isinstance(cast(Any, part).pattern, str):
        return cast("re.Pattern[str]", part)
    found = tuple(map(_plain, cast("tuple[Any, ...]", part))) if isinstance(part, tuple) else _plain(part)
    if type(found) is int or (isinstance(found, tuple) and tuple(map(type, found)) in _CHARACTERS):
        return cast(Where, found)
    raise InputError(
        f"Expected a part of the prompt, got {part!r}. Give a text that stands there once, a regular expression for "
        "texts, the index of a unit, or characters: (start, end), of a chat (message, start, end)."
    )


def find(part: Where, writing: Writing, prompt: Prompt) -> list[Stretch]:
    """Where a part stands in the person's texts, without the white space around it, in order.

    Raises `InputError` where it does not, and where a text stands in several places.
    """
    part = check_part(part)
    if isinstance(part, int):
        return [_unit(part, writing, prompt)]
    if isinstance(part, tuple):
        return [_characters(part, writing)]
    pattern = regex.compile(regex.escape(part)) if isinstance(part, str) else cast(Any, part)
    found = [
        _visible((address, match.start(), match.end()), writing)
        for address, text in writing.texts.items()
        for match in pattern.finditer(text)
        if match.end() > match.start()
    ]
    if not found:
        raise InputError(
            f"Expected a part of the prompt, {part!r} does not stand in it. Give what does, letter by letter."
        )
    if isinstance(part, str) and len(found) > 1:
        raise InputError(
            f"Expected a text that stands in the prompt once, {part!r} stands there {len(found)} times. Give its "
            f"characters: {listed(found)}; or, for all of them, a regular expression: re.compile({re.escape(part)!r})."
        )
    return found


def _plain(value: object) -> object:
    """An integer of whatever type as Python's own; anything else as it is."""
    try:
        return value if isinstance(value, bool) else operator.index(cast(Any, value))
    except TypeError:
        return value


def _unit(index: int, writing: Writing, prompt: Prompt) -> Stretch:
    count = len(prompt.units)
    if not -count <= index < count:
        raise InputError(f"Expected the index of a unit from 0 to {count - 1}, got {index}.")
    unit = prompt.units[index]
    part = None if unit.part is None else prompt.parts[unit.part]
    if part is not None and unit.characters[1] > part.end and prompt.parts[-1] is not part:
        following = prompt.parts[prompt.parts.index(part) + 1]
        if following.message == part.message is not None and following.start < unit.characters[1]:
            raise InputError(
                f"Expected a unit of one text, unit {index} is a message of several. Give characters of one of them, "
                f"such as ({part.message}, {part.place!r}, start, end), or write the prompt anew."
            )
    own = None if part is None else part.own(*prompt.span_of(unit))
    if part is None or own is None:
        raise InputError(f"Expected a unit that a person wrote, unit {index} is the {unit.role}'s. Give another.")
    if None in writing.texts:
        return _visible((None, *own), writing)
    if part.place:
        return _visible(((part.message, part.place), *own), writing)
    # A prompt that came rendered has spans for parts, and its characters are those of the whole.
    return _visible(((unit.part, _SPAN), own[0] - part.start, own[1] - part.start), writing)


def _characters(part: tuple[Any, ...], writing: Writing) -> Stretch:
    *address, start, end = part
    options: dict[int, list[Address]] = {
        0: [None],
        1: [(address[0], "content"), (address[0], _SPAN)] if address else [],
        2: [cast(Address, tuple(address))],
    }
    for option in options[len(address)]:
        if option in writing.texts and 0 <= start < end <= len(writing.texts[option]):
            return _visible((option, start, end), writing)
    whole = ((option, 0, len(text)) for option, text in writing.texts.items())
    raise InputError(f"Expected characters of the prompt, got {part!r}. Give some that lie within {listed(whole)}.")


def _visible(stretch: Stretch, writing: Writing) -> Stretch:
    """The stretch without the white space around it, where it has anything else."""
    address, start, end = stretch
    own = text_of(stretch, writing)
    if not own.strip():
        return stretch
    return address, start + len(own) - len(own.lstrip()), end - (len(own) - len(own.rstrip()))


def _rendered(prompt: Rendered, texts: Mapping[Address, str]) -> Rendered:
    """The rendered prompt with other texts in its spans; the template between them stays."""
    text, reached, spans = "", 0, list[tuple[int, int, str]]()
    for index, (start, end, role) in enumerate(prompt.spans):
        text += prompt.text[reached:start]
        own = texts[index, _SPAN]
        if own:
            spans.append((len(text), len(text) + len(own), role))
        text, reached = text + own, end
    return replace(prompt, text=text + prompt.text[reached:], spans=spans)
