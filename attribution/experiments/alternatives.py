"""Alternatives: what may stand in the place of a unit, as a person gives it or as the model itself proposes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import torch

from attribution.errors import InputError, ModelError
from attribution.models.local import LocalModel
from attribution.prompts.writing import Stretch, Where, Writing, find
from attribution.question import Question

_CONSIDERED = 200  # of the tokens that a model finds likeliest somewhere
_AT_ONCE = 512  # places whose likeliest tokens one pass reads; more would fill the memory with logits


def given_alternatives(
    alternatives: Mapping[Where, Sequence[str]] | Sequence[str], writing: Writing, question: Question
) -> dict[int, list[str]]:
    """The alternatives of every unit that has some; `InputError` for what is none."""
    units = dict(written_units(question, writing))
    if not isinstance(alternatives, Mapping):
        return {unit: _texts(alternatives) for unit in units}
    found: dict[int, list[str]] = {}
    for part, texts in alternatives.items():
        for stretch in find(part, writing, question.prompt):
            unit = next((unit for unit, own in units.items() if own == stretch), None)
            if unit is None:
                raise InputError(
                    f"Expected alternatives for parts that are units, {part!r} is none. Give other units, for instance "
                    "units={'thing': (10, 16)}."
                )
            found.setdefault(unit, []).extend(_texts(texts))
    return found


def _texts(alternatives: object) -> list[str]:
    if isinstance(alternatives, (str, bytes)) or not isinstance(alternatives, Sequence):
        raise InputError(f"Expected a list of texts, got {alternatives!r}. Type for instance ['Ann', 'Bob'].")
    texts = cast("Sequence[Any]", alternatives)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(
            f"Expected a list of texts with something in them, got {alternatives!r}. To leave parts out type "
            "whatif(..., Edit.remove(part))."
        )
    return list(dict.fromkeys(texts))


def written_units(question: Question, writing: Writing) -> Iterator[tuple[int, Stretch]]:
    """Every unit that a person wrote, and where in their text it stands."""
    for index, unit in enumerate(question.prompt.units):
        if not unit.special and question.prompt.unit_text(unit).strip():
            yield index, find(index, writing, question.prompt)[0]


@torch.no_grad()
def proposed_alternatives(
    question: Question, units: Sequence[int], count: int, cost: dict[str, int]
) -> dict[int, list[str]]:
    """What of the same kind the model finds likeliest in the place of each unit, given what is before it.

    One pass over the prompt reads all places. What the prompt begins with is read after the id that stands for no text,
    and has no proposals where the tokenizer has none.
    """
    model, ids = question.model, question.prompt.encoding.ids
    firsts = {unit: question.prompt.units[unit].tokens[0] for unit in units}
    later = [unit for unit in units if firsts[unit] > 0]
    likeliest: dict[int, list[int]] = {}
    for start in range(0, len(later), _AT_ONCE):
        some = later[start : start + _AT_ONCE]
        places = [firsts[unit] - 1 for unit in some]
        likeliest |= zip(some, _likeliest(model, ids[: max(places) + 1], places, cost), strict=True)
    for unit in set(units).difference(later):
        with suppress(ModelError):
            likeliest[unit] = _likeliest(model, (model.codec.start_id,), [0], cost)[0]
    special: set[int] = set(getattr(model.tokenizer, "all_special_ids", ()))
    proposals: dict[int, list[str]] = {}
    for unit, tokens in likeliest.items():
        own = question.prompt.unit_text(question.prompt.units[unit]).strip()
        found: dict[str, None] = {}
        for token in tokens:
            text = model.codec.output_texts(ids[: firsts[unit]], [token])[0].strip()
            if token not in special and text.isprintable() and text != own and _kind(text) == _kind(own):
                found[text] = None
            if len(found) == count:
                break
        proposals[unit] = list(found)
    return proposals


def _likeliest(model: LocalModel, ids: Sequence[int], places: Sequence[int], cost: dict[str, int]) -> list[list[int]]:
    """The likeliest next tokens at these places of a text, the first of each the likeliest."""
    with model.borrowed():
        logits = model.logits(torch.tensor([ids], device=model.device), torch.tensor(places))[0]
    spend(cost, 1, len(ids))
    return logits.topk(min(_CONSIDERED, logits.shape[-1])).indices.tolist()


def _kind(text: str) -> str:
    """What kind of thing a text begins with; nothing at all, and half a character, are kinds of their own."""
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return "none"
    return "number" if text[0].isdigit() else "word" if text[0].isalpha() else "mark"


def spend(cost: dict[str, int], forwards: int, tokens: int) -> None:
    """Adds passes to a cost."""
    cost["forwards"] += forwards
    cost["tokens"] += tokens
