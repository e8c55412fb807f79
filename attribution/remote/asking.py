"""Asking: what an endpoint's model says after prompts of which parts are absent, as a number for each target.

There are three roads, by what the endpoint tells: the output itself is scored, exactly; the model writes again and
tells the likeliest tokens, which bounds the output's; or it only writes again, and texts are compared.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64

from attribution.errors import BudgetError, ModelError
from attribution.models.api.request import Request
from attribution.models.dialects.completion import Piece
from attribution.models.dialects.dialect import Put
from attribution.models.dialects.probing import Road
from attribution.models.remote import RemoteModel
from attribution.target import Semantic, overlap, sameness

Numbers = Float64[np.ndarray, "prompt target"]

_ROUNDED = 1e-6
"""By which the probabilities that an endpoint tells may be off together."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What was heard of each target after each prompt: a number, NaN where a budget ended before, and its bounds.

    Where the number is known, both bounds are the number itself.
    """

    numbers: Numbers
    low: Numbers
    high: Numbers

    @classmethod
    def exactly(cls, numbers: Numbers) -> Heard:
        """Numbers that are known."""
        return cls(numbers, numbers, numbers)

    def exp(self) -> Heard:
        """Probabilities for log-probabilities."""
        return Heard(np.exp(self.numbers), np.exp(self.low), np.exp(self.high))


class Asking(ABC):
    """Asks an endpoint about ablated prompts."""

    road: ClassVar[Road]

    @abstractmethod
    def requests(self, prompts: Sequence[Put]) -> list[Request]:
        """What is to be asked of these prompts; nothing is asked."""

    @abstractmethod
    def hear(self, prompts: Sequence[Put]) -> Heard:
        """What the endpoint tells of every target after each prompt."""

    def evidence(self) -> dict[str, Any]:
        """What the numbers rest on, as JSON holds it."""
        return {"road": self.road}


@dataclass(frozen=True)
class Scored(Asking):
    """The log-probability of every token of the output, in nats; or that minus what other texts have in its place.

    The `others` begin where the tokens from `start` to `end` begin, which alone are counted then; what a longer one of
    them has left over goes to the last of these tokens.
    """

    road: ClassVar[Road] = "scored"
    model: RemoteModel
    output: tuple[Piece, ...]
    others: tuple[tuple[Piece, ...], ...] = ()
    start: int = 0
    end: int | None = None
    by: str = ""
    """How the endpoint is asked for it."""

    def requests(self, prompts: Sequence[Put]) -> list[Request]:
        found: list[Request] = []
        for prompt in prompts:
            scoring = self.model.scoring(prompt)
            if scoring is None:
                continue
            put = prompt
            with self.model.client.offline(), suppress(BudgetError):  # what a server made of it may be known
                (put,) = scoring.rendered([prompt], self.model.replies)
            found += [request for text in self._texts for request in scoring.requests(put, text)]
        return found

    def hear(self, prompts: Sequence[Put]) -> Heard:
        own, *others = (self.model.logprobs(prompts, text) for text in self._texts)
        if not others:
            return Heard.exactly(own)
        first, last = self.start, len(self.output) if self.end is None else self.end
        found = np.zeros_like(own)
        found[:, first:last] = own[:, first:last]
        for other in others:
            for place in range(first, other.shape[1]):
                found[:, min(place, last - 1)] -= other[:, place] / len(others)
        return Heard.exactly(found)

    def evidence(self) -> dict[str, Any]:
        return super().evidence() | {"by": self.by}

    @property
    def _texts(self) -> tuple[tuple[Piece, ...], ...]:
        return (self.output, *self.others)


@dataclass(frozen=True)
class Likeliest(Asking):
    """Log-probabilities of the output's tokens, as far as they are among the likeliest where the model writes again.

    Where the model writes another token than the output's, that one's probability is what is told, or at most that of
    the least likely token that is; of the output's later tokens nothing is known then, and they count as they were.
    """

    road: ClassVar[Road] = "likeliest"
    model: RemoteModel
    output: tuple[Piece, ...]

    def requests(self, prompts: Sequence[Put]) -> list[Request]:
        return self.model.writing(prompts, len(self.output))

    def hear(self, prompts: Sequence[Put]) -> Heard:
        written = self.model.write(prompts, len(self.output))
        found = np.full((3, len(prompts), len(self.output)), np.nan)
        for row, completions in enumerate(written):
            if completions:
                found[:, row] = bounded(self.output, completions[0].pieces)
        return Heard(*found)


def bounded(output: Sequence[Piece], written: Sequence[Piece]) -> Float64[np.ndarray, "3 output"]:
    """Log-probabilities of the output's tokens where something else may have been written, and their bounds, in nats.

    Rows are the numbers, the least and the most that they can be. Raises `ModelError` where the output's own are not
    all known.
    """
    if any(piece.logprob is None for piece in output):
        raise ModelError("Expected an output whose log-probabilities were told when it was written.")
    own = np.array([piece.logprob for piece in output], dtype=np.float64)
    found = np.stack([own, np.full(len(own), -np.inf), np.zeros(len(own))])
    for place, piece in enumerate(output):
        told = written[place] if place < len(written) else None
        known = {} if told is None else dict(told.likeliest)
        if told is not None and told.logprob is not None:
            known[told.name] = told.logprob
        if piece.name in known:
            found[:, place] = known[piece.name]
        elif known:
            most = most_left(list(known.values()))
            found[0, place], found[2, place] = min(most, own[place]), most
        if told is None or told.name != piece.name:
            break
    return found


def most_left(told: Sequence[float]) -> float:
    """The most nats that a token has which is not told: no more than any that is, nor than these leave."""
    left = 1.0 - math.fsum(map(math.exp, told))
    return min(min(told), math.log(max(left, 0.0) + _ROUNDED))


@dataclass(frozen=True)
class Rewritten(Asking):
    """How like the output it is what the model writes again, from 0 to 1: the mean of `repeats` texts (see `Semantic`).

    These are others than the text that the output may be, after the whole prompt too.
    """

    road: ClassVar[Road] = "texts"
    model: RemoteModel
    output: str
    semantic: Semantic
    max_new_tokens: int
    repeats: int = 1
    before: int = 0
    """How many texts were written after each prompt already: these are others."""

    def requests(self, prompts: Sequence[Put]) -> list[Request]:
        return self.model.writing(prompts, self.max_new_tokens, self._samples)

    def hear(self, prompts: Sequence[Put]) -> Heard:
        found = self.similarities(prompts)
        means = [float(np.mean(each)) if len(each) == self.repeats else math.nan for each in found]
        return Heard.exactly(np.array(means, dtype=np.float64).reshape(-1, 1))

    def similarities(self, prompts: Sequence[Put]) -> list[list[float]]:
        """How like the output each text is that the model writes after each prompt; fewer where a budget ended."""
        return [self.likenesses(texts) for texts in self.texts(prompts)]

    def likenesses(self, texts: Sequence[str]) -> list[float]:
        """How like the output each of these texts is."""
        likeness = overlap if self.semantic.by == "overlap" else sameness
        return [likeness(text, self.output) for text in texts]

    def texts(self, prompts: Sequence[Put]) -> list[list[str]]:
        """What the model writes after each prompt; fewer where a budget ended."""
        written = self.model.write(prompts, self.max_new_tokens, self._samples)
        return [[each.text for each in completions] for completions in written]

    def evidence(self) -> dict[str, Any]:
        return super().evidence() | {"repeats": self.repeats}

    @property
    def _samples(self) -> range:
        # The first of all may be the output itself.
        return range(self.before + 1, self.before + self.repeats + 1)
