"""Samples: the prompts that methods are measured on, checked, and the name under which a journal finds each again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import regex

from attribution.errors import InputError
from attribution.outputs import Outputs
from attribution.planted.prompt import Planted
from attribution.prompts.chat import Chat
from attribution.prompts.rendered import Rendered
from attribution.prompts.units import Units
from attribution.prompts.writing import Written
from attribution.question import asked_record


@dataclass(frozen=True)
class Sample:
    """A prompt to measure methods on, as `explain` takes it, and what is asked about it.

    - `output`: the text, or the ids, whose causes are asked; None for what the model writes.
    - `outputs`: the part of the output that is asked, as `Attribution.total` takes it; None for all of it.
    - `units`: what gets a score in this prompt; None for the `units` of `evaluate`.
    """

    prompt: Written
    output: str | Sequence[int] | None = None
    outputs: Outputs = None
    units: Units | None = None


@dataclass(frozen=True)
class Asked:
    """A sample, the planted prompt that it was made from, if any, and a digest: the same for the same question."""

    sample: Sample
    planted: Planted | None
    digest: str

    @property
    def family(self) -> str:
        """The family of a planted prompt; empty for another."""
        return "" if self.planted is None else self.planted.family


AnyPrompt = Written | Sample | Planted
"""What `evaluate` takes as one prompt."""


def check_prompts(prompts: object) -> tuple[Asked, ...]:
    """The prompts as samples; `InputError` for none, for a single one, and for what is no prompt, with its place."""
    if isinstance(prompts, (str, bytes, Mapping, Chat, Rendered, Sample, Planted)) or not isinstance(prompts, Sequence):
        raise InputError(f"Expected a list of prompts, got {type(prompts).__name__}. Type [prompt] for a single one.")
    items = cast("Sequence[object]", prompts)
    if not items:
        raise InputError("Expected at least one prompt, got none.")
    if all(isinstance(item, Mapping) for item in items):
        raise InputError("Expected a list of prompts, got the messages of one chat. Type [messages] for a single chat.")
    return tuple(_asked(item, place) for place, item in enumerate(items))


def _asked(item: object, place: int) -> Asked:
    planted = item if isinstance(item, Planted) else None
    if planted is not None:
        sample = Sample(planted.prompt, planted.output, planted.answer, planted.units)
    else:
        sample = item if isinstance(item, Sample) else Sample(cast(Any, item))
    prompt: object = sample.prompt
    if not isinstance(prompt, (str, Chat, Rendered)) and (
        isinstance(prompt, bytes) or not isinstance(prompt, Sequence)
    ):
        raise InputError(
            f"Expected prompt {place} as a text, the messages of a chat, a Sample or a Planted, got "
            f"{type(prompt).__name__}."
        )
    try:
        record = asked_record(sample.prompt)
    except InputError as error:
        raise InputError(f"Prompt {place}: {error}") from error
    own = [record, _recorded(sample.output), _recorded(sample.outputs), _recorded(sample.units), repr(planted)]
    return Asked(sample, planted, sha256(json.dumps(own, default=repr).encode()).hexdigest())


def units_record(units: Units) -> Any:
    """What gets a score, as JSON holds it: a name as it is, anything else told apart from it."""
    return json.loads(json.dumps(_recorded(units), default=repr))


def _recorded(value: Any) -> Any:
    """Outputs and units as JSON holds them, so that no two that differ are the same."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (re.Pattern, regex.Pattern)):
        pattern = cast(Any, value)
        return {"pattern": repr(pattern.pattern), "flags": int(pattern.flags)}
    if isinstance(value, Mapping):
        return {"places": [[name, _recorded(place)] for name, place in cast("Mapping[str, Any]", value).items()]}
    if isinstance(value, tuple):
        return {"span": [_recorded(each) for each in cast("tuple[Any, ...]", value)]}
    return [_recorded(each) for each in cast("Sequence[Any]", value)] if isinstance(value, Sequence) else value
