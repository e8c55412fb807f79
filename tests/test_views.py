"""The terminal view: what it says, how it fits, and that nothing in a text is executed."""

from __future__ import annotations

import dataclasses
from io import StringIO

import numpy as np
import pytest
from rich.cells import cell_len
from rich.color import Color, ColorTriplet
from rich.console import Console
from rich.style import Style

from attribution.errors import InputError
from attribution.result import Attribution, Interaction, Output
from attribution.views.terminal.console import plain
from attribution.views.terminal.shading import FAINT, ink, shade
from attribution.views.terminal.table import TableView
from attribution.views.words import visible
from tests.test_result import result, whole


def coloured(renderable, width: int = 80, **options) -> str:
    written = StringIO()
    settings = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False} | options
    Console(file=written, width=width, **settings).print(renderable)
    return written.getvalue()


def test_what_it_says() -> None:
    text = str(result())
    assert text == str(result().text_view())
    lines = text.splitlines()
    assert lines[0] == "leave_one_out · m · logprob · absent: delete · 4 forwards"
    assert "Hi you you" in lines
    assert "→ Yo!" in lines
    ranking = lines[lines.index("Strongest tokens for the output, in nats:") + 1 :]
    assert [line.split()[:2] for line in ranking[:3]] == [["1", "+4.000"], ["2", "-2.000"], ["3", "+1.000"]]
    assert ranking[0].endswith("█  Hi")
    assert "▒" in ranking[1]
    assert ranking[1].endswith("you (1 of 2)")
    assert ranking[2].endswith("you (2 of 2)")
    assert ranking[3].split() == ["outside", "the", "scale:", "<bos>", "+0.250"]


def test_bars_are_to_scale() -> None:
    lines = str(result()).splitlines()
    assert [sum(map(line.count, "█▒")) for line in lines if line[:3].strip().isdigit()] == [20, 10, 5]


def test_some_outputs() -> None:
    text = str(result().text_view("Yo"))
    assert "Strongest tokens for 'Yo', in nats:" in text
    assert [line.split()[1] for line in text.splitlines() if line[:3].strip().isdigit()] == [
        "-2.000",
        "+1.000",
        "+0.500",
    ]


def test_unsigned_scores_have_no_plus() -> None:
    method = {"name": "saliency", "options": {}, "signed": False, "unit": "nats per unit of embedding"}
    assert "  4.000  " in str(result(method=method))


def test_long_rankings_are_cut_and_counted() -> None:
    original = result()
    unit = original.units[1]
    many = result(units=(unit,) * 30, scores=np.ones((3, 30), np.float32), prompt="Hi" * 30)
    assert "and 20 weaker" in str(many)
    scores = result().scores.copy()
    scores[:, 3] = 0.001
    assert "and 1 weaker" in str(result(scores=scores))


def test_the_output_as_a_whole() -> None:
    shown = str(whole())
    assert "for the output, in nats" in shown
    assert shown.index("+4.000") < shown.index("-2.000") < shown.index("+1.000")
    assert "scores add up to within 0.5 nats for each target" in shown
    with pytest.raises(InputError, match="computed together"):
        whole().text_view("Yo")


def test_nothing_matters() -> None:
    assert "No token of the prompt matters for the output" in str(result(scores=np.zeros((3, 4), np.float32)))


def test_small_scores_keep_their_digits() -> None:
    assert "+4.00e-05" in str(result(scores=result().scores * np.float32(1e-5)))


def test_colours_and_their_absence() -> None:
    assert ";48;" in coloured(result())  # a background; rich remembers styles, so not which code for it
    assert shade(2.0, 2.0).bgcolor == Color.from_rgb(8, 69, 148)
    for options in ({"no_color": True}, {"color_system": None}):
        assert "48;" not in coloured(result(), **options)
    assert "\x1b" not in str(result())


def test_the_sign_shows_without_colour() -> None:
    assert shade(-1.0, 1.0).underline
    assert not shade(1.0, 1.0).underline
    assert shade(1.0, 1.0).bold
    assert shade(0.01, 1.0).bgcolor is None
    assert shade(0.0, 0.0).bgcolor is None


