"""What the numbers of a model behind an API rest on, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attribution.views.words import kind, visible

_ROADS = {
    "scored": "rests on log-probabilities of the output itself, as the endpoint tells them",
    "likeliest": "rests on the likeliest tokens that the endpoint tells",
    "texts": "rests on texts alone, and on how alike they are",
}


def evidence_remarks(payload: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Sentences, safe to be shown, each with True where it is a warning; none about a model that runs here."""
    notes = payload["notes"]
    evidence: Mapping[str, Any] = notes.get("evidence") or {}
    if not evidence:
        return
    yield _ROADS.get(evidence.get("road", ""), visible(str(evidence.get("road")))), False
    if evidence.get("as_message"):
        yield "the text was sent as a user's message: the endpoint takes messages only", False
    censored = len(notes.get("censored", ()))
    if censored:
        total = f" of {evidence['values']:,}" if "values" in evidence else ""
        yield f"{censored:,}{total} values were not told: bounds of them are in notes['censored']", True
    yield from _of_noise(payload)
    if notes.get("calls"):
        yield _calls(notes["calls"]), False


def _of_noise(payload: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """How much of a score may be chance."""
    noise = payload["notes"].get("noise")
    if not noise:
        return
    count = len(noise["similarities"])
    if not noise["floor"] and noise["different"] > 1:
        told = f"{count} answers to the prompt were {noise['different']} different texts, all as unlike the output"
        yield f"{told}: nothing can be told from them", True
        return
    if not noise["floor"]:
        yield f"{count} answers to the prompt were all alike: no noise was measured", False
        return
    below = noise["below"]
    are_alike = len(set(noise["similarities"])) == 1
    differed = "to the prompt were alike, those to others differed" if are_alike else "to the prompt differed"
    yield f"{count} answers {differed}: scores up to {noise['floor']:.2g} may be chance", False
    if below:
        yield f"below that, and set to 0: {below} {kind(payload['granularity'], below)}", False


def _calls(calls: Mapping[str, Any]) -> str:
    """What was sent: "21 calls, 2 of them again, 105 answers from the cache"."""
    parts = [f"{calls['sent']:,} call{'s' * (calls['sent'] != 1)}"]
    parts += [f"{calls['retried']:,} of them again"] * bool(calls["retried"])
    parts += [f"{calls['cached']:,} answers from the cache"] * bool(calls["cached"])
    parts += [f"cost {calls['cost']:.4g}"] if "cost" in calls else []
    return ", ".join(parts)
