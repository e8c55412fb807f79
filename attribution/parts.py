"""Parts: what a result is made of. Units of the prompt, tokens of the output, pairs of units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unit:
    """A part of the prompt that has a score.

    `start` and `end` are characters of the prompt: the units tile it, with the white space before a word. `text` is
    what stands there, without white space around it unless units are tokens; what the tokenizer added (BOS) has no
    characters, and its name for a text. `first_token` and `last_token` are a half-open range of the prompt's ids.

    `role` says whose text it is: "prompt", or a message's role; "template" for what a chat template wrote, "rest" for
    what lies outside of the spans that were asked about, "special" for what the tokenizer added. These three are marked
    `special`, and stay when other units are absent. `name` is the span's, where it has one.

    `message` is the index of the message it stands in, `place` where in it ("content"), and `own_start` and `own_end`
    are characters of that text, or of the prompt where there are no messages; None where it has none of a person's. Of
    a whole message of several texts they are those of the first.
    `inside` tells which word, sentence, line and paragraph it belongs to, counted through the prompt.
    """

    text: str
    start: int
    end: int
    first_token: int
    last_token: int
    role: str
    special: bool
    name: str = ""
    message: int | None = None
    place: str = ""
    own_start: int | None = None
    own_end: int | None = None
    inside: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Output:
    """An output token: the text it adds, its id, and its log-probability in nats given all that comes before.

    Of a model behind an API the id is -1 where it is not told, and the log-probability None.

    `alternatives` are the likeliest tokens in its place, at most five, the likeliest first, itself among them where it
    is one: the text that each would add, and its log-probability in nats. `inside` tells which word, sentence, line and
    paragraph it belongs to, counted through the output. Both are empty in files of earlier versions.
    """

    text: str
    id: int
    logprob: float | None
    alternatives: tuple[tuple[str, float], ...] = ()
    inside: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Output:
        """The token that `to_dict` gave; `TypeError` where that is damaged beyond reading."""
        known: dict[str, Any] = dict(content)
        known["alternatives"] = tuple(map(tuple, known.get("alternatives", ())))
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as JSON holds it."""
        return {
            "text": self.text,
            "id": self.id,
            "logprob": self.logprob,
            "alternatives": [list(alternative) for alternative in self.alternatives],
            "inside": dict(self.inside),
        }

    @property
    def is_whole(self) -> bool:
        """Whether everything in it is what it should be, which is not sure of what a file says."""
        return (
            isinstance(self.text, str)
            and type(self.id) is int
            and (self.logprob is None or math.isfinite(self.logprob))
            and all(map(_is_alternative, self.alternatives))
            and isinstance(self.inside, dict)
            and all(
                isinstance(level, str) and type(group) is int and group >= 0 for level, group in self.inside.items()
            )
        )


def _is_alternative(given: tuple[Any, ...]) -> bool:
    return len(given) == 2 and isinstance(given[0], str) and type(given[1]) in (int, float) and math.isfinite(given[1])


@dataclass(frozen=True)
class Interaction:
    """What two units of the prompt, given by their indices, do together beyond what each does alone.

    Positive where they only work together, negative where one replaces the other; `values` has one number for every row
    of scores, in their unit.
    """

    first: int
    second: int
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """Summed over the output."""
        return sum(self.values)
