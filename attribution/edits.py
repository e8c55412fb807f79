"""Edits: how a prompt is changed to see what changes, in the person's own text, before any template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import regex

from attribution.errors import InputError
from attribution.prompts.chat import Chat, read_texts, write_texts
from attribution.prompts.prompt import Prompt
from attribution.prompts.rendered import Rendered
from attribution.question import Asked

Where = int | str | re.Pattern[str] | tuple[int, int] | tuple[int, int, int]
"""A part of the prompt: the index of a unit, a text that stands there once, a regular expression, characters
`(start, end)` of a text, or `(message, start, end)` of a message's content."""

Address = tuple[int, str] | None
"""A message's index and the place in it; None for a prompt that is a text."""

Stretch = tuple[Address, int, int]
"""Characters of one of the person's texts."""


@dataclass(frozen=True)
class Edit:
    """A change of a prompt: make one with `remove`, `replace`, `swap`, `move` or `rewrite`.

    Parts of the prompt are given as `Where` says; `remove` and `replace` take several at once where a regular
    expression matches several.
    """

    kind: Literal["remove", "replace", "swap", "move", "rewrite"]
    parts: tuple[Where, ...] = ()
    text: str = ""
    prompt: Asked | None = None

    @classmethod
    def remove(cls, part: Where) -> Edit:
        """The part is gone, and a space that it leaves over."""
        return cls("remove", (part,))

    @classmethod
    def replace(cls, part: Where, text: str) -> Edit:
        """Another text stands in the part's place, within the same white space."""
        if not isinstance(text, str) or not text:
            raise InputError(f"Expected a text to stand in the part's place, got {text!r}. To remove it: Edit.remove.")
        return cls("replace", (part,), text)

    @classmethod
    def swap(cls, one: Where, other: Where) -> Edit:
        """Two parts change places."""
        return cls("swap", (one, other))

    @classmethod
    def move(cls, part: Where, before: Where) -> Edit:
        """The part stands before another one."""
        return cls("move", (part, before))

    @classmethod
    def rewrite(cls, prompt: Asked) -> Edit:
        """Another prompt, written by hand."""
        return cls("rewrite", prompt=prompt)


@dataclass(frozen=True)
class Writing:
    """What a person wrote, text by text, and how a prompt is made of such texts."""

    texts: Mapping[Address, str]
    remake: Callable[[Mapping[Address, str]], Asked]

    def edited(self, changes: Mapping[Stretch, str]) -> Asked:
        """The prompt with other texts in the place of some stretches, none of which overlap."""
        texts = dict(self.texts)
        for (address, start, end), text in sorted(changes.items(), key=lambda change: change[0][1:], reverse=True):
            own = texts[address]
            texts[address] = own[:start] + text + own[end:]
        return self.remake(texts)


def read_writing(prompt: Asked) -> Writing:
    """The texts of a prompt, as a person wrote them."""
    if isinstance(prompt, str):
        return Writing({None: prompt}, lambda texts: texts[None])
    if isinstance(prompt, Rendered):
        own: dict[Address, str] = {
            (index, "span"): prompt.text[start:end] for index, (start, end, _) in enumerate(prompt.spans)
        }
        return Writing(own, lambda texts: _rendered(prompt, texts))
    chat = prompt if isinstance(prompt, Chat) else Chat(prompt)
    return Writing(
        cast("dict[Address, str]", read_texts(chat)),
        lambda texts: write_texts(chat, {address: text for address, text in texts.items() if address is not None}),
    )


def apply(edit: Edit, writing: Writing, prompt: Prompt) -> tuple[Asked, str]:
    """The changed prompt, and what was changed in words. `prompt` has the units that indices mean.

    Raises `InputError` where a part is not there, or not there once.
    """
    if edit.kind == "rewrite":
        return cast(Asked, edit.prompt), "another prompt"
    found = [find(part, writing, prompt) for part in edit.parts]
    shown = [_shown(stretches, writing) for stretches in found]
    if edit.kind in ("remove", "replace"):
        stretches = found[0]
        if edit.kind == "remove":
            stretches = [_tidied(stretch, writing) for stretch in _merged(stretches, writing)]
        changes = dict.fromkeys(stretches, edit.text)
        words = f"without {shown[0]}" if edit.kind == "remove" else f"{shown[0]} → {edit.text!r}"
        return writing.edited(changes), words
    if any(len(stretches) > 1 for stretches in found):
        raise InputError(
            f"Expected one place for each part to {edit.kind}, got {' and '.join(shown)}. Give characters."
        )
    (one,), (other,) = found
    if one[0] == other[0] and max(one[1], other[1]) < min(one[2], other[2]):
        raise InputError(f"Expected two parts that do not overlap, got {' and '.join(shown)}.")
    if edit.kind == "swap":
        return writing.edited({one: _text(other, writing), other: _text(one, writing)}), f"{shown[0]} ⇄ {shown[1]}"
    cut = _tidied(one, writing)
    ended = writing.texts[one[0]][one[2] : one[2] + 1]
    between = "\n" if ended and ended in "\r\n" else " "
    before = (other[0], other[1], other[1])
    return writing.edited({cut: "", before: _text(one, writing) + between}), f"{shown[0]} before {shown[1]}"


