"""What the board's numbers decide, in words."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from attribution.faithfulness.metric import build_metric
from benchmarks.board.standing import BASELINES, FAST, Board

PLAIN = ("saliency", "input_x_gradient")
"""Plain gradients, which a method ought to beat."""

FAITHFULNESS = (
    "normalised_aopc (delete)",
    "morf_lerf_difference (delete)",
    "linear_datamodeling_score (delete)",
    "randomisation",
)
"""What is said of faithfulness in words, of all metrics in the tables: one of each kind."""


def sentences(board: Board) -> list[str]:
    """What the numbers decide, in words."""
    plain = max(PLAIN, key=lambda name: board.mean(name, "auroc"))
    best = next(name for name in board.methods if name not in BASELINES)
    found = [
        f"Of the methods that take at most {FAST:.0f} passes `{board.default}` finds the planted causes best: AUROC "
        f"{board.mean(board.default, 'auroc'):.3f}, in {board.cost(board.default, 'passes_of_one'):.1f} passes for one "
        f"number. It is the default.{_runner_up(board, board.fast)}",
        f"At any cost `{board.careful}` does: {board.mean(board.careful, 'auroc'):.3f}, in "
        f"{board.cost(board.careful, 'passes_of_one'):.0f} passes. It is the careful method."
        f"{_runner_up(board, board.own)}",
    ]
    found.append(
        f"By the size of scores alone, whatever their signs, these would be {_largest(board, board.fast)} and "
        f"{_largest(board, board.own)}."
    )
    found += _faithfulness(board)
    if best not in board.own:
        found.append(f"At the head of the list is `{best}`, with {board.mean(best, 'auroc'):.3f}.")
    others = [name for name in board.methods if name not in (*PLAIN, *BASELINES)]
    sides = {name: board.interval(name, "auroc", plain) for name in others}
    found.append(f"The better of the plain gradients is `{plain}`, with {board.mean(plain, 'auroc'):.3f}.")
    for words, losing in (
        ("Worse than that, by a paired interval that 0 is not in", [n for n, (_, high) in sides.items() if high < 0]),
        ("Not to be told from it", [n for n, (low, high) in sides.items() if low <= 0 <= high]),
    ):
        if losing:
            names = ", ".join(f"`{name}` ({board.mean(name, 'auroc'):.3f})" for name in losing)
            found.append(f"{words}: {names}.")
    random = board.mean("random", "auroc")
    found.append(f"A random order has {random:.3f}, the order of the prompt {board.mean('position', 'auroc'):.3f}.")
    return found


def _faithfulness(board: Board) -> list[str]:
    """Who leads where units are removed, and where the default stands."""
    places: list[str] = []
    for metric in FAITHFULNESS:
        sign = -1 if build_metric(metric.partition(" ")[0]).better == "higher" else 1
        ranked = sorted((sign * number, name) for name in board.own if isfinite(number := board.mean(name, metric)))
        names = [name for _, name in ranked]
        if board.default not in names:
            continue
        best, place = names[0], names.index(board.default) + 1
        places.append(
            f"by `{metric}` `{best}` leads ({board.mean(best, metric):.2f}), and the default is number {place} of "
            f"{len(names)} ({board.mean(board.default, metric):.2f})"
        )
    return [f"Metrics of faithfulness have another order: {'; '.join(places)}."] if places else []


def _runner_up(board: Board, methods: Sequence[str]) -> str:
    """By how much the first of these is ahead of the second, in a sentence."""
    if len(methods) < 2:
        return ""
    first, second = methods[:2]
    low, high = board.interval(first, "auroc", second)
    ahead = board.mean(first, "auroc") - board.mean(second, "auroc")
    return f" It is {ahead:.3f} ahead of `{second}` (95% interval {low:.3f} to {high:.3f})."


def _largest(board: Board, methods: Sequence[str]) -> str:
    """The best of these by the size of scores, with its number."""
    best = max(methods, key=lambda name: board.mean(name, "magnitude_auroc"))
    return f"`{best}` ({board.mean(best, 'magnitude_auroc'):.3f})"
