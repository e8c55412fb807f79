"""What is asked of the libraries, and what comes back: plain data, so that it can travel between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

FIRST_WORD = 4
"""Ids below are the special tokens of `shapes.word_tokenizer`; from here on, token i is the word "wi"."""

LAST_WORD = 30_000
"""Every shape's vocabulary is larger."""


FORWARD = "forward"
"""The name of the work that every library's process knows: one plain forward pass, whose time is F."""


MARKERS = tuple(range(FIRST_WORD, FIRST_WORD + 5))
"""The words that a model of the shape "planted" hears loudest."""


@dataclass(frozen=True)
class Question:
    """A model of the named shape reads `n` random tokens and writes `t` more, the same ones in every process.

    `unit` tokens at a time are what gets a score, the last ones maybe fewer; the last `query` tokens get none, and are
    always there. With `plants_causes` five of the units begin with one of the `MARKERS`, which are nowhere else.
    """

    shape: str
    n: int
    t: int
    unit: int = 1
    query: int = 0
    plants_causes: bool = False

    @property
    def tiny(self) -> Question:
        """The same question with 5 units and 2 output tokens."""
        return replace(self, n=5 * self.unit + self.query, t=2)

    @property
    def units(self) -> tuple[tuple[int, int], ...]:
        """Where the units begin and end among the tokens."""
        end = self.n - self.query
        return tuple((start, min(start + self.unit, end)) for start in range(0, end, self.unit))

    @property
    def causes(self) -> tuple[int, ...]:
        """The units that the causes are planted in."""
        count = len(self.units)
        return tuple(sorted(Random("causes").sample(range(count), len(MARKERS)))) if self.plants_causes else ()

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids that the model reads."""
        words = _words("prompt", self.n)
        if not self.plants_causes:
            return words
        others = [word + len(MARKERS) if word in MARKERS else word for word in words]
        for cause, marker in zip(self.causes, MARKERS, strict=True):
            others[self.units[cause][0]] = marker
        return tuple(others)

    @property
    def output(self) -> tuple[int, ...]:
        """The ids whose causes are asked."""
        return _words("output", self.t)

    @property
    def prompt_text(self) -> str:
        """The prompt in the words of `shapes.word_tokenizer`."""
        return text_of(self.prompt)

    @property
    def output_text(self) -> str:
        """The output in the words of `shapes.word_tokenizer`."""
        return text_of(self.output)


def text_of(ids: Sequence[int]) -> str:
    """The ids in the words of `shapes.word_tokenizer`."""
    return " ".join(f"w{i}" for i in ids)


def _words(seed: str, count: int) -> tuple[int, ...]:
    random = Random(seed)
    return tuple(random.randrange(FIRST_WORD, LAST_WORD) for _ in range(count))


@dataclass(frozen=True)
class Task:
    """A piece of work, by the name that the libraries know it by, for one question."""

    work: str
    question: Question


@dataclass(frozen=True)
class Answer:
    """What a piece of work gave: how long it took, how much memory it needed at its peak, and the scores.

    `memory` counts bytes above what was in use before. In the processor's memory only the first large piece of work of
    a process tells it, since a process keeps what it once had. `scores` is [output or 1, unit of the prompt]; `tokens`
    are those that the model was asked for, None where they are not counted.
    """

    seconds: float
    memory: int
    scores: np.ndarray
    tokens: int | None = None
