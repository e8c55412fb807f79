"""What a method found out about its own scores, in sentences: the same in every view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attribution.views.evidence import evidence_remarks
from attribution.views.words import kind, number, numbered, visible


def remarks(payload: Mapping[str, Any], outputs: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """Sentences about a result, safe to be shown, each with True where it is a warning.

    `payload` is the dict of a result, `outputs` are the indices of the output tokens that are shown.
    """
    notes = payload["notes"]
    if notes.get("instead_of"):
        yield f"{visible(payload['method']['name'])} instead of {visible(str(notes['instead_of']))}", False
    yield from evidence_remarks(payload)
    if notes.get("completeness_error"):
        worst = max(notes["completeness_error"])
        yield f"scores add up to within {worst:.2g} {visible(payload['method']['unit'])} for each target", False
    if notes.get("converged") is False:
        yield "not converged: allow more steps, or take another baseline", True
    yield from _of_parts(payload, outputs)
    if notes.get("aligned"):
        yield "this tokenizer does not tell places: they were found by comparing texts", False
    if notes.get("half_characters"):
        yield f"half characters, read as replacement characters: {notes['half_characters']}", False
    for part in notes.get("swallowed", ()):
        where = visible(f"message {part['message']} ({part['place']})")
        yield f"{where} is no unit: its characters share a token with the template's", False
    for part in notes.get("recovered", ()):
        where = visible(f"message {part['message']} ({part['place']})")
        yield f"the chat template wrote {where} in other characters: found by comparing", False
    for part in notes.get("left_out", ()):
        where = visible(f"{part['end'] - part['start']} characters of message {part['message']} ({part['place']})")
        yield f"the chat template leaves out {where}", False
    if notes.get("partial"):
        again = "ask again: what is in the cache costs nothing" if notes.get("evidence") else "resume from this result"
        yield f"partial: the budget ended first. Allow more, and {again}", True


def _of_parts(payload: Mapping[str, Any], outputs: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """What only matters together, and what was not looked into."""
    notes, units = payload["notes"], payload["units"]
    rows = outputs if payload["per_output"] else [0]
    if notes.get("joint"):
        ordinary = [u for u, unit in enumerate(units) if not unit["special"]]
        strongest = max((abs(sum(payload["scores"][row][u] for row in rows)) for u in ordinary), default=0.0)
        names = numbered([visible(unit["name"] or unit["text"]) for unit in units])
        # Output tokens are units too.
        names += [visible(output["text"]) for output in payload["outputs"]]
        for part in notes["joint"]:
            first, last = part["units"][0], part["units"][1] - 1
            where = f"{names[first]} to {names[last]}" if last > first else names[first]
            drop = number(sum(part["drop"][row] for row in rows), strongest, signed=payload["method"]["signed"])
            yield f"{where} matter together ({drop}), though none of their parts does alone", False
    unseen = sum(part["units"][1] - part["units"][0] for part in notes.get("not_looked_into", ()))
    if unseen:
        yield f"not looked into one by one: {unseen} {kind(payload['granularity'], unseen)}", False
