"""Where numbers come from, in words: what stands at the foot of a page, so that it can be done again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PASSES = (("forwards", "forward pass"), ("backwards", "backward pass"), ("tokens", "token"))
_PACKAGES = {"attribution": "llm-attribution"}


def provenance(result: Mapping[str, Any]) -> list[list[str]]:
    """Labels and values of a result: method, options, target and so on, as far as the result has them."""
    method, question = result["method"], result.get("question", {})
    told = {"method": method["name"], "options": _options(method.get("options", {})), "target": result["target"]}
    if not result.get("per_output", True):
        told["over outputs"] = str(question.get("over_outputs", "sum"))
    told |= {
        "absent": result["ablation"] or "",
        "units": f"{result['granularity']} ({len(result['units']):,})",
        "seed": str(result["seed"]),
    }
    told |= model_provenance(result["model"])
    told |= {"cost": in_words(result["cost"]), "versions": versions_in_words(result["versions"])}
    return listed(told)


def model_provenance(model: Mapping[str, Any]) -> dict[str, str]:
    """Name, revision, architecture and number type of a model; of one behind an API the server, and where it is."""
    names = {"name": "model", "revision": "revision", "architecture": "architecture", "dtype": "dtype"}
    names |= {"endpoint": "endpoint"}
    return {label: str(model.get(key) or "") for key, label in names.items()}


def in_words(cost: Mapping[str, int]) -> str:
    """A cost: "4 forward passes, 20 tokens"."""
    return ", ".join(_counted(cost[key], name) for key, name in _PASSES if cost.get(key))


def versions_in_words(versions: Mapping[str, str]) -> str:
    """What was installed: "llm-attribution 0.1.0, torch 2.6.0"."""
    return ", ".join(f"{_PACKAGES.get(name, name)} {version}" for name, version in versions.items())


def listed(told: Mapping[str, str]) -> list[list[str]]:
    """Labels and values, those without a value left out."""
    return [[label, value] for label, value in told.items() if value]


def _counted(count: int, name: str) -> str:
    if count == 1:
        return f"1 {name}"
    return f"{count:,} {name}{'es' if name.endswith('s') else 's'}"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items())
