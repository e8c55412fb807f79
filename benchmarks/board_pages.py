"""What the board has found, as Markdown, as a page with the view, and as a picture of quality against cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

import attribution as at
from attribution.faithfulness.metric import build_metric
from attribution.files import write_file
from attribution.planted.confirmation import confirm
from attribution.planted.families import draw
from benchmarks.board import QUICK, SOME, Measured

FAST = 4.0
"""Passes that the default method may take at most for the scores of one number."""

PLAIN = ("saliency", "input_x_gradient")
"""Plain gradients, which a method ought to beat."""

BASELINES = ("random", "position")
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
_RESAMPLES = 1000
_LONGEST_REASON = 160


class Board:
    """The numbers of all families, method by method; `methods` has first those with numbers in every family."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.measured = sorted(measured, key=lambda each: each.family)
        names = dict.fromkeys(name for each in self.measured for name in each.values)
        self.methods = sorted(names, key=lambda name: (not self.is_whole(name), -self.mean(name, "auroc")))

    def of_family(self, method: str, metric: str) -> dict[str, dict[int, float]]:
        """A method's numbers by family and prompt; families without any are left out."""
        return {each.family: numbers for each in self.measured if (numbers := each.values.get(method, {}).get(metric))}

    def mean(self, method: str, metric: str, family: str | None = None) -> float:
        """The mean over the families, or of one, of the means over their prompts; NaN where there is none."""
        found = [
            float(np.mean(list(numbers.values())))
            for name, numbers in self.of_family(method, metric).items()
            if family in (None, name)
        ]
        return float(np.mean(found)) if found else float("nan")

    def interval(self, method: str, metric: str, other: str | None = None) -> tuple[float, float]:
        """From where to where 95% of that mean are when the prompts of each family are drawn anew.

        With another method, that of how far it is above that, on the prompts that both have numbers for.
        """
        rng, own = np.random.default_rng(0), self.of_family(method, metric)
        theirs = {} if other is None else self.of_family(other, metric)
        drawn: list[np.ndarray] = []
        for family, numbers in own.items():
            less = dict.fromkeys(numbers, 0.0) if other is None else theirs.get(family, {})
            paired = [number - less[prompt] for prompt, number in numbers.items() if prompt in less]
            if paired:
                drawn.append(rng.choice(paired, (_RESAMPLES, len(paired))).mean(1))
        if not drawn:
            return float("nan"), float("nan")
        low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
        return float(low), float(high)

    def cost(self, method: str, kind: str) -> float:
        """The mean over the families of what a method takes, in `passes` or `times`; NaN where that is unknown."""
        found = [getattr(each, kind)[method] for each in self.measured if method in getattr(each, kind)]
        return float(np.mean(found)) if found else float("nan")

    def is_own(self, method: str) -> bool:
        """Whether it is a method of this library."""
        return all(method in each.own for each in self.measured)

    def is_whole(self, method: str) -> bool:
        """Whether it has numbers in every family, so that its means can be held against those of others."""
        return len(self.of_family(method, "auroc")) == len(self.measured)

    @property
    def own(self) -> list[str]:
        """Our methods that have a number in every family, the best first."""
        return [name for name in self.methods if self.is_own(name) and self.is_whole(name)]

    @property
    def default(self) -> str:
        """The best of our methods that take at most `FAST` passes."""
        return self.fast[0]

    @property
    def fast(self) -> list[str]:
        """Our methods that take at most `FAST` passes for one number, the best first."""
        return [name for name in self.own if self.cost(name, "passes_of_one") <= FAST]

    @property
    def careful(self) -> str:
        """The best of our methods, whatever it takes."""
        return self.own[0]


def write_board(measured: Sequence[Measured], out: Path) -> None:
    """Writes `board.md`, `board.html` and `board.svg` into this folder."""
    board = Board(measured)
    picture = frontier(board)
    write_file(out / "board.svg", picture.encode())
    write_file(out / "board.md", markdown(board).encode())
    write_file(out / "board.html", page(board, picture).encode())


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
            "intervals over prompts. Passes are forward passes over prompt and output, a backward pass counted as one: "
            "for the scores of one number (`per_output=False`, of our methods), and for those of every output token, "
            "as they were rated. Time, for every output token, is a multiple of one forward pass's.",
            heads,
            quality,
        )
    ]
    families = [each.family for each in board.measured]
    rows = [
        [method, *(_number(board.mean(method, "auroc", family)) for family in families)] for method in board.methods
    ]
    found.append(("AUROC by family; 0.5 is chance.", ["method", *families], rows))
    labels = dict.fromkeys(label for each in board.measured for values in each.values.values() for label in values)
    metrics = [label for label in labels if label not in dict(_PLANTED)]
    for absent in ("delete", "mask", ""):
        ending = f" ({absent})" if absent else ""
        some = [label for label in metrics if (label.endswith(ending) if absent else not label.endswith(")"))]
        rows = [[method, *(_number(board.mean(method, label), 2) for label in some)] for method in board.methods]
        rows = [row for row in rows if any(row[1:])]
        heads = [_direction(label.removesuffix(ending)) for label in some]
        how = f"an absent unit meaning `{absent}`" if absent else "without removing units"
        few = f"on {SOME} of the prompts of each; what explains again, of our methods that take at most {QUICK} passes"
        found.append((f"Faithfulness, {how}: means over families, {few}.", ["method", *heads], rows))
    rows = [
        [each.family, str(each.confirmed), f"{each.right:.1%}", f"{each.followed:.1%}", str(each.prompts)]
        for each in board.measured
    ]
    heads = ["family", "prompts confirmed", "answered right", "changes followed", "prompts measured on"]
    found.append(("Whether the models agree with what was planted.", heads, rows))
    reasons: dict[tuple[str, str], int] = {}
    for each in board.measured:
        for pair, times in each.missing.items():
            reasons[pair] = reasons.get(pair, 0) + times
    rows = [[method, str(times), _told(reason)] for (method, reason), times in sorted(reasons.items())]
    found.append(("Numbers that are missing, and why.", ["method", "how many", "why"], rows))
    return found


