"""Absence: what an endpoint is asked where only some units of a prompt are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from attribution.absence import Replace
from attribution.layouts import Layouts
from attribution.models.codec import Codec
from attribution.models.dialects.dialect import Put
from attribution.prompts.prompt import Prompt
from attribution.prompts.writing import Stretch, Writing, Written, read_writing
from attribution.target import named_target, read_output

Absent = Callable[[Bool[np.ndarray, " unit"]], Sequence[Put]]
"""What is put to the endpoint where only some units are there: one prompt, or one for each neutral text."""


def absent_ids(codec: Codec, prompt: Prompt, ablation: str | Replace) -> Absent:
    """The ids of the prompt without those of the units that are absent, as on a model that runs here.

    Raises `InputError` where texts to replace units by do not fit.
    """
    owners = np.full(len(prompt.encoding.ids) + 1, -1)
    for index, unit in enumerate(prompt.units):
        owners[slice(*unit.tokens)] = index
    removable = torch.tensor([not unit.special for unit in prompt.units])
    # One token is read after the prompt, whichever: what stands before it is what is put.
    reading = read_output(prompt.encoding.ids[-1:], named_target("logprob"))
    layouts = Layouts(codec, prompt, reading, torch.from_numpy(owners), removable, ablation)

    def prompts(keep: Bool[np.ndarray, " unit"]) -> list[Put]:
        return [tuple(remainder.ids.tolist()) for remainder in layouts.remainders(keep)]

    return prompts


def absent_texts(prompt: Prompt, written: Written, ablation: str | Replace) -> Absent:
    """The person's texts without the units that are absent; a message of which nothing is left is left out.

    Raises `InputError` where texts to replace units by do not fit.
    """
    own = _Texts(read_writing(written), [_stretches(prompt, index) for index in range(len(prompt.units))])
    removable = [index for index, unit in enumerate(prompt.units) if not unit.special]
    fillers: list[dict[int, str]] = [{}]
    if isinstance(ablation, Replace):
        count = range(len(ablation.fillers))
        fillers = [dict(zip(removable, ablation.texts(each, len(removable)), strict=True)) for each in count]

    def prompts(keep: Bool[np.ndarray, " unit"]) -> list[Put]:
        return [own.without([unit for unit in removable if not keep[unit]], filler) for filler in fillers]

    return prompts


@dataclass(frozen=True)
class _Texts:
    """The person's texts, and where in them each unit stands."""

    writing: Writing
    stretches: Sequence[Sequence[Stretch]]

    def without(self, units: Sequence[int], fillers: dict[int, str]) -> Put:
        """The prompt with these units deleted, or others in their place."""
        changes: dict[Stretch, str] = {}
        for unit in units:
            for place, stretch in enumerate(self.stretches[unit]):
                address, start, end = stretch
                own = self.writing.texts[address][start:end]
                # White space before a word stays with what stands for it.
                filler = own[: len(own) - len(own.lstrip())] + fillers[unit] if unit in fillers else ""
                changes[stretch] = filler if place == 0 else ""
        if not any(changes.values()) and not self._is_left(changes):
            return "" if None in self.writing.texts else []
        return self.writing.edited(changes)

    def _is_left(self, changes: dict[Stretch, str]) -> bool:
        """Whether anything but white space remains."""
        texts = {address: list(text) for address, text in self.writing.texts.items()}
        for address, start, end in changes:
            texts[address][start:end] = " " * (end - start)
        return any("".join(text).strip() for text in texts.values())


def _stretches(prompt: Prompt, index: int) -> list[Stretch]:
    """Where in the person's texts a unit stands: a message has several. Nowhere, where it is a template's."""
    unit = prompt.units[index]
    found: list[Stretch] = []
    for part in prompt.parts:
        start, end = max(unit.characters[0], part.start), min(unit.characters[1], part.end)
        own = part.own(start, end) if start < end else None
        if own is not None:
            found.append((None if not part.place else (part.message, part.place), *own))
    return found
