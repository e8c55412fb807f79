"""Saved: what a file says of a result is looked at before anything relies on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def damaged(record: Mapping[str, Any]) -> list[str]:
    """The names of a result's fields that are not what they should be."""
    size, units, outputs, scores = len(record["prompt"]), record["units"], record["outputs"], record["scores"]
    method, model, cost = record["method"], record["model"], record["cost"]
    whole = {
        "prompt": isinstance(record["prompt"], str),
        "prompt_ids": all(type(i) is int for i in record["prompt_ids"]),
        "question": isinstance(record["question"], dict),
        "granularity": isinstance(record["granularity"], str),
        "target": isinstance(record["target"], str),
        "ablation": record["ablation"] is None or isinstance(record["ablation"], str),
        "per_output": isinstance(record["per_output"], bool),
        "notes": _are_notes(record["notes"], len(units) + len(outputs), len(scores)),
        "evaluations": _fit(record["evaluations"], len(units), len(outputs), len(scores)),
        "seed": type(record["seed"]) is int,
        "units": all(
            isinstance(u.text, str) and isinstance(u.role, str) and 0 <= u.start <= u.end <= size for u in units
        ),
        "outputs": all(output.is_whole for output in outputs),
        "method": all(isinstance(method[key], str) for key in ("name", "unit")) and isinstance(method["signed"], bool),
        "model": isinstance(model["name"], str),
        "interactions": all(_is_pair(pair, len(units), len(scores)) for pair in record["interactions"]),
        "cost": all(type(cost[key]) is int for key in ("forwards", "backwards", "tokens")),
    }
    return [name for name, fine in whole.items() if not fine]


def _fit(evaluations: Any, n_units: int, n_outputs: int, n_rows: int) -> bool:
    """Whether there are none, or they are of these units and rows."""
    return evaluations is None or (
        evaluations.keep.shape[1] in (n_units, n_units + n_outputs) and evaluations.values.shape[1] == n_rows
    )


def _is_pair(pair: Any, n_units: int, n_rows: int) -> bool:
    """Whether it is of two units that there are, with a number for every row."""
    return (
        type(pair.first) is type(pair.second) is int
        and 0 <= min(pair.first, pair.second) <= max(pair.first, pair.second) < n_units
        and len(pair.values) == n_rows
        and all(map(math.isfinite, pair.values))
    )


def _are_notes(notes: Any, n_places: int, n_rows: int) -> bool:
    """Whether what they say about parts of the prompt is of parts that there are."""
    if not isinstance(notes, dict):
        return False
    if not _are_told(notes):
        return False
    found: list[Any] = [notes.get(name, []) for name in ("joint", "not_looked_into")]
    parts = [part for each in found for part in (each if isinstance(each, list) else [each])]
    return all(_is_part(part, n_places, n_rows) for part in parts)


def _are_told(notes: Mapping[str, Any]) -> bool:
    """Whether what they say of an endpoint has the numbers that are shown of it."""
    told = {name: notes.get(name) or {} for name in ("evidence", "noise", "calls")}
    if not all(isinstance(each, dict) for each in told.values()) or not isinstance(notes.get("censored", []), list):
        return False
    evidence, noise, calls = (told[name] for name in ("evidence", "noise", "calls"))
    numbers = [evidence.get("values", 0)]
    numbers += [noise.get(name) for name in ("floor", "below", "different")] if noise else []
    numbers += [calls.get("cost", 0), *(calls.get(name) for name in ("sent", "retried", "cached"))] if calls else []
    are_similar = not noise or isinstance(noise.get("similarities"), list)
    return are_similar and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def _is_part(part: Any, n_places: int, n_rows: int) -> bool:
    """Whether it names units that there are, and where it has drops as many as there are rows."""
    units = part.get("units") if isinstance(part, dict) else None
    if not isinstance(units, list) or [type(unit) for unit in units] != [int, int]:
        return False
    return 0 <= units[0] < units[1] <= n_places and ("drop" not in part or len(part["drop"]) == n_rows)
