"""Scores: how well a result found the causes that were planted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from attribution.errors import InputError
from attribution.planted.prompt import Kind, Planted
from attribution.result import Attribution

MOVED = 0.1
"""Nats: an effect that is smaller has no sign."""

_RANK: tuple[Kind, ...] = ("cause", "open", "irrelevant", "template")
"""Where a unit touches several parts, it counts as the first of these."""


@dataclass(frozen=True)
class Item:
    """A part of the prompt, or a unit of the template, with its score: the sum of those of its units."""

    kind: Kind
    part: int | None
    score: float


def score(result: Attribution, planted: Planted, effects: Sequence[float | None] | None = None) -> dict[str, float]:
    """How well the scores for the answer find its causes; NaN for what the prompt or the method does not allow.

    Rated are the parts of the prompt, each by the sum of its units' scores, and every other unit by its own, special
    ones left out. Parts of which nobody can tell whether they are causes are left out too, except from shares. Of a
    result whose units are tokens, what the model wrote before the answer is rated as well. Ties are in expectation.

    - `auroc`: how often a cause scores higher than what is none; 0 to 1, by chance 0.5.
    - `average_precision`: the mean share of causes down to each cause in the list; 0 to 1.
    - `recovery`: the share of causes among as many strongest items as there are causes; 0 to 1.
    - `effect_correlation`: the rank correlation of the scores with the parts' counterfactual effects, those of
      `confirm`; -1 to 1.
    - `sign_accuracy`: the share of parts with an effect of at least 0.1 nats whose score has its sign; 0 to 1, not for
      methods without signs.
    - `template_share` and `irrelevant_share`: the shares of all absolute scores that lie on the words of the pattern,
      and on parts that say something else; 0 to 1.

    `effects` are those of `Confirmation`; without them the two that need them are NaN. Raises `InputError` where the
    result is of another prompt.
    """
    if result.prompt != planted.prompt:
        raise InputError(f"Expected a result of the planted prompt {planted.prompt!r}, got one of {result.prompt!r}.")
    items = rated(result, planted)
    decided = [item for item in items if item.kind != "open"]
    is_cause = np.array([item.kind == "cause" for item in decided], bool)
    scores = np.array([item.score for item in decided])
    known = [
        (item.score, effect)
        for item in items
        if effects is not None and item.part is not None and (effect := effects[item.part]) is not None
    ]
    signs = [(own, effect) for own, effect in known if abs(effect) >= MOVED] if result.method["signed"] else []
    weights = {kind: float(sum(abs(item.score) for item in items if item.kind == kind)) for kind in _RANK}
    whole = sum(weights.values())
    return {
        "auroc": auroc(scores, is_cause),
        "average_precision": average_precision(scores, is_cause),
        "recovery": recovery(scores, is_cause, int(is_cause.sum())),
        "effect_correlation": _spearman(*np.array(known).T) if len(known) > 2 else math.nan,
        "sign_accuracy": float(np.mean([own * effect > 0 for own, effect in signs])) if signs else math.nan,
        "template_share": weights["template"] / whole if whole else math.nan,
        "irrelevant_share": weights["irrelevant"] / whole if whole else math.nan,
    }


def rated(result: Attribution, planted: Planted) -> list[Item]:
    """Everything that is rated: the parts in their order, then the units of the template in theirs."""
    totals = result.total(planted.answer if result.per_output else None).astype(np.float64)
    units = [
        (totals[index], unit.start, unit.end, False) for index, unit in enumerate(result.units) if not unit.special
    ]
    if result.output_scores is not None:
        rows = result.output_indices(planted.answer) if result.per_output else [0]
        earlier = result.output_scores[rows].astype(np.float64).sum(0)
        place = 0
        for index, output in enumerate(result.outputs):
            if place + len(output.text) > planted.answer[0]:
                break
            units.append((earlier[index], place, place + len(output.text), True))
            place += len(output.text)
    sums: dict[int, float] = {}
    template: list[Item] = []
    for value, start, end, written in units:
        touched = [
            index
            for index, part in enumerate(planted.parts)
            if part.written == written and max(part.start, start) < min(part.end, end)
        ]
        if touched:
            index = min(touched, key=lambda index: _RANK.index(planted.parts[index].kind))
            sums[index] = sums.get(index, 0.0) + value
        else:
            template.append(Item("template", None, value))
    return [Item(planted.parts[index].kind, index, sums[index]) for index in sorted(sums)] + template


def auroc(scores: Float[np.ndarray, " item"], is_cause: Bool[np.ndarray, " item"]) -> float:
    """How often a cause scores higher than another item, ties counting half; NaN without causes or without others."""
    if is_cause.all() or not is_cause.any():
        return math.nan
    ahead = scores[is_cause][:, None] - scores[~is_cause][None]
    return float((np.sign(ahead) + 1).mean() / 2)


def average_precision(scores: Float[np.ndarray, " item"], is_cause: Bool[np.ndarray, " item"]) -> float:
    """The mean over all causes of the share of causes among the items down to it, in expectation over tied items.

    In a group of `t` tied items with `p` causes, behind `n` items with `c` causes, place `j` holds a cause with
    probability `p / t`, and before it in the group are then `(j - 1) (p - 1) / (t - 1)` others on average. NaN without
    causes.
    """
    if not is_cause.any():
        return math.nan
    total, before, causes_before = 0.0, 0, 0
    for value in np.unique(scores)[::-1]:
        tied = scores == value
        count, causes = int(tied.sum()), int((tied & is_cause).sum())
        place = np.arange(1, count + 1)
        others = (place - 1) * (causes - 1) / (count - 1) if count > 1 else 0.0
        total += float((causes / count * (causes_before + 1 + others) / (before + place)).sum())
        before, causes_before = before + count, causes_before + causes
    return total / int(is_cause.sum())


def recovery(scores: Float[np.ndarray, " item"], is_cause: Bool[np.ndarray, " item"], k: int) -> float:
    """The share of all causes among the `k` strongest items, in expectation over tied ones; NaN without causes."""
    if not is_cause.any():
        return math.nan
    found, left = 0.0, k
    for value in np.unique(scores)[::-1]:
        tied = scores == value
        found += int((tied & is_cause).sum()) * min(1.0, left / int(tied.sum()))
        left = max(0, left - int(tied.sum()))
    return found / int(is_cause.sum())


def _spearman(one: Float[np.ndarray, " item"], other: Float[np.ndarray, " item"]) -> float:
    """Rank correlation, tied values at their average rank; NaN where one of them is the same throughout."""
    ranks = [_ranks(values) for values in (one, other)]
    if any(np.ptp(values) == 0 for values in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """For each value how many are smaller, and half of how many others are the same."""
    return (np.sign(values[:, None] - values[None]) / 2).sum(1)
