"""What the board has found, as Markdown and as a page with the view."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import attribution as at
from attribution.files import write_file
from attribution.planted.confirmation import confirm
from attribution.planted.families import draw
from benchmarks.board.frontier import frontier
from benchmarks.board.measurement import Measured
from benchmarks.board.sentences import sentences
from benchmarks.board.standing import Board
from benchmarks.board.tables import tables


def write_board(measured: Sequence[Measured], out: Path) -> None:
    """Writes `board.md`, `board.html` and `board.svg` into this folder."""
    board = Board(measured)
    picture = frontier(board)
    write_file(out / "board.svg", picture.encode())
    write_file(out / "board.md", markdown(board).encode())
    write_file(out / "board.html", page(board, picture).encode())


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
    "where its steps decide; where Captum has one score for the whole output, it stands for the answer's. "
    "`exact_shapley` takes at most 12 units, and these prompts have more. Scores are ranked as they are: a cause with "
    "a score below 0 stands behind whatever has none. Intervals are over families and prompts drawn anew; they do not "
    "allow for the best having been chosen among many."
)


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
