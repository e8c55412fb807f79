"""Assembly: a result, put together out of a question, its problem and the scores that a method found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

import attribution
from attribution.method import Method
from attribution.parts import Interaction, Output, Unit
from attribution.problem import ModelProblem
from attribution.prompts.prompt import Prompt, nesting
from attribution.result import Attribution


def assemble(
    problem: ModelProblem,
    method: Method,
    scores: Float[np.ndarray, "target unit"],
    units: tuple[Unit, ...],
    outputs: tuple[Output, ...],
    record: Mapping[str, Any],
    notes: Mapping[str, Any],
    seed: int,
) -> Attribution:
    """The result. `record` are the fields that say what was asked, `notes` what became of the prompt on its way."""
    errors = None if problem.errors is None else problem.errors.numpy().astype(np.float32)
    n_prompt = len(units)
    return Attribution(
        scores=scores[:, :n_prompt].astype(np.float32),
        output_scores=_earlier(scores[:, n_prompt:], record["per_output"]) if problem.n_units > n_prompt else None,
        units=units,
        outputs=outputs,
        method={
            "name": method.name,
            "options": method.options,
            "signed": method.signed,
            "unit": method.unit.format(target=problem.unit),
        },
        seed=seed,
        cost=asdict(problem.cost),
        notes=dict(notes) | problem.notes | ({"partial": True} if problem.is_partial else {}),
        errors=None if errors is None else errors[:, :n_prompt],
        interactions=_interactions(problem, n_prompt),
        evaluations=problem.evaluations if "value" in method.needs else None,
        versions=versions(),
        **record,
    )


def versions() -> dict[str, str]:
    """The versions of what computed a result."""
    return {
        "attribution": attribution.__version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def units_of(
    prompt: Prompt, granularity: str, decode: Callable[[Sequence[int]], str], *, has_ids: bool = True
) -> tuple[Unit, ...]:
    """The prompt's units as a result keeps them; `decode` says what ids read, no tokens where it `has_ids` of none."""
    levels = nesting(prompt)
    levels.pop("message")
    found: list[Unit] = []
    for index, unit in enumerate(prompt.units):
        first, last = unit.tokens
        text = prompt.unit_text(unit)
        if not text:
            text = decode(prompt.encoding.ids[first:last]) if unit.special else ""
        elif granularity != "token":
            text = text.strip() or text
        part = None if unit.part is None else prompt.parts[unit.part]
        start, end = (None, None) if part is None else part.own(*prompt.span_of(unit)) or (None, None)
        found.append(
            Unit(
                text=text,
                start=unit.characters[0],
                end=unit.characters[1],
                first_token=first if has_ids else 0,
                last_token=last if has_ids else 0,
                role=unit.role,
                special=unit.special,
                name=unit.name,
                message=None if part is None else part.message,
                place="" if part is None else part.place,
                own_start=start,
                own_end=end,
                inside={level: owner for level, owners in levels.items() if (owner := owners[index]) is not None},
            )
        )
    return tuple(found)


def _interactions(problem: ModelProblem, n_prompt: int) -> tuple[Interaction, ...]:
    """The pairs within the prompt, the strongest first."""
    found = [
        Interaction(first, second, tuple(values.tolist()))
        for (first, second), values in problem.interactions.items()
        if second < n_prompt
    ]
    return tuple(sorted(found, key=lambda pair: -max(map(abs, pair.values))))


def _earlier(scores: Float[np.ndarray, "target output"], per_output: bool) -> Float32[np.ndarray, "target output"]:
    """What each output token did for later ones: for itself and for earlier ones there is only rounding."""
    return (np.tril(scores, -1) if per_output else scores).astype(np.float32)