def _told(reason: str) -> str:
    """A reason as a cell of a table, without its line breaks, and cut where it is long."""
    line = " ".join(reason.replace("|", "/").split())
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"


def _direction(metric: str) -> str:
    return metric.replace("_", " ") + (" ↓" if build_metric(metric).better == "lower" else " ↑")


def sentences(board: Board) -> list[str]:
    """What the numbers decide, in words."""
    plain = max(PLAIN, key=lambda name: board.mean(name, "auroc"))
    best = next(name for name in board.methods if name not in BASELINES)
    found = [
        f"Of the methods that take at most {FAST:.0f} passes `{board.default}` finds the planted causes best: AUROC "
        f"{board.mean(board.default, 'auroc'):.3f}, in {board.cost(board.default, 'passes_of_one'):.1f} passes for one "
        f"number.{_runner_up(board, board.fast)}",
        f"At any cost `{board.careful}` does: {board.mean(board.careful, 'auroc'):.3f}, in "
        f"{board.cost(board.careful, 'passes_of_one'):.0f} passes."
        f"{_runner_up(board, board.own)}",
    ]
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


def _runner_up(board: Board, methods: Sequence[str]) -> str:
    """By how much the first of these is ahead of the second, in a sentence."""
    if len(methods) < 2:
        return ""
    first, second = methods[:2]
    low, high = board.interval(first, "auroc", second)
    ahead = board.mean(first, "auroc") - board.mean(second, "auroc")
    return f" It is {ahead:.3f} ahead of `{second}` (95% interval {low:.3f} to {high:.3f})."


def markdown(board: Board) -> str:
    """The board as Markdown."""
    lines = ["# The board", "", _ABOUT, ""]
    lines += [f"- {sentence}" for sentence in sentences(board)]
    lines += ["", "![Quality against cost: AUROC over passes for every method](board.svg)", ""]
    lines += ["The same with examples in the view: [board.html](board.html).", ""]
    for about, heads, rows in tables(board):
        lines += [about, "", f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


_ABOUT = (
    "Every method of this library, and those of Captum, Inseq and the context-cite package, on prompts whose causes "
    "were planted and confirmed on the model by in-distribution changes. Written by `make board`; the numbers come "
    "from seeds, the times are those of one machine. Methods are measured on needles among 20 to 40 sentences. "
    "Captum and context-cite are not asked about what the model wrote before the answer, so that they cannot be right "
    "where its steps decide; where Captum has one score for the whole output, it stands for the answer's."
)


def frontier(board: Board) -> str:
    """AUROC against passes, and against time, as SVG: of the methods with numbers in every family.

    A line joins those than which none is better for less.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 11), layout="constrained")
    FigureCanvasSVG(figure)
    kinds = {
        "passes": "forward passes, for the scores of every output token",
        "times": "time, as a multiple of a forward pass's",
    }
    for place, (kind, title) in enumerate(kinds.items(), 1):
        axes: Any = figure.add_subplot(2, 1, place)
        _draw(axes, board, kind)
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
        if np.isfinite(board.cost(name, kind)) and board.is_whole(name)
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


EXAMPLES = ("conjunction", "two_hops", "hijack")
"""Families of which the page shows a prompt."""


def page(board: Board, picture: str) -> str:
    """The board as a page that loads nothing: what it decides, the picture, examples in the view, the tables."""
    parts = [f"<h1>The board</h1><p>{_marked(_ABOUT)}</p><ul>"]
    parts += [f"<li>{_marked(sentence)}</li>" for sentence in sentences(board)]
    parts += ["</ul><figure>", picture[picture.index("<svg") :], "</figure><h2>Examples</h2>"]
    model = at.load("demo")
    for family in EXAMPLES:
        planted = next(found for seed in range(100) if confirm(model, found := draw(family, seed=seed)).holds)
        results = [
            at.explain(model, planted.prompt, output=planted.output, method=name)
            for name in dict.fromkeys((board.default, board.careful, "leave_one_out"))
        ]
        view = results[0].html_view(planted.answer, others=results[1:])
        parts += [f"<h3>{escape(family)}</h3>", view.notebook()]
    parts.append("<h2>Numbers</h2>")
    for about, heads, rows in tables(board):
        parts += [f"<div class=scroll><table><caption>{_marked(about)}</caption><thead><tr>"]
        parts += [f'<th scope="col">{escape(head)}</th>' for head in heads]
        parts.append("</tr></thead><tbody>")
        for first, *rest in rows:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
            parts.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
        parts.append("</tbody></table></div>")
    return _PAGE.replace("{content}", "\n".join(parts))


def _marked(text: str) -> str:
    """A sentence with what stands in backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _number(value: float, digits: int = 3) -> str:
    return "" if not np.isfinite(value) else f"{value:.{digits}f}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The board of attribution methods</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1rem 0; background: #fff; }
figure svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
caption { text-align: left; max-width: 60rem; padding-bottom: .5rem; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th[scope=row], thead th:first-child { text-align: left; }
</style>
</head>
<body>
{content}
</body>
</html>
"""
