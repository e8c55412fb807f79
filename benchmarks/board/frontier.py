"""Quality against cost as a picture."""

from __future__ import annotations

from io import StringIO
from typing import Any, NamedTuple

import numpy as np

from benchmarks.board.standing import BASELINES, FAST, Board

Point = tuple[float, float, str]
"""What a method takes, its AUROC, and its name."""

_LETTER, _LINE = 4.6, 9.0
"""How wide and high a letter of the labels is, in points."""
_HEIGHTS = (-4, 4, -13, 13, -22, 22)
"""How far above its point a label may begin, the nearest first."""


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
    drawn: list[tuple[Any, list[Point]]] = []
    for place, (kind, title) in enumerate(kinds.items(), 1):
        axes: Any = figure.add_subplot(3, 1, place)
        axes.set_xscale("log")
        points = _draw(axes, board, kind)
        if kind == "passes_of_one":
            axes.axvline(FAST, color="#999999", linestyle="--", linewidth=1)
        axes.set(xlabel=title, ylabel="AUROC of planted causes")
        axes.axhline(board.mean("random", "auroc"), color="#999999", linestyle=":", linewidth=1)
        drawn.append((axes, points))
    figure.draw_without_rendering()  # from here on it is known where points are
    for axes, points in drawn:
        _name(axes, points)
    written = StringIO()
    with mpl.rc_context({"svg.hashsalt": "board", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _draw(axes: Any, board: Board, kind: str) -> list[Point]:
    """Every method with a cost of this kind: ours as discs, others as squares. Gives where they are."""
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
    axes.legend(loc="lower right")
    axes.margins(x=0.12, y=0.08)
    return points


def _name(axes: Any, points: list[Point]) -> None:
    """Puts each name beside its point, where it covers as little as can be of other points and names."""
    taken = [_Box(x - 3, y - 3, x + 3, y + 3) for x, y, _ in (_place(axes, point) for point in points)]
    for point in points:
        x, y, name = _place(axes, point)
        width = _LETTER * len(name)
        sides = [(5, "left", 5), (-5, "right", -5 - width)]
        options = [(across, align, x + left, y + up) for up in _HEIGHTS for across, align, left in sides]
        boxes = [_Box(left, bottom, left + width, bottom + _LINE) for _, _, left, bottom in options]
        chosen = min(range(len(boxes)), key=lambda option: sum(map(boxes[option].overlaps, taken)))
        across, align, _, bottom = options[chosen]
        taken.append(boxes[chosen])
        axes.annotate(
            name, point[:2], (across, bottom - y), textcoords="offset points", ha=align, va="bottom", fontsize=8
        )


class _Box(NamedTuple):
    """A rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: _Box) -> float:
        """The area that both have."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, across) * max(0.0, up)


def _place(axes: Any, point: Point) -> Point:
    """Where a point is drawn, in points of the picture, and its name."""
    x, y = axes.transData.transform(point[:2]) * 72 / axes.figure.dpi
    return float(x), float(y), point[2]
