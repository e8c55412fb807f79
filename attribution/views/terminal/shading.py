"""How strong a score is, as a terminal shows it: with 16 million colours, 256, 16 or none, or as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.color import Color
from rich.style import Style
from rich.text import Text

from attribution.views.scale import Scale
from attribution.views.terminal.console import Colours
from attribution.views.words import number, visible

FAINT = 0.04
"""Share of the scale below which a unit is not shaded."""

BEYOND = "▶"
"""Ends the bar of a score that lies beyond the scale."""

# Blue for, orange against: told apart by every common form of colour vision. Weak to strong.
_SUPPORTS = ((198, 219, 239), (8, 69, 148))
_OPPOSES = ((253, 208, 162), (166, 54, 3))

# The same for 256 colours, chosen from the cube so that every step is darker than the one before.
_SUPPORTS_256 = (189, 153, 111, 68, 26, 18)
_OPPOSES_256 = (223, 216, 209, 166, 130, 88)

# And for 16: ink, paper and whether bold. Only pairs that the palettes in use all keep apart; never bold black, which
# many terminals show as grey.
_SUPPORTS_16 = (("black", "cyan", False), ("bright_white", "blue", False), ("bright_white", "blue", True))
_OPPOSES_16 = (("black", "bright_yellow", False), ("bright_white", "red", False), ("bright_white", "red", True))

# Inks that can be read on black as well as on white: with colours, and out of 256. Of 16 none is sure to be.
_INKS = {"supports": ((31, 119, 200), 27), "opposes": ((190, 89, 8), 130), "answer": ((22, 136, 54), 28)}

_STRENGTHS = (1.0, 0.8, 0.6, 0.4, 0.2)  # of the legend's cells on either side of zero


def shade(score: float, limit: float, colours: Colours = "truecolor") -> Style:
    """The style of a score on a scale that ends at `limit`: colour for its sign and strength.

    The sign shows without colour too: what opposes is underlined. Without colours what is strong is bold and reversed.
    """
    strength = min(1.0, abs(score) / limit) if limit > 0 else 0.0
    if strength < FAINT or colours == "plain":
        return Style()
    supports = score > 0
    if colours == "none":
        strong = strength >= 0.5
        return Style(bold=strong or supports, reverse=strong, underline=not supports)
    if colours == "16":
        steps = _SUPPORTS_16 if supports else _OPPOSES_16
        ink, paper, bold = steps[_step(strength, len(steps))]
        return Style(color=ink, bgcolor=paper, bold=bold, underline=not supports)
    if colours == "256":
        steps = _SUPPORTS_256 if supports else _OPPOSES_256
        background = Color.from_ansi(steps[_step(strength, len(steps))])
        dark, light = Color.from_ansi(16), Color.from_ansi(231)
    else:
        weak, full = _SUPPORTS if supports else _OPPOSES
        background = Color.from_rgb(*(round(w + (f - w) * strength) for w, f in zip(weak, full, strict=True)))
        # Not the terminal's own black and white, which a theme may have made grey.
        dark, light = Color.from_rgb(0, 0, 0), Color.from_rgb(255, 255, 255)
    ink = dark if _luminance(*background.get_truecolor()) > 0.18 else light
    return Style(bgcolor=background, color=ink, bold=strength >= 0.5, underline=not supports)


def _step(strength: float, count: int) -> int:
    """Which of so many steps, weak to strong."""
    return min(int(strength * count), count - 1)


def _luminance(*rgb: int) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1; above 0.18 black ink has the better contrast."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ink(name: Literal["supports", "opposes", "answer"], colours: Colours) -> Style:
    """The style of what is drawn or written in a colour of its own, on whatever background the terminal has."""
    rgb, index = _INKS[name]
    if colours == "truecolor":
        return Style(color=Color.from_rgb(*rgb))
    return Style(color=Color.from_ansi(index)) if colours == "256" else Style()


def bar(score: float, scale: Scale, width: int, colours: Colours) -> Text:
    """A bar in `width` cells: full blocks support, hatched ones oppose, and an arrow ends what is beyond the scale.

    Empty where the signal is weak, so that noise does not look like a finding.
    """
    if scale.weak or width < 1:
        return Text(" " * max(width, 0))
    block, length = "█" if score > 0 else "▒", max(round(scale.strength(score) * width), 1)
    drawn = block * (width - 1) + BEYOND if abs(score) > scale.limit else block * length
    return Text(drawn.ljust(width), ink("supports" if score > 0 else "opposes", colours))


def legend(scale: Scale, unit: str, colours: Colours, *, signed: bool = True, clipped: str = "") -> Text:
    """What the colours, or without colours the bars, mean: both ends of the scale in numbers, and `unit`.

    `clipped` counts what lies beyond the ends ("2 words"). Where the signal is weak it says that, and why.
    """
    unit = visible(unit)
    if scale.weak:
        end = "" if scale.strongest == 0 else f" The strongest score has a size of {_end(scale.strongest)} {unit}."
        return Text(f"Weak signal: {scale.why}, so nothing is coloured.{end}")
    end = _end(scale.limit)
    text = Text()
    if signed:
        text.append(f"-{end} ").append_text(_cells([-s for s in _STRENGTHS], colours)).append(" ")
    text.append("0 ").append_text(_cells(list(reversed(_STRENGTHS)), colours)).append(f" {'+' * signed}{end} {unit}")
    if clipped:
        text.append(f" · beyond it {BEYOND}: {clipped}", "dim")
    return text


def _end(size: float) -> str:
    return number(size, size, signed=False)


def _cells(scores: Sequence[float], colours: Colours) -> Text:
    """Cells shaded as units with these scores are; words, or blocks, where there are no colours."""
    text = Text()
    if colours == "plain":
        return text.append(("█" if scores[0] > 0 else "▒") * len(scores))
    if colours == "none":
        words = ["weak", "strong"] if scores[0] > 0 else ["strong", "weak"]
        for place, (word, score) in enumerate(zip(words, (scores[0], scores[-1]), strict=True)):
            text.append(" " * bool(place)).append(word, shade(score, 1.0, colours))
        return text
    for score in scores:
        text.append("  ", shade(score, 1.0, colours))
    return text


def clipped(scores: Sequence[float], scale: Scale) -> Iterator[int]:
    """The places of the scores beyond the scale."""
    return (place for place, score in enumerate(scores) if abs(score) > scale.limit and not scale.weak)
