"""What `view.js` shows: the dict of a finding as one JSON-able payload, small enough to stand in a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from attribution.views.findings import compared, left_out
from attribution.views.provenance import in_words, listed, model_provenance, versions_in_words
from attribution.views.web.differences import differences
from attribution.views.web.panel import panel, utf16

VERSION = 1
"""Version of the payload's layout."""


def result_payload(results: Sequence[Mapping[str, Any]], outputs: Sequence[int]) -> dict[str, Any]:
    """The payload of results, by several methods for instance, of one prompt in the same units and one output.

    `outputs` are the output tokens that are shown at first. Raises `InputError` for results that do not share these.
    """
    return _payload("result", [panel(results, outputs)], [_selection(results[0], outputs)])


def comparison_payload(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of two results side by side."""
    sides = ("first", "second")
    outputs = comparison["outputs"]
    panels = [panel([comparison[side]], outputs[place], side) for place, side in enumerate(sides)]
    fields = ("first", "second", "kind", "score_first", "score_second", "difference")
    payload = _payload(
        "comparison", panels, [_selection(comparison[side], outputs[place]) for place, side in enumerate(sides)]
    )
    payload["comparison"] = {
        **{name: comparison[name] for name in ("unit", "share", "scale", "agreement")},
        "pairs": [[pair[field] for field in fields] for pair in comparison["pairs"]],
    }
    return payload


def verification_payload(verification: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of an explanation and what became of the target when it was acted on."""
    result, outputs = verification["result"], verification["outputs"]
    payload = _payload("verification", [panel([result], outputs)], [_selection(result, outputs)])
    numbers = {
        "whole prompt": verification["full"],
        "without these": verification["removed"]["value"],
        "these alone": verification["alone"]["value"],
        "nothing": verification["nothing"],
    }
    halves = (("lost when removed", "removed"), ("won when kept alone", "alone"))
    payload["verification"] = {
        "verdict": verification["verdict"],
        "strongest": list(verification["strongest"]),
        "caption": f"In {verification['unit']}; what was removed, and kept alone, has a frame in the prompt",
        "heads": ["test", "strongest", "random", "95% of random", "p", ""],
        "rows": [_trial(title, verification[half]) for title, half in halves],
        "remarks": [
            " · ".join(f"{title} {_told(number)}" for title, number in numbers.items()),
            compared(verification),
        ],
    }
    return payload


def what_if_payload(found: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a prompt, and of what becomes of its answer when it is edited."""
    text, blocks = _written(found["prompt"])
    payload = _payload("whatif", [_bare_panel(text, blocks, found["answer"])], [[]])
    before = _flat(found["prompt"])
    payload["experiment"] = {
        "heads": _heads(found["asked"], found["unit"]),
        "answer": found["answer"],
        "value": f"{_told(found['value'])} as it was",
        "variants": [_variant(each, before, each["changed"]) for each in found["variants"]],
        "remarks": [],
        "provenance": listed(
            {"target": found["target"]}
            | model_provenance(found["model"])
            | {"versions": versions_in_words(found["versions"])}
        ),
    }
    return payload


def counterfactuals_payload(found: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a prompt, and of the changes that lead to another answer."""
    payload = _payload("counterfactuals", [panel([found["attribution"]], _all(found["attribution"]))], [[]])
    before = _flat(found["prompt"])
    tried = found["tried"]
    told = [f"{tried:,} prompt{'s' * (tried != 1)} tried", *left_out(found)]
    if not found["found"]:
        told.insert(0, "No change that was tried leads to another answer.")
    payload["experiment"] = {
        "heads": _heads(found["output"], "nats"),
        "answer": found["output"],
        "value": "",
        "variants": [_variant(each, before, True) for each in found["found"]],
        "remarks": told,
        "provenance": listed({"cost": in_words(found["cost"])}),
    }
    return payload


def _payload(kind: str, panels: list[dict[str, Any]], selection: list[list[int]]) -> dict[str, Any]:
    return {
        "format": "attribution-view",
        "version": VERSION,
        "kind": kind,
        "panels": panels,
        "selection": selection,
    }


def _all(result: Mapping[str, Any]) -> list[int]:
    return list(range(len(result["outputs"])))


def _selection(result: Mapping[str, Any], outputs: Sequence[int]) -> list[int]:
    """The outputs that were asked for; none where that is all of them."""
    chosen = sorted(set(outputs))
    return [] if chosen == _all(result) else chosen


def _trial(title: str, trial: Mapping[str, Any]) -> list[str]:
    """A row about one half of a verification."""
    between = "–" if trial["interval"] is None else " to ".join(map(_told, trial["interval"]))
    verdicts = {True: "✓ holds", False: "✗ does not hold", None: "cannot be told"}
    numbers = [_told(trial["effect"]), _told(trial["mean"]), between, f"{trial['p']:.3f}"]
    return [title, *numbers, verdicts[trial["holds"]]]


def _heads(asked: str, unit: str) -> list[str]:
    """The heads of the table of edits: the last is what is told of the output that is asked about."""
    return ["edit", "answer", f"{unit} more for ‘{asked.strip()}’"]


def _told(number: float | None) -> str:
    """A number in words, with a sign."""
    return "–" if number is None or not isfinite(number) else f"{number:+.3f}".replace("-", "−")


def _variant(variant: Mapping[str, Any], before: str, changed: bool) -> dict[str, Any]:
    return {
        "edit": variant["edit"],
        "output": variant["output"],
        "change": _told(variant["change"]),
        "changed": changed,
        "diff": differences(before, _flat(variant["prompt"])),
    }


def _messages(prompt: Any) -> list[tuple[str, str]]:
    """Roles and texts of a prompt as a person wrote it; of a text its role is none."""
    if isinstance(prompt, dict):
        prompt = prompt.get("text", prompt.get("messages"))
    if isinstance(prompt, str):
        return [("", prompt)]
    found: list[tuple[str, str]] = []
    for message in prompt:
        content = message.get("content") or message.get("tool_calls") or ""
        found.append((str(message["role"]), content if isinstance(content, str) else str(content)))
    return found


def _flat(prompt: Any) -> str:
    """A prompt as one text, roles before messages."""
    return "\n".join(f"{role}: {text}" if role else text for role, text in _messages(prompt))


def _written(prompt: Any) -> tuple[str, list[dict[str, Any]]]:
    """A prompt as one text without roles, and from where to where each message stands in it."""
    messages = _messages(prompt)
    text = _BETWEEN.join(content for _, content in messages)
    places, reached = utf16(text), 0
    blocks: list[dict[str, Any]] = []
    for role, content in messages:
        end = reached + len(content)
        if role:
            blocks.append({"role": role, "start": int(places[reached]), "end": int(places[end])})
        reached = end + len(_BETWEEN)
    return text, blocks


_BETWEEN = "\n\n"


def _bare_panel(prompt: str, blocks: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    """A panel of a prompt without units, whose output is one text."""
    empty = ("starts", "ends", "roles", "role", "special", "tokens", "layers")
    outputs = {"texts": [answer], "ids": [], "logprobs": [], "alternatives": [], "levels": {}}
    own = {"title": "", "prompt": prompt, "blocks": blocks, "granularity": "", "outputs": outputs}
    return own | {name: [] for name in empty} | {name: {} for name in ("names", "labels", "levels")}
