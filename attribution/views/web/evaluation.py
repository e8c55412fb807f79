"""An evaluation as a web page of tables: it loads nothing, runs nothing, and reads well aloud, in light and dark."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files

from attribution.views.scoreboard import LEGEND, Block, Cell, about, blocks, expenses, gaps
from attribution.views.web.html import HtmlView
from attribution.views.words import visible

_STYLE = """
.attribution.evaluation { max-width: 100%; }
.attribution .scroll { max-height: none; margin-bottom: 12px; }
.attribution td strong { color: var(--mark); }
.attribution tbody th { white-space: nowrap; }
.attribution thead th { vertical-align: bottom; }
.attribution tbody tr:nth-child(odd) { background: var(--faint); }
.attribution h1 { font-size: 18px; margin: 0 0 8px; overflow-wrap: anywhere; }
.attribution summary { cursor: pointer; }
"""

_LINE, _LEAST, _MOST = 24, 320, 900  # pixels of a row of a table, and of the frame in a notebook


class EvaluationHtml(HtmlView):
    """An evaluation for browsers and notebooks; `payload` is its dict."""

    def page(self) -> str:
        """A whole HTML file that loads nothing, and in which no script runs."""
        style = files("attribution.views").joinpath("view.css").read_text("utf-8").replace("\r\n", "\n") + _STYLE
        fingerprint = b64encode(sha256(style.encode()).digest()).decode("ascii")
        policy = f"default-src 'none'; style-src 'sha256-{fingerprint}'; base-uri 'none'; form-action 'none'"
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                "<head>",
                '<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{_shown(self._title())}</title>",
                f"<style>{style}</style>",
                "</head>",
                "<body>",
                '<main id="attribution-view"><div class="attribution evaluation">',
                *self._content(),
                "</div></main>",
                "</body>",
                "</html>",
                "",
            ]
        )

    def _title(self) -> str:
        return f"Attribution: {visible(about(self._payload))}"

    def _summary(self, *, inline: bool) -> str:
        return "\n".join(self._content())

    def _height(self) -> int:
        rows = sum(len(block.rows) + 3 for block in blocks(self._payload))
        return min(_LEAST + _LINE * rows, _MOST)

    def _content(self) -> Iterator[str]:
        payload = self._payload
        found = blocks(payload)
        yield f"<h1>{_shown(about(payload))}</h1>"
        for block in found:
            yield from _table(
                block.title,
                ["method", *_heads(block)],
                [[_shown(method), *map(_cell, cells)] for method, cells in block.rows],
            )
        yield "<ul>"
        yield from (f"<li>{_shown(sentence)}</li>" for sentence in LEGEND)
        yield "</ul>"
        for other, name in (("to_random", "a random order"), ("to_leave_one_out", "exact leave-one-out")):
            yield f"<details>\n<summary>Difference to {name}, with 95% intervals</summary>"
            for block in found:
                yield from _table(
                    f"{block.title}, difference to {name}",
                    ["method", *_heads(block)],
                    [
                        [_shown(method), *(_shown(getattr(cell, other) or "–") for cell in cells)]
                        for method, cells in block.rows
                    ],
                )
            yield "</details>"
        yield from _table(
            "cost of a prompt, on average",
            ["method", "prompts", "forwards", "backwards", "tokens", "seconds"],
            [[_shown(e.method), str(e.n), e.forwards, e.backwards, e.tokens, e.seconds] for e in expenses(payload)],
        )
        missing = gaps(payload)
        if missing:
            rows = [[_shown(method), str(count), _shown(reason)] for method, reason, count in missing]
            yield from _table("missing numbers", ["method", "prompts", "reason"], rows, texts=1)


def _heads(block: Block) -> list[str]:
    """The metrics, with what is better in words for those who hear them."""
    better = {"↑": "more is better", "↓": "less is better"}
    return [
        f'{_shown(name)} <span role="img" aria-label="{better[arrow]}">{arrow}</span>'
        for name, arrow in zip(block.metrics, block.arrows, strict=True)
    ]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 0) -> Iterator[str]:
    """A table of markup that is escaped already; but for the title. The last columns of `texts` are no numbers."""
    numbers = len(head) - texts
    name = _shown(title)
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n<table>\n<caption>{name}</caption>'
    cells = [f'<th scope="col"{_class(place, numbers)}>{text}</th>' for place, text in enumerate(head)]
    yield f"<thead><tr>{''.join(cells)}</tr></thead>\n<tbody>"
    for first, *rest in rows:
        cells = [f"<td{_class(place, numbers)}>{text}</td>" for place, text in enumerate(rest, 1)]
        yield f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>'
    yield "</tbody>\n</table>\n</div>"


def _class(place: int, numbers: int) -> str:
    return ' class="number"' if 0 < place < numbers else ""


def _cell(cell: Cell) -> str:
    if not cell.text:
        return f"– ({cell.counted})" if cell.counted else "–"
    text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
    return f"{text}{escape(cell.mark)}{f' ({cell.counted})' if cell.counted else ''}"


def _shown(text: str) -> str:
    return escape(visible(text))
