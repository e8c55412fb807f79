"""A result as plain HTML that needs no script and no style sheet: the prompt shaded, the output, the strongest units.

It stands where scripts do not run: in a notebook that is not trusted, on a site that shows notebooks, in a browser that
blocks them. Where styles are taken away too, bold and italic letters, bars and signs still say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from attribution.views.scale import NEGLIGIBLE, Scale, fit
from attribution.views.web.packing import unpack
from attribution.views.words import kind, number, numbered, visible

LISTED = 10
"""How many units the table names at most."""

_STEPS = 9  # of strength that are told apart by colour
_STRONG = 0.5  # of the scale: from there on letters are bold
_BAR = 20  # blocks of the longest bar
_NAME = 60  # characters of a name
_LONG = 4_000  # characters of a prompt from which on only what stands around the strongest units is shown
_AROUND = 150  # characters on each side of these
_PIECE = 600  # characters of a single unit in a long prompt

# Blue for, orange against, weak to strong: light enough for black ink, whose contrast is at least 7:1.
_SIDES = {"for": ((235, 243, 251), (107, 174, 214)), "against": ((254, 240, 222), (253, 154, 82))}


def preformatted(text: str, *, inline: bool) -> str:
    """A plain text as it is, in HTML; with `inline` styles, else without any."""
    # What follows <pre> immediately is taken for its own line, and dropped if it is a newline.
    return f"{_pre(inline)}\n{escape(visible(text, layout=True))}</pre>"


def style_sheet() -> str:
    """The rules of a summary without inline styles."""
    rules = [".attribution-static{white-space:pre-wrap;overflow-wrap:anywhere}"]
    for side in _SIDES:
        for step in range(1, _STEPS + 1):
            rules.append(f".attribution-static-{side}-{step}{{{_colours(side, step)}}}")
    rules.append(".attribution-static-number{text-align:right}")
    return "\n".join(rules)


class Summary:
    """A result in plain HTML; `payload` is its payload, whose first layer and selection are shown."""

    def __init__(self, payload: Mapping[str, Any], *, inline: bool) -> None:
        self._inline = inline
        self._panel = panel = payload["panels"][0]
        self._layer = layer = panel["layers"][0]
        self._special = set(panel["special"])
        # Bytes, since places count UTF-16 code units.
        self._prompt: bytes = panel["prompt"].encode("utf-16-le", "surrogatepass")
        self._texts = [self._text(start, end) for start, end in zip(panel["starts"], panel["ends"], strict=True)]
        count = len(panel["outputs"]["texts"])
        self._outputs: list[int] = payload["selection"][0] or list(range(count))
        self._some = len(self._outputs) < count
        rows = [0] if layer["whole"] else self._outputs
        scores = unpack(layer["scores"]).astype(np.float64)
        self._scores: list[float] = scores[rows].sum(axis=0).tolist()
        # Errors of a sum are at most the sum of errors.
        errors = None if layer["errors"] is None else unpack(layer["errors"]).astype(np.float64)
        self._errors: list[float] | None = None if errors is None else errors[rows].sum(axis=0).tolist()
        self._ordinary = [unit for unit in range(len(self._scores)) if unit not in self._special]
        self._scale = self._fit(float(np.abs(scores[:, self._ordinary]).max(initial=0.0)))
        called = [panel["names"].get(str(u)) or panel["labels"].get(str(u)) or t for u, t in enumerate(self._texts)]
        self._names = [_cut(visible((name.strip() or name)[: _NAME + 1])) for name in called]

    def _fit(self, anywhere: float) -> Scale:
        errors = None if self._errors is None else [self._errors[unit] for unit in self._ordinary]
        return fit([self._scores[u] for u in self._ordinary], self._layer["unit"], anywhere=anywhere, errors=errors)

    def __str__(self) -> str:
        return "\n".join(
            [f"<p>{escape(heading(self._layer))}</p>", self._shaded(), *self._paragraphs(), *self._table()]
        )

    def _text(self, start: int, end: int) -> str:
        return self._prompt[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")

    def _shaded(self) -> str:
        """The prompt in its layout and the output, the parts that matter shaded."""
        return "".join([_pre(self._inline), "\n", *self._prompt_parts(), "\n\n", *self._output_parts(), "</pre>"])

    def _output_parts(self) -> Iterator[str]:
        """The output after an arrow, the explained tokens in bold where not all are; of a long one a part."""
        yield "<strong>→ </strong>"
        texts: list[str] = self._panel["outputs"]["texts"]
        chosen, begun, left = set(self._outputs), False, _LONG
        for index, text in enumerate(texts):
            if left <= 0:
                yield _omitted(sum(map(len, texts[index:])))
                return
            left -= len(text)
            # Newlines before the first word would only push it away from the arrow.
            shown = escape(visible(_shortened(text) if left < 0 else text, layout=begun))
            begun = begun or not text.isspace()
            yield f"<strong>{shown}</strong>" if self._some and index in chosen else shown

    def _prompt_parts(self) -> Iterator[str]:
        """The prompt; of a long one what stands around the strongest units, and how much is left out."""
        starts, ends = self._panel["starts"], self._panel["ends"]
        size = len(self._prompt) // 2
        is_long = size > _LONG
        reached = 0
        for first, last in self._windows() if is_long else [(0, size)]:
            if first > reached:
                yield _omitted(first - reached)
            reached = first
            for unit, (start, end) in enumerate(zip(starts, ends, strict=True)):
                if end <= first or start >= last or start == end:
                    continue
                yield escape(visible(self._text(reached, max(start, reached)), layout=True))
                yield self._unit(unit, max(start, first), min(end, last), is_long)
                reached = min(end, last)
            yield escape(visible(self._text(reached, last), layout=True))
            reached = last
        if reached < size:
            yield _omitted(size - reached)

    def _windows(self) -> list[tuple[int, int]]:
        """From where to where a long prompt is shown; never between the halves of a character."""
        places = sorted(
            (max(self._panel["starts"][u] - _AROUND, 0), self._panel["ends"][u] + _AROUND) for u in self._strongest()
        )
        joined: list[tuple[int, int]] = []
        for first, last in places or [(0, 2 * _AROUND)]:
            if joined and first <= joined[-1][1]:
                first, last = joined[-1][0], max(last, joined.pop()[1])
            joined.append((first, last))
        size = len(self._prompt) // 2
        return [(self._whole(first), self._whole(min(last, size))) for first, last in joined]

    def _whole(self, place: int) -> int:
        """The place, or the one before it where it is within a character."""
        before = self._prompt[2 * place - 1 : 2 * place]
        return place - 1 if place and 0xD8 <= before[0] <= 0xDB else place

    def _unit(self, unit: int, start: int, end: int, is_long: bool) -> str:
        """A unit's text, shaded by its score without the white space around it."""
        text = self._text(start, end)
        own = text.strip()
        before, _, after = text.partition(own) if own else (text, "", "")
        shown = _shortened(own) if is_long else own
        shaded = self._shade(0.0 if unit in self._special else self._scores[unit], escape(visible(shown, layout=True)))
        return escape(visible(before, layout=True)) + shaded + escape(visible(after, layout=True))

    def _shade(self, score: float, text: str) -> str:
        strength = self._scale.strength(score)
        step = round(strength * _STEPS)
        if not step or not text:
            return text
        side = "against" if score < 0 else "for"
        colours = f'style="{_colours(side, step)}"' if self._inline else f'class="attribution-static-{side}-{step}"'
        text = f"<strong>{text}</strong>" if strength >= _STRONG else text
        return f"<em {colours}>{text}</em>" if score < 0 else f"<span {colours}>{text}</span>"

    def _strongest(self) -> list[int]:
        """The units that the table names."""
        ranked = sorted(self._ordinary, key=lambda unit: -abs(self._scores[unit]))
        least = NEGLIGIBLE * self._scale.strongest
        return [unit for unit in ranked[:LISTED] if self._scores[unit] and abs(self._scores[unit]) >= least]

    def _paragraphs(self) -> Iterator[str]:
        """What colours mean, and what the method found out about its own scores."""
        if self._scale.weak:
            yield f"<p><strong>Weak signal</strong>: {escape(visible(self._scale.why))}. Nothing is shaded.</p>"
        else:
            limit = f"{self._number(self._scale.limit, False)} {visible(self._layer['unit'])}"
            signs = "blue supports, orange in italics opposes" if self._layer["signed"] else "blue matters, either way"
            clipped = sum(abs(self._scores[unit]) > self._scale.limit for unit in self._ordinary)
            told = f"{signs}; strong from half of {limit} on, where the scale ends"
            told += f" ({clipped} beyond)" if clipped else ""
            yield f"<p>{escape(told)}</p>"
        outside = [unit for unit in sorted(self._special) if self._scores[unit]]
        if outside:
            total = self._number(sum(self._scores[unit] for unit in outside), self._layer["signed"])
            yield f"<p>outside the scale: {len(outside)} special, {total} together</p>"
        for text, warns in self._layer["remarks"]:
            shown = escape(visible(text))
            yield f"<p><strong>{shown}</strong></p>" if warns else f"<p>{shown}</p>"

    def _table(self) -> Iterator[str]:
        """The strongest units with their numbers."""
        listed = self._strongest()
        if not listed:
            return
        asked = "the output"
        if self._some:
            texts = self._panel["outputs"]["texts"]
            asked = repr(_cut(visible("".join(texts[index] for index in self._outputs).strip())))
        title = f"Strongest {kind(self._panel['granularity'], 2)} for {asked}, in {visible(self._layer['unit'])}"
        title += "" if self._errors is None else ", ± standard error" + ", at most" * (len(self._outputs) > 1)
        yield f"<table>\n<caption>{escape(title)}</caption>"
        yield "<thead><tr><th>score</th><th>size</th><th>text</th></tr></thead>\n<tbody>"
        names = numbered(self._names)
        right = ' style="text-align:right"' if self._inline else ' class="attribution-static-number"'
        for unit in listed:
            score = self._scores[unit]
            size = abs(score) / self._scale.strongest
            # Full blocks support, hatched ones oppose.
            bar = ("█" if score > 0 else "▒") * max(round(size * _BAR), 1)
            told = self._number(score, self._layer["signed"])
            told += "" if self._errors is None else f" ± {self._number(self._errors[unit], False)}"
            yield f"<tr><td{right}>{told}</td><td>{bar}</td><td>{escape(names[unit])}</td></tr>"
        yield "</tbody></table>"
        weaker = len(self._ordinary) - len(listed)
        if weaker:
            yield f"<p>and {weaker:,} weaker</p>"

    def _number(self, score: float, signed: bool) -> str:
        return number(score, self._scale.strongest, signed=signed)


def heading(layer: Mapping[str, Any]) -> str:
    """Method, model, target, and what absent meant, in one line that is safe to be shown."""
    told: dict[str, str] = dict(layer["provenance"])
    parts = [told.get(label, "") for label in ("method", "model", "target")]
    if "absent" in told:
        parts.append(f"absent: {told['absent']}")
    return visible(" · ".join(_shortened(part) for part in parts if part))


def _pre(inline: bool) -> str:
    look = 'style="white-space:pre-wrap;overflow-wrap:anywhere"' if inline else 'class="attribution-static"'
    return f"<pre {look}>"


def _colours(side: str, step: int) -> str:
    weak, strong = _SIDES[side]
    red, green, blue = (round(w + (s - w) * step / _STEPS) for w, s in zip(weak, strong, strict=True))
    line = ";text-decoration:underline" if side == "against" else ""
    return f"background:#{red:02x}{green:02x}{blue:02x};color:#000{line}"


def _omitted(count: int) -> str:
    return f"\n[…{count:,} characters left out…]\n"


def _shortened(text: str) -> str:
    """The text without its middle where it is very long."""
    half = _PIECE // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]} […{left_out:,} characters left out…] {text[-half:]}" if left_out > 0 else text


def _cut(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1].rstrip()}…"
