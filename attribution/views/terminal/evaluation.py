"""An evaluation in a terminal: a table for every meaning of "absent", what it took, and what is missing.

As in the view of a result, no text is parsed as markup, and nothing in it reaches the terminal but as a visible mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attribution.views.scoreboard import LEGEND, Block, Cell, about, blocks, expenses, gaps
from attribution.views.terminal.console import plain
from attribution.views.words import cut, visible

_LABEL = 34  # cells at most for the name of a method
_COLUMN = 13  # cells at least for a metric, whose name is spread over lines
_LONGEST = 24  # cells at most
_GAPS = 12  # reasons that are listed at most
_REASON = 240  # cells at most for one


class EvaluationView:
    """An evaluation for the terminal: `rich` prints it with colours, `str` gives plain text.

    `payload` is the dict of an evaluation. On a narrow terminal the metrics are spread over several tables.
    """

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload
        names = [visible(method["label"]) for method in payload["settings"]["methods"]]
        self._label = min(_LABEL, max(map(cell_len, names), default=1))

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(visible(about(self._payload)), style="dim")
        for block in blocks(self._payload):
            yield Text()
            yield Text(visible(block.title), style="bold")
            widths, first = [_width(metric) for metric in block.metrics], 0
            while first < len(widths):
                # As many metrics as fit beside the names; each column brings two cells of space.
                last, used = first + 1, self._label + 2 + widths[first]
                while last < len(widths) and used + 2 + widths[last] <= options.max_width:
                    used += 2 + widths[last]
                    last += 1
                yield self._table(block, range(first, last), widths)
                first = last
        yield Text()
        for sentence in LEGEND:
            yield Text(sentence, style="dim")
        yield Text()
        yield self._costs()
        yield from self._missing()

    def _table(self, block: Block, columns: range, widths: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("", width=self._label, no_wrap=True)
        for column in columns:
            name = Text(f"{_spread(block.metrics[column])} {block.arrows[column]}", overflow="fold")
            table.add_column(name, justify="right", width=widths[column])
        for method, cells in block.rows:
            table.add_row(Text(cut(visible(method), self._label)), *(_cell(cells[column]) for column in columns))
        return table

    def _costs(self) -> Table:
        """What every method took."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(Text("cost of a prompt, on average"), width=max(self._label, 27), no_wrap=True)
        for name in ("forwards", "backwards", "tokens", "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        for expense in expenses(self._payload):
            numbers = (expense.forwards, expense.backwards, expense.tokens, expense.seconds)
            table.add_row(Text(cut(visible(expense.method), self._label)), *map(Text, numbers))
        return table

    def _missing(self) -> Iterator[Text]:
        """Why some numbers are not there."""
        missing = gaps(self._payload)
        if missing:
            yield Text()
            yield Text("Missing numbers:")
        for method, reason, count in missing[:_GAPS]:
            where = f"{count} prompt{'s' * (count != 1)}"
            text = Text(f"  {cut(visible(method), _LABEL)}", "bold")
            yield text.append(f" ({where}): {cut(visible(reason), _REASON)}", Style(bold=False))
        if len(missing) > _GAPS:
            yield Text(f"  and {len(missing) - _GAPS} more reasons", style="dim")


def _spread(metric: str) -> str:
    """A metric's name that can be broken between its words."""
    return visible(metric).replace("_", " ")


def _width(metric: str) -> int:
    """The cells of its longest word, and of the arrow behind it."""
    return min(_LONGEST, max(_COLUMN, *(cell_len(word) + 2 for word in (*_spread(metric).split(), ""))))


def _cell(cell: Cell) -> Text:
    if not cell.text:
        return Text(f"– ({cell.counted})" if cell.counted else "–", style="dim")
    text = Text(cell.text, "bold" if cell.best else "")
    text.append(cell.mark or " ", Style(bold=False))
    return text.append(f" ({cell.counted})", Style(bold=False, dim=True)) if cell.counted else text