XTERM = [(0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229)]
XTERM += [(127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255), (255, 0, 255), (0, 255, 255)]
XTERM += [(255, 255, 255)]
VGA = [(0, 0, 0), (170, 0, 0), (0, 170, 0), (170, 85, 0), (0, 0, 170), (170, 0, 170), (0, 170, 170), (170, 170, 170)]
VGA += [tuple(part + 85 - 170 * (part > 170) for part in colour) for colour in VGA]


def luminance(rgb) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second) -> float:
    """By the formula of WCAG 2."""
    light, dark = max(map(luminance, (first, second))), min(map(luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)


def rgb(color: Color, palette) -> tuple[int, int, int]:
    """What a terminal with this palette of 16 shows."""
    standard = color.number is not None and color.number < 16
    return tuple(palette[color.number]) if standard else tuple(color.get_truecolor())


@pytest.mark.parametrize("colours", ["truecolor", "256", "16"])
def test_shaded_text_can_be_read(colours) -> None:
    """Contrast of at least 4.5:1 at every strength, whichever of the common palettes a terminal has."""
    for score in np.linspace(-1, 1, 201):
        style = shade(float(score), 1.0, colours)
        if style.bgcolor is None:
            assert abs(score) < FAINT
            continue
        assert style.color is not None
        for palette in (XTERM, VGA):
            assert contrast(rgb(style.color, palette), rgb(style.bgcolor, palette)) >= 4.5
        # Many terminals show bold black as grey.
        assert not (style.bold and style.color.name == "black")


@pytest.mark.parametrize("colours", ["truecolor", "256"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_stronger_the_darker(colours, sign: float) -> None:
    styles = [shade(sign * strength, 1.0, colours) for strength in np.linspace(FAINT, 1, 50).tolist()]
    levels = [luminance(style.bgcolor.get_truecolor()) for style in styles]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) >= 5


def test_few_colours_tell_strength_and_sign() -> None:
    for colours in ("16", "none"):
        for sign in (1.0, -1.0):
            styles = [shade(sign * strength, 1.0, colours) for strength in (0.1, 0.5, 1.0)]
            assert len({str(style) for style in styles}) >= 2
            assert all(bool(style.underline) == (sign < 0) for style in styles)
    assert shade(1.0, 1.0, "plain") == Style()


@pytest.mark.parametrize("name", ["supports", "opposes", "answer"])
def test_what_has_a_colour_of_its_own_shows_on_light_and_dark(name) -> None:
    for colours, least in (("truecolor", 4.5), ("256", 4.0)):  # the cube of 256 has no blue that does better
        color = ink(name, colours).color
        assert color is not None
        for paper in (ColorTriplet(0, 0, 0), ColorTriplet(255, 255, 255)):
            assert contrast(color.get_truecolor(), paper) >= least
    assert ink(name, "16") == Style()


@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_it_fits(width: int) -> None:
    lines = plain(result(prompt="Hi you you " * 20), width).splitlines()
    assert max(map(cell_len, lines)) <= width


def test_layout_is_kept() -> None:
    assert "  a\n\n    b" in str(result(prompt="Hi you you  a\n\n\tb"))


HOSTILE = [
    "\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\b\b", "\x00", "\x7f", "\u202e", "\u2066", "\u2028", "\ud800",
    "\u200b", "\ufeff", "[bold red]", "[/]", "[link=file:///etc/passwd]", ":smile:", "</script><script>",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_in_a_text_is_executed(text: str) -> None:
    original = result()
    hostile = result(
        prompt=text + "Hi you you",
        units=tuple(type(unit)(text, *list(vars(unit).values())[1:]) for unit in original.units),
        outputs=(Output(text, 1, 0.0),) * 3,
        model={"name": text, "architecture": "M", "dtype": "float32", "revision": None},
        method={"name": text, "options": {}, "signed": True, "unit": text},
        target=text,
        ablation=text,
        granularity=text,
    )
    table = TableView(text, text, [text] * 4, [[0.1, 0.2, 0.3, 0.0]])
    for shown in (str(hostile), str(table)):
        assert not [c for c in shown if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]
        assert not set(shown) & set("\u202e\u2066\u2028\ud800\u200b\ufeff")
        shown.encode()  # no lone surrogate is left
        assert visible(text) in shown
    # With colours the only codes are the view's own.
    import re

    left = re.sub(r"\x1b\[[0-9;]*m", "", coloured(hostile, width=200))
    assert "\x1b" not in left
    assert visible(text) in left


@pytest.mark.parametrize("width", [20, 40, 80])
def test_numbers_in_the_table_are_never_cut(width: int) -> None:
    scores = [[12.3456 + i, -1.5] + [-12345.6789] * 6 + [0.0] * 3 for i in range(3)]
    shown = str(plain(TableView("x", "y", ["Sam", "has", *"abcdefghi"], scores), width))
    for number in ("12.3456", "13.3456", "14.3456", "-1.5000", "-12345.6789"):
        assert f"{number}\n" in shown.replace(" ", "\n") + "\n"


def test_visible_keeps_ordinary_text() -> None:
    for text in ("naïve café", "日本語", "👩‍👩‍👧", "שלום", "a b"):
        assert visible(text) == text
    assert visible("a\n\tb") == "a⏎⇥b"
    assert visible("a\n\tb", layout=True) == "a\n    b"


def test_rich_prints_a_result() -> None:
    assert "Strongest tokens" in coloured(result())
    assert isinstance(result(), Attribution)


def test_errors_stand_beside_scores() -> None:
    errors = np.array([[0, 0.5, 0.25, 0.125], [0, 0.5, 0.25, 0.125], [0, 0, 0, 0]], dtype=np.float32)
    text = str(result(errors=errors))
    assert "Strongest tokens for the output, in nats, ± standard error, at most:" in text
    first = next(line for line in text.splitlines() if line.startswith("  1"))
    assert first.endswith("Hi  ± 1.000")  # of a sum at most the sum
    assert next(line for line in str(result(errors=errors).text_view("Yo")).splitlines() if "Hi" in line[3:]).endswith(
        "± 0.500"
    )


def test_pairs_of_units() -> None:
    pairs = (Interaction(1, 2, (0.25, 0.5, 0.0)), Interaction(1, 3, (-2.0, 0.0, 0.0)))
    lines = str(result(interactions=pairs)).splitlines()
    start = lines.index("Pairs that only work together (+) or replace one another (-):")
    assert lines[start + 1].split() == ["1", "-2.000", "Hi", "and", "you", "(2", "of", "2)"]
    assert lines[start + 2].split() == ["2", "+0.750", "Hi", "and", "you", "(1", "of", "2)"]


def test_what_a_method_found_out_about_its_own_scores() -> None:
    notes = {
        "joint": [
            {"units": [1, 3], "drop": [1.0, 0.5, 0.0], "scored": True},
            {"units": [4, 6], "drop": [0.0, 0.0, 1.0], "scored": True},
        ],
        "not_looked_into": [{"units": [3, 4], "why": "budget"}],
        "partial": True,
    }
    text = str(result(notes=notes))
    assert "    Hi to you (1 of 2) matter together (+1.500), though none of their parts does alone" in text
    assert "    Yo to ! matter together (+1.000), though" in text  # output tokens are units too
    assert "    not looked into one by one: 1 token\n" in text
    assert "    partial: the budget ended first. Allow more, and resume from this result" in text


def test_a_chat_shows_roles_and_sums_its_template() -> None:
    words = result(granularity="list_item").units
    roles = ("template", "system", "user", "template")
    units = tuple(
        dataclasses.replace(unit, role=role, special=role == "template", name="the rule" if role == "system" else "")
        for unit, role in zip(words, roles, strict=True)
    )
    text = str(result(granularity="list_item", units=units, notes={"aligned": True, "half_characters": 2}))
    assert "Strongest list items for the output" in text
    assert "the rule  system" in text
    assert "  user" in text
    assert text.count("template") == 1
    assert "found by comparing texts" in text
    assert "half characters, read as replacement characters: 2" in text


def test_what_a_template_leaves_out_is_said() -> None:
    left_out = [{"message": 2, "place": "content", "start": 8, "end": 21}]
    recovered = [{"message": 3, "place": "content"}]
    shown = str(result(notes={"left_out": left_out, "recovered": recovered}))
    assert "leaves out 13 characters of message 2 (content)" in shown
    assert "wrote message 3 (content) in other characters" in shown
