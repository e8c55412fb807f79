"""What a terminal shows: the prompt as running text shaded by score, the output, and the strongest units.

Prompts and outputs are untrusted: whatever could move a cursor, change a colour or turn the writing direction is shown
as a visible mark, and no text is ever parsed as markup.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderableType
from rich.style import Style
from rich.text import Text

LISTED = 10
"""How many units the ranked list names at most."""

NEGLIGIBLE = 0.01
"""Share of the strongest score below which a unit is counted, not listed."""

_PASSES = ("forwards", "backwards")
_BAR = 20
"""Width of the longest bar, in cells."""

# Blue for, orange against: told apart by every common form of colour vision. Weak to strong.
_SUPPORTS = ((198, 219, 239), (8, 69, 148))
_OPPOSES = ((253, 208, 162), (166, 54, 3))
_FAINT = 0.04  # of the strongest score: below that a unit is not shaded


def visible(text: str, *, layout: bool = False) -> str:
    """`text` with a visible mark for every character that a terminal would act upon.

    With `layout` newlines stay and tabs become spaces; without, the result is one line.
    """
    return "".join(_mark(character, layout) for character in text)


def _mark(character: str, layout: bool) -> str:
    code = ord(character)
    if character == "\n":
        return "\n" if layout else "⏎"
    if character == "\t":
        return "    " if layout else "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    # Controls, formatting (direction, invisible), surrogates, line and paragraph separators. Joiners of emoji stay.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d":
        return f"<U+{code:04X}>"
    return character


def shade(score: float, strongest: float) -> Style:
    """The style of a score on a scale that ends at `strongest`: colour for its sign and strength.

    The sign shows without colour too: what opposes is underlined, what is strong is bold.
    """
    strength = min(1.0, abs(score) / strongest) if strongest > 0 else 0.0
    if strength < _FAINT:
        return Style()
    weak, strong = _SUPPORTS if score > 0 else _OPPOSES
    red, green, blue = (round(w + (s - w) * strength) for w, s in zip(weak, strong, strict=True))
    return Style(
        bgcolor=Color.from_rgb(red, green, blue),
        color="black" if _luminance(red, green, blue) > 0.18 else "bright_white",
        bold=strength >= 0.5,
        underline=score < 0,
    )


def _luminance(*rgb: int) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1; above 0.18 black ink has the better contrast."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def seen(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without the white space around it; as it is where there is nothing else."""
    own = text[start:end]
    if not own.strip():
        return start, end
    return start + len(own) - len(own.lstrip()), start + len(own.rstrip())


def kind(granularity: str, count: int) -> str:
    """What so many units are called: "list item", or "list items"."""
    name = visible(granularity).replace("_", " ")
    return name if count == 1 else name + ("es" if name.endswith("ch") else "s")


