"""Rendered: a prompt that a template was already applied to."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from attribution.errors import InputError
from attribution.prompts.prompt import check_prompt
from attribution.prompts.source import Part, Source


@dataclass(frozen=True)
class Rendered:
    """A prompt that a template was already applied to, as the model shall read it; nothing is added, no BOS either.

    `spans` say which characters a person wrote, and in which role: `[(13, 40, "system"), (61, 90, "user")]`. All else
    is template. Raises `InputError` for spans that are empty, overlap, or lie outside of the text.
    """

    text: str
    spans: Sequence[tuple[int, int, str]]

    def __post_init__(self) -> None:
        check_prompt(self.text)
        if isinstance(self.spans, (str, bytes)) or not isinstance(self.spans, Sequence):
            raise InputError(
                f'Expected spans as a list of (start, end, role), such as [(13, 40, "user")], got {self.spans!r}.'
            )
        found: list[tuple[int, int, str]] = []
        for span in self.spans:
            try:
                start, end, role = span
                start, end = operator.index(start), operator.index(end)
            except (TypeError, ValueError):
                start = end = role = None
            if not isinstance(role, str) or not role or start is None or end is None:
                raise InputError(f'Expected spans as (start, end, role), such as (13, 40, "user"), got {span!r}.')
            if not (found[-1][1] if found else 0) <= start < end <= len(self.text):
                raise InputError(
                    f"Expected spans in order, without overlap, within the prompt's {len(self.text)} characters, got "
                    f"{span!r}."
                )
            found.append((start, end, role))
        if not found:
            raise InputError('Expected at least one span that a person wrote, got none. Type [(13, 40, "user")].')
        object.__setattr__(self, "spans", tuple(found))

    @property
    def source(self) -> Source:
        """The same as the source of a prompt."""
        parts = (
            Part(start, end, role, blocks=((start, start, end - start),), text=self.text)
            for start, end, role in self.spans
        )
        return Source(self.text, tuple(parts), tokenizer_adds=False)
