"""A prompt, its units and an output as a page carries them: the characters once, everything else as places in them.

Places are counted in UTF-16 code units, as JavaScript does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attribution.errors import InputError
from attribution.views.provenance import provenance
from attribution.views.remarks import remarks
from attribution.views.web.packing import ROUNDED, matrix, pack, type_for

LEVELS = ("word", "sentence", "line", "paragraph", "message")
"""What units belong to, from fine to coarse."""


def panel(results: Sequence[Mapping[str, Any]], outputs: Sequence[int], title: str = "") -> dict[str, Any]:
    """The panel of results of one prompt and output, each of them a layer.

    `outputs` are the output tokens that remarks are about. Raises `InputError` for results that do not share prompt,
    units and output.
    """
    if not results:
        raise InputError("Expected at least one result to show, got none.")
    first = results[0]
    for other in results[1:]:
        if _shared(other) != _shared(first):
            raise InputError(
                "Expected results of one prompt in the same units, and of one output, got others. Type "
                "explain(..., output=first.output) with the same prompt and units for each method."
            )
    prompt: str = first["prompt"]
    units: Sequence[Mapping[str, Any]] = first["units"]
    places = utf16(prompt)
    roles = list(dict.fromkeys(unit["role"] for unit in units))
    number = {role: index for index, role in enumerate(roles)}
    # Of a model behind an API nobody knows the tokens: each unit counts as one.
    sizes = [unit["last_token"] - unit["first_token"] for unit in units]
    return {
        "title": title,
        "prompt": prompt,
        "starts": places[[unit["start"] for unit in units]].tolist() if units else [],
        "ends": places[[unit["end"] for unit in units]].tolist() if units else [],
        "roles": roles,
        "role": [number[unit["role"]] for unit in units],
        "special": [index for index, unit in enumerate(units) if unit["special"]],
        "names": {str(index): unit["name"] for index, unit in enumerate(units) if unit["name"]},
        "labels": {
            str(index): unit["text"]
            for index, unit in enumerate(units)
            if unit["text"].strip() != prompt[unit["start"] : unit["end"]].strip()
        },
        "tokens": sizes if any(sizes) else [1] * len(units),
        "blocks": _blocks(units, places),
        "granularity": first["granularity"],
        "levels": _unit_levels(units),
        "outputs": _outputs(first["outputs"]),
        "layers": [_layer(result, outputs) for result in results],
    }


def utf16(text: str) -> np.ndarray:
    """For every place between characters, also the last, its place in UTF-16 code units; int64 `[len(text) + 1]`."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return np.concatenate([[0], np.cumsum(1 + (codes > 0xFFFF))]).astype(np.int64)


def finite(number: float | None) -> float | None:
    """The number, None where JSON has none for it."""
    return number if number is not None and math.isfinite(number) else None


def _shared(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What results of one panel have in common."""
    units = [(unit["start"], unit["end"], unit["first_token"]) for unit in result["units"]]
    return result["prompt"], units, [(output["id"], output["text"]) for output in result["outputs"]]


def _layer(result: Mapping[str, Any], outputs: Sequence[int]) -> dict[str, Any]:
    method = result["method"]
    arrays = {name: result[name] for name in ("scores", "errors", "output_scores")}
    matrices = {name: None if rows is None else matrix(rows) for name, rows in arrays.items()}
    # One precision for all that is shown side by side; of errors nobody reads more than two digits.
    kept_as = type_for(sum(0 if numbers is None else numbers.size for numbers in matrices.values()))
    types = dict.fromkeys(matrices, kept_as) | {"errors": "int8" if kept_as in ROUNDED else kept_as}
    packed = {name: None if numbers is None else pack(numbers, types[name]) for name, numbers in matrices.items()}
    told = [[text.strip(), warns] for text, warns in remarks(result, outputs)]
    if kept_as in ROUNDED:
        told.append([ROUNDED[kept_as], False])
    return {
        "method": method["name"],
        "unit": method["unit"],
        "signed": method["signed"],
        "target": result["target"],
        "whole": not result["per_output"],
        **packed,
        "pairs": [[pair["first"], pair["second"], [*map(finite, pair["values"])]] for pair in result["interactions"]],
        "remarks": told,
        "provenance": provenance(result),
    }


def _outputs(outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers = [output["logprob"] for output in outputs]
    alternatives = [
        [[text, finite(logprob)] for text, logprob in output.get("alternatives") or ()] for output in outputs
    ]
    return {
        "texts": [output["text"] for output in outputs],
        "ids": [output["id"] for output in outputs],
        # None at all where an endpoint does not tell them.
        "logprobs": [finite(n) for n in numbers] if None not in numbers else [],
        "alternatives": alternatives if any(alternatives) else [],
        "levels": _levels([output.get("inside") or {} for output in outputs]),
    }


def _unit_levels(units: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Which message, and which thing of a given name, the units are of, beside what they are inside of."""
    names: dict[str, int] = {}
    owners: list[dict[str, int]] = []
    for unit in units:
        own = {**(unit.get("inside") or {}), "message": unit.get("message")}
        if unit["name"]:
            own["named"] = names.setdefault(unit["name"], len(names))
        owners.append({level: owner for level, owner in own.items() if owner is not None})
    return _levels(owners)


def _levels(owners: Sequence[Mapping[str, int]]) -> dict[str, list[int]]:
    """Every level on which some things are together, but not all, finest first: each thing's group, -1 for none."""
    found: dict[str, list[int]] = {}
    for level in (*LEVELS, "named"):
        groups = [own.get(level, -1) for own in owners]
        having = [group for group in groups if group >= 0]
        if len(set(having)) < len(having) and len(set(groups)) > 1:
            found[level] = groups
    return found


def _blocks(units: Sequence[Mapping[str, Any]], places: np.ndarray) -> list[dict[str, Any]]:
    """From where to where each message of a chat stands."""
    blocks: dict[int, dict[str, Any]] = {}
    for unit in units:
        if unit.get("message") is None:
            continue
        block = blocks.setdefault(unit["message"], {"role": unit["role"], "start": int(places[unit["start"]])})
        block["end"] = int(places[unit["end"]])
    return list(blocks.values())
