"""An evaluation in Markdown. What others wrote cannot be anything but text: no link, no tag, no end of a cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from attribution.views.scoreboard import LEGEND, Cell, about, blocks, expenses, gaps
from attribution.views.words import visible

_ACTIVE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\.(?=[^\W\d])|:(?=\S)|[#$*<>@\[\\\]`{|}~]")
"""What may begin something in Markdown; an underscore within a word, a point or a colon before a space do not."""


def evaluation_markdown(payload: Mapping[str, Any]) -> str:
    """The tables of an evaluation, given as its dict; it ends with a newline."""
    return "\n".join(_lines(payload)) + "\n"


def _lines(payload: Mapping[str, Any]) -> Iterator[str]:
    yield plain_text(about(payload))
    for block in blocks(payload):
        yield f"\n**{plain_text(block.title)}**\n"
        heads = [f"{plain_text(name)} {arrow}" for name, arrow in zip(block.metrics, block.arrows, strict=True)]
        yield from _table(
            ["method", *heads], [[plain_text(method), *map(_cell, cells)] for method, cells in block.rows]
        )
    yield ""
    for sentence in LEGEND:
        yield f"- {plain_text(sentence)}"
    yield "\n**cost of a prompt, on average**\n"
    rows = [[plain_text(e.method), e.forwards, e.backwards, e.tokens, e.seconds] for e in expenses(payload)]
    yield from _table(["method", "forwards", "backwards", "tokens", "seconds"], rows)
    missing = gaps(payload)
    if missing:
        yield "\n**missing numbers**\n"
        rows = [[plain_text(method), str(count), plain_text(reason)] for method, reason, count in missing]
        yield from _table(["method", "prompts", "reason"], rows, texts=1)


def plain_text(text: str) -> str:
    """The text on one line, as nothing but text."""
    marked = _ACTIVE.sub(lambda found: "\\" + found[0], visible(text))
    # A backslash keeps Markdown from reading a bracket, an entity keeps whatever reads only HTML from it too.
    return escape(marked, quote=False).replace("\\&", "&")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 0) -> Iterator[str]:
    """The lines of a table; the first column and the last `texts` are no numbers."""
    yield _row(head)
    yield _row(["---", *["---:"] * (len(head) - 1 - texts), *["---"] * texts])
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if not cell.text:
        return f"– ({cell.counted})" if cell.counted else "–"
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text}{plain_text(cell.mark)}{f' ({cell.counted})' if cell.counted else ''}"