def plain(renderable: Any, width: int = 100) -> str:
    """What a pipe would get of it: no colours, no codes."""
    written = StringIO()
    Console(file=written, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(renderable)
    return "\n".join(line.rstrip() for line in written.getvalue().split("\n")).rstrip("\n")


class TextView:
    """A result for the terminal: `rich` prints it with colours, `str` gives plain text.

    `payload` is the dict of a result, `outputs` are the indices of the output tokens whose scores are summed; a result
    with scores for the output as a whole shows these.
    """

    def __init__(self, payload: Mapping[str, Any], outputs: Sequence[int]) -> None:
        self._payload = payload
        self._outputs = outputs
        rows = outputs if payload["per_output"] else [0]
        self._scores = [sum(payload["scores"][row][u] for row in rows) for u in range(len(payload["units"]))]
        # Errors of a sum are at most the sum of errors.
        errors = payload["errors"]
        self._errors = errors and [sum(errors[row][u] for row in rows) for u in range(len(payload["units"]))]
        ordinary = [abs(s) for s, unit in zip(self._scores, payload["units"], strict=True) if not unit["special"]]
        self._strongest = max(ordinary, default=0.0)

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self._heading()
        yield Text()
        yield self._prompt()
        yield Text()
        yield self._output()
        yield Text()
        yield from self._ranking()

    def _heading(self) -> Text:
        payload = self._payload
        parts = [payload["method"]["name"], payload["model"]["name"], payload["target"]]
        if payload["ablation"]:
            parts.append(f"absent: {payload['ablation']}")
        cost = payload["cost"]
        passes = [f"{cost[kind]} {kind.removesuffix('s' * (cost[kind] == 1))}" for kind in _PASSES if cost[kind]]
        return Text(visible(" · ".join([*parts, " + ".join(passes)])), style="dim")

    def _prompt(self) -> Text:
        """The prompt in its own layout, every unit shaded by its score."""
        text, reached = Text(), 0
        prompt: str = self._payload["prompt"]
        for unit, score in zip(self._payload["units"], self._scores, strict=True):
            start, end = seen(prompt, unit["start"], unit["end"])
            text.append(visible(prompt[reached:start], layout=True))
            style = Style(dim=unit["role"] == "template") if unit["special"] else shade(score, self._strongest)
            text.append(visible(prompt[start:end], layout=True), style)
            reached = end
        text.append(visible(prompt[reached:], layout=True))
        return text

    def _output(self) -> Text:
        """The output after an arrow, the explained tokens in bold where they are not all of it."""
        text = Text("→ ", style="bold")
        chosen = set(self._outputs)
        some = len(chosen) < len(self._payload["outputs"])
        begun = False
        for index, output in enumerate(self._payload["outputs"]):
            # Newlines before the first word would only push it away from the arrow.
            shown = visible(output["text"], layout=begun)
            begun = begun or not output["text"].isspace()
            style = Style(color="green", bold=some and index in chosen, reverse=some and index in chosen)
            text.append(shown, style)
        return text

    def _ranking(self) -> Iterator[Text]:
        units = self._payload["units"]
        granularity, unit_of_scores = self._payload["granularity"], visible(self._payload["method"]["unit"])
        asked = "the output"
        if len(self._outputs) < len(self._payload["outputs"]):
            asked = repr(visible("".join(self._payload["outputs"][o]["text"] for o in self._outputs)).strip())
        names = numbered([visible(unit["name"] or unit["text"]) for unit in units])
        ordinary = [u for u, unit in enumerate(units) if not unit["special"]]
        ranked = sorted(ordinary, key=lambda u: -abs(self._scores[u]))
        if self._strongest == 0:
            yield Text(f"No {kind(granularity, 1)} of the prompt matters for {asked}: every score is 0.")
        else:
            several = self._payload["per_output"] and len(self._outputs) > 1
            sampled = "" if self._errors is None else ", ± standard error" + ", at most" * several
            yield Text(f"Strongest {kind(granularity, 2)} for {asked}, in {unit_of_scores}{sampled}:")
            listed = [u for u in ranked if abs(self._scores[u]) >= NEGLIGIBLE * self._strongest][:LISTED]
            roles = {units[u]["role"] for u in ordinary}
            for place, u in enumerate(listed, 1):
                role = visible(units[u]["role"]) if len(roles) > 1 else ""
                error = None if self._errors is None else self._errors[u]
                yield self._ranked(place, self._scores[u], names[u], role, error)
            if len(ranked) > len(listed):
                yield Text(f"    and {len(ranked) - len(listed)} weaker", style="dim")
        outside: dict[str, float] = {}
        for name, unit, score in zip(names, units, self._scores, strict=True):
            if unit["special"]:
                called = name if unit["role"] == "special" else visible(unit["role"])
                outside[called] = outside.get(called, 0.0) + score
        if any(outside.values()):
            shown = ", ".join(f"{name} {self._number(score)}" for name, score in outside.items())
            yield Text(f"    outside the scale: {shown}", style="dim")
        yield from self._pairs(names)
        yield from self._remarks(names)

    def _pairs(self, names: Sequence[str]) -> Iterator[Text]:
        """The pairs of units that stand out."""
        if not self._payload["interactions"]:
            return
        yield Text("Pairs that only work together (+) or replace one another (-):")
        rows = self._outputs if self._payload["per_output"] else [0]
        pairs = [(sum(pair["values"][row] for row in rows), pair) for pair in self._payload["interactions"]]
        pairs = [(value, pair) for value, pair in pairs if abs(value) >= NEGLIGIBLE * self._strongest]
        for place, (value, pair) in enumerate(sorted(pairs, key=lambda each: -abs(each[0]))[:LISTED], 1):
            yield Text(f"{place:3d}  {self._number(value):>10}  {names[pair['first']]} and {names[pair['second']]}")
        if len(pairs) > LISTED:
            yield Text(f"    and {len(pairs) - LISTED} weaker", style="dim")

    def _remarks(self, names: Sequence[str]) -> Iterator[Text]:
        """What the method found out about its own scores."""
        notes = self._payload["notes"]
        unit_of_scores = visible(self._payload["method"]["unit"])
        if notes.get("completeness_error"):
            worst = max(notes["completeness_error"])
            yield Text(f"    scores add up to within {worst:.2g} {unit_of_scores} for each target", style="dim")
        if notes.get("converged") is False:
            yield Text("    not converged: allow more steps, or take another baseline", style="bold")
        names = [*names, *(visible(output["text"]) for output in self._payload["outputs"])]
        for part in notes.get("joint", ()):
            first, last = part["units"][0], part["units"][1] - 1
            where = f"{names[first]} to {names[last]}" if last > first else names[first]
            drop = self._number(sum(part["drop"][o] for o in (self._outputs if self._payload["per_output"] else [0])))
            yield Text(f"    {where} matter together ({drop}), though none of their parts does alone")
        unseen = sum(part["units"][1] - part["units"][0] for part in notes.get("not_looked_into", ()))
        if unseen:
            kinds = kind(self._payload["granularity"], unseen)
            yield Text(f"    not looked into one by one: {unseen} {kinds}", style="dim")
        if notes.get("aligned"):
            yield Text("    this tokenizer does not tell places: they were found by comparing texts", style="dim")
        if notes.get("half_characters"):
            yield Text(f"    half characters, read as replacement characters: {notes['half_characters']}", style="dim")
        for part in notes.get("swallowed", ()):
            where = f"message {part['message']} ({part['place']})"
            yield Text(
                visible(f"    {where} is no unit: its characters share a token with the template's"), style="dim"
            )
        for part in notes.get("recovered", ()):
            told = f"the chat template wrote message {part['message']} ({part['place']}) in other characters"
            yield Text(visible(f"    {told}: found by comparing"), style="dim")
        for part in notes.get("left_out", ()):
            where = f"{part['end'] - part['start']} characters of message {part['message']} ({part['place']})"
            yield Text(visible(f"    the chat template leaves out {where}"), style="dim")
        if notes.get("partial"):
            yield Text("    partial: the budget ended first. Allow more, and resume from this result", style="bold")

    def _ranked(self, place: int, score: float, name: str, role: str, error: float | None) -> Text:
        length = abs(score) / self._strongest * _BAR
        # Full blocks support, hatched ones oppose.
        bar = ("█" if score > 0 else "▒") * max(round(length), 1)
        text = Text(f"{place:3d}  {self._number(score):>10}  ")
        text.append(bar.ljust(_BAR), Style(color="blue" if score > 0 else "dark_orange"))
        text.append(f"  {name}")
        if role:
            text.append(f"  {role}", style="dim")
        if error is not None:
            text.append(f"  ± {self._number(error).removeprefix('+')}", style="dim")
        return text

    def _number(self, score: float) -> str:
        """Three decimals, or powers of ten where all scores are small; with a sign where there is one to tell."""
        digits = f"{score:+.3f}" if self._strongest >= 0.1 else f"{score:+.2e}"
        return digits if self._payload["method"]["signed"] else digits.removeprefix("+")


def numbered(names: Sequence[str]) -> list[str]:
    """The names, repeated ones told apart by their place: "apples (2 of 2)"."""
    count, seen = Counter(names), Counter[str]()
    numbered: list[str] = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} ({seen[name]} of {count[name]})" if count[name] > 1 else name)
    return numbered
