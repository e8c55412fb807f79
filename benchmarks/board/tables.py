"""Everything the board says in numbers."""

from __future__ import annotations

import numpy as np

from attribution.faithfulness.metric import build_metric
from benchmarks.board.measurement import QUICK, SOME
from benchmarks.board.standing import Board

_PLANTED = (
    ("auroc", "AUROC"),
    ("magnitude_auroc", "AUROC without signs"),
    ("average_precision", "average precision"),
    ("recovery", "recovery at k"),
    ("effect_correlation", "correlation with effect"),
    ("sign_accuracy", "sign accuracy"),
    ("template_share", "on the template"),
    ("irrelevant_share", "on the irrelevant"),
)
_LONGEST_REASON = 160

WRITTEN = ("chain_of_thought", "written_step")
"""Families in which the causes are among what the model wrote before the answer."""

Table = tuple[str, list[str], list[list[str]]]
"""A sentence about it, the heads of its columns, and its rows."""


def tables(board: Board) -> list[Table]:
    """Everything the board says in numbers."""
    quality: list[list[str]] = []
    for method in board.methods:
        low, high = board.interval(method, "auroc")
        families = len(board.of_family(method, "auroc"))
        count = sum(map(len, board.of_family(method, "auroc").values()))
        quality.append(
            [
                method,
                f"{count} in {families}",
                _number(board.cost(method, "passes_of_one"), 1),
                _number(board.cost(method, "passes"), 1),
                _number(board.cost(method, "times"), 1),
                f"{_number(board.mean(method, 'auroc'))} ({_number(low)} to {_number(high)})",
                *(_number(board.mean(method, name)) for name, _ in _PLANTED[1:]),
            ]
        )
    heads = [
        "method",
        "prompts in families",
        "passes for one number",
        "passes",
        "time",
        *(title for _, title in _PLANTED),
    ]
    found: list[Table] = [
        (
            "How well the planted causes were found: means over the families that a method has numbers in, first the "
            "methods that have some in all. AUROC and what follows as in `attribution.planted.scores.score`, with 95% "
            "intervals over families and prompts. Passes are forward passes over prompt and output, a backward pass "
            "counted as one: for the scores of one number (`per_output=False`, of our methods), and for those of every "
            "output token, as they were rated. Time, for every output token, is a multiple of one forward pass's.",
            heads,
            quality,
        )
    ]
    families = [each.family for each in board.measured]
    rows = [
        [
            method,
            _number(board.mean(method, "auroc", [name for name in families if name not in WRITTEN])),
            *(_number(board.mean(method, "auroc", [family])) for family in families),
        ]
        for method in board.methods
    ]
    about = (
        "AUROC by family; 0.5 is chance. Captum and context-cite have no scores for what was written before the "
        f"answer, which decides in {' and '.join(WRITTEN)}: before the families stands the mean over all others."
    )
    found.append((about, ["method", "the others", *families], rows))
    labels = dict.fromkeys(label for each in board.measured for values in each.values.values() for label in values)
    metrics = [label for label in labels if label not in dict(_PLANTED)]
    for absent in ("delete", "mask", ""):
        ending = f" ({absent})" if absent else ""
        some = [label for label in metrics if (label.endswith(ending) if absent else not label.endswith(")"))]
        rows = [[method, *(_number(board.mean(method, label), 2) for label in some)] for method in board.methods]
        rows = [row for row in rows if any(row[1:])]
        heads = [_direction(label.removesuffix(ending)) for label in some]
        how = f"an absent unit meaning `{absent}`" if absent else "without removing units"
        few = (
            f"on {SOME} of the prompts of each, so that these are impressions and no ranking; what explains again, of "
            f"our methods that ask no ablated prompts and take at most {QUICK} passes"
        )
        found.append((f"Faithfulness, {how}: means over families, {few}.", ["method", *heads], rows))
    rows = [
        [each.family, str(each.confirmed), f"{each.right:.1%}", f"{each.followed:.1%}", str(each.prompts)]
        for each in board.measured
    ]
    heads = ["family", "prompts confirmed", "answered right", "changes followed", "prompts measured on"]
    found.append(("Whether the models agree with what was planted.", heads, rows))
    reasons: dict[tuple[str, str], int] = {}
    for each in board.measured:
        for method, own in each.missing.items():
            for reason, times in own.items():
                reasons[method, reason] = reasons.get((method, reason), 0) + times
    rows = [[method, str(times), _told(reason)] for (method, reason), times in sorted(reasons.items())]
    found.append(("Numbers that are missing, and why.", ["method", "how many", "why"], rows))
    return found


def _told(reason: str) -> str:
    """A reason as a cell of a table, without its line breaks, and cut where it is long."""
    line = " ".join(reason.replace("|", "/").split())
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"


def _direction(metric: str) -> str:
    return metric.replace("_", " ") + (" ↓" if build_metric(metric).better == "lower" else " ↑")


def _number(value: float, digits: int = 3) -> str:
    return "" if not np.isfinite(value) else f"{value:.{digits}f}"
