"""Source: what the model reads, and which stretches of it a person wrote."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]
"""A half-open range `(start, end)`, of characters or of tokens."""


@dataclass(frozen=True)
class Part:
    """A stretch of what the model reads that a person wrote, and where they wrote it.

    `start` and `end` are characters of what is read. `role` is the message's, or "prompt" for a text. `message` is the
    index of the message and `place` where in it the text stands ("content", "tool_calls[0].function.arguments"); None
    and "" for a text. `blocks` are the stretches whose characters stand for the person's, one for one: where in what is
    read, where in their text, and how long. It `is_exact` where that is all of it, as they wrote it. `text` is their
    text, all of it; empty where it is not known.
    """

    start: int
    end: int
    role: str
    message: int | None = None
    place: str = ""
    blocks: tuple[tuple[int, int, int], ...] = ()
    is_exact: bool = True
    text: str = ""

    @property
    def reads_alike(self) -> bool:
        """Whether what is read is the text itself: as exact as can be told."""
        return self.is_exact or not self.text or not self.blocks

    def own(self, start: int, end: int) -> Span | None:
        """The person's characters that stand in a stretch of what is read; None where there are none."""
        first = bisect_right(self.blocks, start, key=lambda block: block[0] + block[2])
        last = bisect_left(self.blocks, end, key=lambda block: block[0]) - 1
        if start >= end or first > last:
            return None
        (at, own, _), (last_at, last_own, length) = self.blocks[first], self.blocks[last]
        return own + max(start, at) - at, last_own + min(end, last_at + length) - last_at

    def read(self, start: int, end: int) -> Span | None:
        """Where a stretch of the person's text stands in what is read; None where it does not."""
        first = bisect_right(self.blocks, start, key=lambda block: block[1] + block[2])
        last = bisect_left(self.blocks, end, key=lambda block: block[1]) - 1
        if start >= end or first > last:
            return None
        (at, own, _), (last_at, last_own, length) = self.blocks[first], self.blocks[last]
        return at + max(start, own) - own, last_at + min(end, last_own + length) - last_own

    def read_all(self, start: int, end: int) -> Span | None:
        """Where a stretch of the person's text stands in what is read; None where any of its words does not."""
        found = self.read(start, end)
        own = None if found is None else self.own(*found)
        if own is None or self.text[start : own[0]].strip() or self.text[own[1] : end].strip():
            return None
        return found

    def read_edge(self, edge: int) -> int:
        """Where in what is read a place between two characters of the person's text is."""
        found = self.read(edge - 1, edge)
        if found is not None:
            return found[1]
        found = self.read(edge, len(self.text))
        return self.end if found is None else found[0]


@dataclass(frozen=True)
class Source:
    """What the model reads, and the parts of it that a person wrote, in order. All else is template.

    `tokenizer_adds` says whether the tokenizer adds its special tokens (BOS) to it. `left_out` are the stretches of
    messages that the template does not show: the message, the place in it, its first character and the one behind it.
    `messages` are those it was rendered from.
    """

    text: str
    parts: tuple[Part, ...]
    tokenizer_adds: bool = True
    left_out: tuple[tuple[int | None, str, int, int], ...] = ()
    messages: tuple[Mapping[str, Any], ...] = ()


def seen(text: str, parts: Sequence[Part]) -> str:
    """What is read, with spaces for all that stands for the person's white space: an escape, for instance."""
    changed = [part for part in parts if not part.reads_alike]
    if not changed:
        return text
    found = list(text)
    for part in changed:
        for at, own, length in part.blocks:
            for number in range(length):
                if part.text[own + number].isspace():
                    found[at + number] = " "
    return "".join(found)


def text_source(text: str) -> Source:
    """A text as it is: all of it is the person's."""
    return Source(text, (Part(0, len(text), "prompt", blocks=((0, 0, len(text)),), text=text),))
