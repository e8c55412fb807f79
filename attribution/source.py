"""Source: what the model reads, and which stretches of it a person wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]
"""A half-open range `(start, end)`, of characters or of tokens."""


@dataclass(frozen=True)
class Part:
    """A stretch of what the model reads that a person wrote, and where they wrote it.

    `start` and `end` are characters of what is read. `role` is the message's, or "prompt" for a text. `message` is the
    index of the message and `place` where in it the text stands ("content", "tool_calls[0].function.arguments"); None
    and "" for a text. `blocks` are the stretches that are the person's character for character: where in what is read,
    where in their text, and how long.
    """

    start: int
    end: int
    role: str
    message: int | None = None
    place: str = ""
    blocks: tuple[tuple[int, int, int], ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether every character of it is the person's."""
        return sum(length for *_, length in self.blocks) == self.end - self.start

    def own(self, start: int, end: int) -> Span | None:
        """The person's characters that stand in a stretch of what is read; None where there are none."""
        found = [
            (own + max(start, at) - at, own + min(end, at + length) - at)
            for at, own, length in self.blocks
            if max(start, at) < min(end, at + length)
        ]
        return (found[0][0], found[-1][1]) if found else None

    def read(self, start: int, end: int) -> Span | None:
        """Where a stretch of the person's text stands in what is read; None where it does not."""
        found = [
            (at + max(start, own) - own, at + min(end, own + length) - own)
            for at, own, length in self.blocks
            if max(start, own) < min(end, own + length)
        ]
        return (found[0][0], found[-1][1]) if found else None


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


def text_source(text: str) -> Source:
    """A text as it is: all of it is the person's."""
    return Source(text, (Part(0, len(text), "prompt", blocks=((0, 0, len(text)),)),))
