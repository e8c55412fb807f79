"""Scores: how well a result found the causes that were planted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from attribution.errors import InputError
from attribution.planted.prompt import Kind, Planted
from attribution.ranking import correlate
from attribution.result import Attribution

SCORES = (
    "auroc",
    "magnitude_auroc",
    "average_precision",
    "recovery",
    "effect_correlation",
    "sign_accuracy",
    "template_share",
    "irrelevant_share",
)
"""The names of what `score` gives."""

MOVED = 0.1
"""Nats: an effect that is smaller has no sign."""

_RANK: tuple[Kind, ...] = ("cause", "open", "irrelevant", "template")
"""Where a unit touches several parts, it counts as the first of these."""


@dataclass(frozen=True)
class Rated:
    """A unit, or a token that was written before the answer: what it is to the answer, of which part, and its score."""

    kind: Kind
    part: int | None
    score: float


def score(result: Attribution, planted: Planted, effects: Sequence[float | None] | None = None) -> dict[str, float]:
    """How well the scores for the answer find its causes; NaN for what the prompt or the method does not allow.

    A unit is what the part is that it lies in, or touches; what lies in none is template. Special units are left out,
    and so are those of which nobody can tell whether they are causes, except from shares. Of a result whose units are
    tokens, what the model wrote before the answer is rated as well. Ties are in expectation.

    - `auroc`: how often a unit of a cause scores higher than one that is of none; 0 to 1, by chance 0.5.
    - `magnitude_auroc`: the same for scores without their signs, for whoever asks what matters and not what supports.
    - `average_precision`: the mean share of causes down to each cause in the list; 0 to 1.
    - `recovery`: the share of causes among as many strongest units as there are causes; 0 to 1.
    - `effect_correlation`: over parts that a change puts to the test, the rank correlation of the sum of a part's
      scores with its counterfactual effect, that of `confirm`, where effects below 0.1 nats count as 0; -1 to 1.
    - `sign_accuracy`: over parts with an effect of at least 0.1 nats, the share whose sum has its sign; 0 to 1, not for
      methods without signs. Effects are drops of the right answer, and hardly ever negative: scores that are positive
      throughout have it all.
    - `template_share` and `irrelevant_share`: the shares of all absolute scores that lie on the words of the pattern,
      and on parts that say something else; 0 to 1.

    `effects` are those of `Confirmation`; without them the two that need them are NaN. Raises `InputError` where the
    result is of another prompt.
    """
    if result.prompt != planted.prompt:
        raise InputError(f"Expected a result of the planted prompt {planted.prompt!r}, got one of {result.prompt!r}.")
    units = rated(result, planted)
    decided = [unit for unit in units if unit.kind != "open"]
    is_cause = np.array([unit.kind == "cause" for unit in decided], bool)
    scores = np.array([unit.score for unit in decided], np.float64)
    sums: dict[int, float] = {}
    for unit in units:
        if unit.part is not None:
            sums[unit.part] = sums.get(unit.part, 0.0) + unit.score
    known = [(sums[part], effect) for part, effect in enumerate(effects or ()) if part in sums and effect is not None]
    own = np.array([total for total, _ in known], np.float64)
    moved = np.array([effect if abs(effect) >= MOVED else 0.0 for _, effect in known], np.float64)
    has_sign = (moved != 0) & result.method["signed"]
    weights = {kind: float(sum(abs(unit.score) for unit in units if unit.kind == kind)) for kind in _RANK}
    whole = sum(weights.values())
    return {
        "auroc": auroc(scores, is_cause),
        "magnitude_auroc": auroc(np.abs(scores), is_cause),
        "average_precision": average_precision(scores, is_cause),
        "recovery": recovery(scores, is_cause, int(is_cause.sum())),
        "effect_correlation": correlate(own, moved),
        "sign_accuracy": float(np.mean((own * moved > 0)[has_sign])) if has_sign.any() else math.nan,
        "template_share": weights["template"] / whole if whole else math.nan,
        "irrelevant_share": weights["irrelevant"] / whole if whole else math.nan,
    }


def rated(result: Attribution, planted: Planted) -> list[Rated]:
    """Every unit that is no special one, and behind them the tokens that were written before the answer, if rated."""
    totals = result.total(planted.answer if result.per_output else None).tolist()
    places = [
        (total, unit.start, unit.end, False)
        for total, unit in zip(totals, result.units, strict=True)
        if not unit.special
    ]
    if result.output_scores is not None:
        rows = result.output_indices(planted.answer) if result.per_output else [0]
        earlier = result.output_scores[rows].astype(np.float64).sum(0).tolist()
        end = 0
        for total, output in zip(earlier, result.outputs, strict=True):
            start, end = end, end + len(output.text)
            if end > planted.answer[0]:
                break
            places.append((total, start, end, True))
    found: list[Rated] = []
    for total, start, end, written in places:
        touched = [
            (_RANK.index(part.kind), index)
            for index, part in enumerate(planted.parts)
            if part.written == written and max(part.start, start) < min(part.end, end)
        ]
        if touched:
            index = min(touched)[1]
            found.append(Rated(planted.parts[index].kind, index, total))
        else:
            found.append(Rated("template", None, total))
    return found


def auroc(scores: Float[np.ndarray, " unit"], is_cause: Bool[np.ndarray, " unit"]) -> float:
    """How often a cause scores higher than another unit, ties counting half; NaN without causes or without others."""
    if is_cause.all() or not is_cause.any():
        return math.nan
    ahead = scores[is_cause][:, None] - scores[~is_cause][None]
    return float((np.sign(ahead) + 1).mean() / 2)


def average_precision(scores: Float[np.ndarray, " unit"], is_cause: Bool[np.ndarray, " unit"]) -> float:
    """The mean over all causes of the share of causes among the units down to it, in expectation over tied units.

    In a group of `t` tied units with `p` causes, behind `n` units with `c` causes, place `j` holds a cause with
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


def recovery(scores: Float[np.ndarray, " unit"], is_cause: Bool[np.ndarray, " unit"], k: int) -> float:
    """The share of all causes among the `k` strongest units, in expectation over tied ones; NaN without causes."""
    if not is_cause.any():
        return math.nan
    found, left = 0.0, k
    for value in np.unique(scores)[::-1]:
        tied = scores == value
        found += int((tied & is_cause).sum()) * min(1.0, left / int(tied.sum()))
        left = max(0, left - int(tied.sum()))
    return found / int(is_cause.sum())