def find(part: Where, writing: Writing, prompt: Prompt) -> list[Stretch]:
    """Where a part stands in the person's texts, without the white space around it.

    Raises `InputError` where it does not, and where a text stands in several places.
    """
    if isinstance(part, bool):
        raise InputError(f"Expected the index of a unit, got {part!r}.")
    if isinstance(part, int):
        return [_unit(part, writing, prompt)]
    if isinstance(part, tuple):
        return [_characters(part, writing)]
    if isinstance(part, str):
        pattern = regex.compile(regex.escape(part)) if part else regex.compile("(?!)")
    elif isinstance(part, (re.Pattern, regex.Pattern)):
        pattern = cast(Any, part)
    else:
        raise InputError(
            "Expected a part of the prompt as a unit's index, its text, a regular expression or characters, got "
            f"{part!r}."
        )
    found: list[Stretch] = [
        (address, match.start(), match.end())
        for address, text in writing.texts.items()
        for match in pattern.finditer(text)
        if match.end() > match.start()
    ]
    if not found:
        raise InputError(f"Expected a part of the prompt, {part!r} does not stand in it.")
    if isinstance(part, str) and len(found) > 1:
        places = ", ".join(
            str(stretch[1:] if stretch[0] is None else (stretch[0][0], *stretch[1:])) for stretch in found
        )
        raise InputError(
            f"Expected a text that stands in the prompt once, {part!r} stands there {len(found)} times. Give one of "
            f"its places: {places}; or all of them: re.compile({re.escape(part)!r})."
        )
    return found


def _unit(index: int, writing: Writing, prompt: Prompt) -> Stretch:
    count = len(prompt.units)
    if not -count <= index < count:
        raise InputError(f"Expected the index of a unit from 0 to {count - 1}, got {index}.")
    unit = prompt.units[index]
    part = None if unit.part is None else prompt.parts[unit.part]
    own = None if part is None else part.own(*unit.characters)
    if part is None or own is None:
        raise InputError(f"Expected a unit that a person wrote, unit {index} is the {unit.role}'s. Give another.")
    address: Address = None if None in writing.texts else (part.message or 0, part.place)
    if address is not None and address not in writing.texts:  # a prompt that came rendered has spans for parts
        address, own = (unit.part or 0, "span"), (own[0] - part.start, own[1] - part.start)
    return _visible((address, *own), writing)


def _characters(part: tuple[int, ...], writing: Writing) -> Stretch:
    address: Address = None if len(part) == 2 else (part[0], "content")
    if address is not None and address not in writing.texts:
        address = (part[0], "span")
    start, end = part[-2:]
    size = len(writing.texts.get(address, ""))
    if len(part) not in (2, 3) or not 0 <= start < end <= size:
        raise InputError(
            f"Expected characters (start, end) of the prompt, or (message, start, end) of a chat, got {part!r}."
        )
    return _visible((address, start, end), writing)


def _visible(stretch: Stretch, writing: Writing) -> Stretch:
    """The stretch without the white space around it, where it has anything else."""
    address, start, end = stretch
    own = writing.texts[address][start:end]
    if not own.strip():
        return stretch
    return address, start + len(own) - len(own.lstrip()), end - (len(own) - len(own.rstrip()))


def _tidied(stretch: Stretch, writing: Writing) -> Stretch:
    """The stretch with a space beside it that would be left over: before it, or behind it where a line begins."""
    address, start, end = stretch
    text = writing.texts[address]
    after = text[end : end + 1]
    if text[start - 1 : start] == " " and (not after or after in " \n\r.,;:!?)"):
        return address, start - 1, end
    if (start == 0 or text[start - 1] in "\n\r") and after and after in " \n":
        return address, start, end + 1
    return stretch


def _merged(stretches: Sequence[Stretch], writing: Writing) -> list[Stretch]:
    """The stretches, those with nothing but spaces between them as one; each text's are in order."""
    found: list[Stretch] = []
    for address, start, end in stretches:
        last = found[-1] if found else None
        if last is not None and last[0] == address and not writing.texts[address][last[2] : start].strip(" "):
            found[-1] = (address, last[1], end)
        else:
            found.append((address, start, end))
    return found


def _text(stretch: Stretch, writing: Writing) -> str:
    address, start, end = stretch
    return writing.texts[address][start:end]


def _shown(stretches: Sequence[Stretch], writing: Writing) -> str:
    texts = dict.fromkeys(_text(stretch, writing) for stretch in stretches)
    return " and ".join(map(repr, texts)) + (f" ({len(stretches)} times)" if len(stretches) > len(texts) else "")


def _rendered(prompt: Rendered, texts: Mapping[Address, str]) -> Rendered:
    """The rendered prompt with other texts in its spans; the template between them stays."""
    text, reached, spans = "", 0, list[tuple[int, int, str]]()
    for index, (start, end, role) in enumerate(prompt.spans):
        text += prompt.text[reached:start]
        own = texts[index, "span"]
        if own:
            spans.append((len(text), len(text) + len(own), role))
        text, reached = text + own, end
    return replace(prompt, text=text + prompt.text[reached:], spans=spans)
