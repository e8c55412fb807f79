"""The classic table: inputs down, outputs across, four decimals, coloured by strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attribution.views.terminal.console import Colours, colours_of, plain
from attribution.views.terminal.shading import ink, shade
from attribution.views.words import cut, visible

_LABEL = 16  # cells at most for the name of an input
_COLUMN = 10  # cells at most for the name of an output


class TableView:
    """Input and output as text, the output in another colour, then the scores.

    `prompt` and `output` are texts, `words` the names of all tokens, `scores` one row per output token with a number
    per token of prompt and output. On a narrow terminal the outputs are spread over several tables.
    """

    def __init__(self, prompt: str, output: str, words: Sequence[str], scores: Sequence[Sequence[float]]) -> None:
        self._prompt = prompt
        self._output = output
        self._words = [visible(word) for word in words]
        self._scores = scores
        self._n_input = len(words) - len(scores)
        self._strongest = max((abs(score) for row in scores for score in row), default=0.0)

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        colours = colours_of(console)
        text = Text(visible(self._prompt, layout=True))
        text.append(visible(self._output, layout=True), ink("answer", colours) + Style(bold=True))
        yield text
        yield Text()
        label = min(_LABEL, max(map(cell_len, self._words), default=1))
        outputs = self._words[self._n_input :]
        # A name may be cut, a number never.
        widths = [
            max(min(_COLUMN, cell_len(name)), *(len(f"{score:.4f}") for score in row))
            for name, row in zip(outputs, self._scores, strict=True)
        ]
        start = 0
        while start < len(outputs):
            # As many outputs as fit beside the inputs' names; each column brings two cells of space.
            end, used = start + 1, label + 2 + widths[start] + 2
            while end < len(outputs) and used + widths[end] + 2 <= options.max_width:
                used += widths[end] + 2
                end += 1
            yield self._table(label, range(start, end), widths, colours)
            start = end

    def _table(self, label: int, outputs: range, widths: Sequence[int], colours: Colours) -> Table:
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
        table.add_column("", min_width=label, max_width=label, no_wrap=True)
        for output in outputs:
            name = Text(cut(self._words[self._n_input + output], widths[output]), ink("answer", colours))
            table.add_column(name, justify="right", min_width=widths[output], max_width=widths[output], no_wrap=True)
        # What comes after the last of these outputs' inputs has no number here.
        for token in range(self._n_input + outputs[-1]):
            style = ink("answer", colours) if token >= self._n_input else Style()
            cells = [Text(cut(self._words[token], label), style)]
            for output in outputs:
                seen = token < self._n_input + output
                score = self._scores[output][token]
                cells.append(Text(f"{score:.4f}", shade(score, self._strongest, colours)) if seen else Text())
            table.add_row(*cells)
        return table
