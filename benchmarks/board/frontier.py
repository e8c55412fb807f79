"""Quality against cost as a picture."""

from __future__ import annotations

from io import StringIO
from typing import Any

import numpy as np

from benchmarks.board.standing import BASELINES, FAST, Board


def frontier(board: Board) -> str:
    """AUROC against passes, and against time, as SVG: of the methods with numbers in every family.

    A line joins those than which none is better for less.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 18), layout="constrained")
    FigureCanvasSVG(figure)
    kinds = {
        "passes_of_one": "forward passes, for the scores of one number: our methods, the default left of the line",
        "passes": "forward passes, for the scores of every output token",
        "times": "time, as a multiple of a forward pass's",
    }
    for place, (kind, title) in enumerate(kinds.items(), 1):
        axes: Any = figure.add_subplot(3, 1, place)
        _draw(axes, board, kind)
        if kind == "passes_of_one":
            axes.axvline(FAST, color="#999999", linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel=title, ylabel="AUROC of planted causes")
        axes.axhline(board.mean("random", "auroc"), color="#999999", linestyle=":", linewidth=1)
    written = StringIO()
    with mpl.rc_context({"svg.hashsalt": "board", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _draw(axes: Any, board: Board, kind: str) -> None:
    """Every method with a cost of this kind: ours as discs, others as squares."""
    points = sorted(
        (board.cost(name, kind), board.mean(name, "auroc"), name)
        for name in board.methods
        if np.isfinite(board.cost(name, kind)) and board.is_whole(name) and name not in BASELINES
    )
    best, line = -1.0, list[tuple[float, float]]()
    for cost, quality, _ in sorted(points, key=lambda point: (point[0], -point[1])):
        if quality > best:
            best = quality
            line.append((cost, quality))
    axes.plot(*zip(*line, strict=True), color="#999999", linewidth=1, zorder=1)
    for own, marker, color, whose in (
        (True, "o", "#1f5fbf", "attribution"),
        (False, "s", "#c05a00", "other libraries"),
    ):
        some = [(cost, quality) for cost, quality, name in points if board.is_own(name) == own]
        if some:
            axes.scatter(*zip(*some, strict=True), s=24, color=color, marker=marker, zorder=2, label=whose)
    for index, (cost, quality, name) in enumerate(points):
        axes.annotate(name, (cost, quality), (5, 5 if index % 2 else -11), textcoords="offset points", fontsize=8)
    axes.legend(loc="lower right")
