"""What is asked of the libraries, and what comes back: plain data, so that it can travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

FIRST_WORD = 4
"""Ids below are the special tokens of `shapes.word_tokenizer`; from here on, token i is the word "wi"."""

LAST_WORD = 30_000
"""Every shape's vocabulary is larger."""


FORWARD = "forward"
"""The name of the work that every library's process knows: one plain forward pass, whose time is F."""


@dataclass(frozen=True)
class Question:
    """A model of the named shape reads `n` random tokens and writes `t` more, the same ones in every process."""

    shape: str
    n: int
    t: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids that the model reads."""
        return _words("prompt", self.n)

    @property
    def output(self) -> tuple[int, ...]:
        """The ids whose causes are asked."""
        return _words("output", self.t)

    @property
    def prompt_text(self) -> str:
        """The prompt in the words of `shapes.word_tokenizer`."""
        return " ".join(f"w{i}" for i in self.prompt)

    @property
    def output_text(self) -> str:
        """The output in the words of `shapes.word_tokenizer`."""
        return " ".join(f"w{i}" for i in self.output)


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
    a process tells it, since a process keeps what it once had. `scores` is [output or 1, prompt token].
    """

    seconds: float
    memory: int
    scores: np.ndarray
