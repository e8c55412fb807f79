"""Figures of a result: the numbers in them, what they say, and that they take every text literally."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from attribution.errors import MissingExtraError
from attribution.result import Attribution, Output
from attribution.views.plots.plot import plot_bars, plot_matrix
from tests.test_result import result, whole
from tests.test_views import HOSTILE

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def mesh(figure: Figure) -> Any:
    return next(each for each in figure.axes[0].collections if each.get_array() is not None)


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def saved(figure: Figure, form: str = "svg") -> bytes:
    written = BytesIO()
    figure.savefig(written, format=form)
    return written.getvalue()


def texts_of(svg: bytes) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def matrix(shown: Attribution, outputs: list[int] | None = None, **options) -> Figure:
    return plot_matrix(shown.to_dict(), list(range(len(shown.outputs))) if outputs is None else outputs, **options)


def bars(shown: Attribution, outputs: list[int] | None = None, **options) -> Figure:
    return plot_bars(shown.to_dict(), list(range(len(shown.outputs))) if outputs is None else outputs, **options)


def of_many(count: int, scores: np.ndarray, **changes) -> Attribution:
    """A result of so many units and one output."""
    unit = result().units[1]
    units = tuple(dataclasses.replace(unit, text=f"w{i}") for i in range(count))
    settings = {"outputs": (Output("Yo", 1, 0.0),), "granularity": "word", "output_scores": None} | changes
    return result(units=units, scores=scores.astype(np.float32), **settings)


# The heat map


def test_a_heat_map_shows_the_scores() -> None:
    shown = result()
    figure = matrix(shown)
    ordinary = [u for u, unit in enumerate(shown.units) if not unit.special]
    assert np.array_equal(mesh(figure).get_array(), shown.scores[:, ordinary])
    assert labels(figure.axes[0].xaxis) == ["Hi", "you (1 of 2)", "you (2 of 2)"]
    assert labels(figure.axes[0].yaxis) == [output.text.strip() or "⏎" for output in shown.outputs]
    assert figure.axes[0].yaxis_inverted()  # the first output is at the top
    assert figure.axes[0].get_title("left") == "leave_one_out · m · the output"
    assert "nats" in (figure.axes[1].get_xlabel(), figure.axes[1].get_ylabel())


def test_the_scale_is_centred_on_zero() -> None:
    shown = result()
    drawn = mesh(matrix(shown))
    strongest = np.abs(shown.scores[:, [not unit.special for unit in shown.units]]).max()
    assert drawn.get_clim() == (-strongest, strongest)
    nothing, supports, opposes = (drawn.cmap(drawn.norm(score)) for score in (0.0, strongest, -strongest))
    assert min(nothing[:3]) > 0.95
    assert supports[2] > supports[0]
    assert opposes[0] > opposes[2]


def test_an_unsigned_scale_begins_at_zero() -> None:
    method = {"name": "saliency", "options": {}, "signed": False, "unit": "nats per unit of embedding"}
    shown = result(method=method, scores=np.abs(result().scores))
    assert mesh(matrix(shown)).get_clim()[0] == 0


def test_some_outputs_and_the_output_as_a_whole() -> None:
    shown = result()
    figure = matrix(shown, [1])
    assert mesh(figure).get_array().shape == (1, 3)
    assert labels(figure.axes[0].yaxis) == [shown.outputs[1].text]
    assert repr(shown.outputs[1].text) in figure.axes[0].get_title("left")
    figure = matrix(whole())
    assert mesh(figure).get_array().shape == (1, 3)
    assert labels(figure.axes[0].yaxis) == [whole().output.strip()]


def test_of_many_units_the_strongest_are_shown_in_their_order() -> None:
    scores = np.linspace(1, 2, 80)[None]
    figure = matrix(of_many(80, scores))
    assert labels(figure.axes[0].xaxis) == [f"w{i}" for i in range(20, 80)]
    assert "20 weaker words left out" in figure.axes[0].get_title("left")
    scores[0, :75] = 1e-6
    figure = matrix(of_many(80, scores))
    assert labels(figure.axes[0].xaxis) == [f"w{i}" for i in range(75, 80)]
    assert "75 weaker words left out" in figure.axes[0].get_title("left")
    assert saved(figure, "png").startswith(b"\x89PNG")


def test_what_lies_beyond_the_scale_is_marked() -> None:
    scores = np.ones((1, 150))
    scores[0, 7] = 100
    figure = matrix(of_many(150, scores))
    assert mesh(figure).get_clim() == (-1.0, 1.0)
    assert mesh(figure).colorbar.extend == "max"
    assert mesh(matrix(result())).colorbar.extend == "neither"


@pytest.mark.parametrize("draw", [matrix, bars])
def test_a_weak_signal_is_not_coloured(draw) -> None:
    figure = draw(result(scores=result().scores * np.float32(1e-4)))
    assert "Weak signal: nothing moves it by 0.01 nats, so nothing is coloured" in figure.axes[0].get_title("left")
    if draw is matrix:
        drawn = mesh(figure)
        assert len({tuple(drawn.cmap(drawn.norm(score))) for score in drawn.get_array().ravel()}) == 1
    else:
        red, green, blue, _ = figure.axes[0].patches[0].get_facecolor()
        assert red == green == blue
    figure = draw(result(scores=np.zeros((3, 4), np.float32)))
    assert "every score is 0" in figure.axes[0].get_title("left")
    saved(figure, "png")


# Bars


def test_bars_are_the_strongest_units_in_order() -> None:
    axes = bars(result()).axes[0]
    assert [patch.get_width() for patch in axes.patches] == [4.0, -2.0, 1.0]
    assert labels(axes.yaxis) == ["Hi", "you (1 of 2)", "you (2 of 2)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the strongest at the top
    assert [bool(patch.get_hatch()) for patch in axes.patches] == [False, True, False]
    assert axes.get_xlabel() == "nats"
    axes = bars(of_many(50, np.linspace(1, 2, 50)[None])).axes[0]
    assert len(axes.patches) == 20
    assert axes.patches[0].get_width() == 2.0
    assert "30 weaker words left out" in axes.get_title("left")


def test_errors_are_drawn() -> None:
    errors = np.full((3, 4), 0.25, np.float32)
    axes = bars(result(errors=errors), [0, 1]).axes[0]
    segments = axes.collections[0].get_segments()
    assert [np.ptp(segment[:, 0]) for segment in segments] == pytest.approx([1.0] * len(axes.patches))
    assert axes.get_xlabel() == "nats, ± standard error, at most"
    assert bars(result(errors=errors), [0]).axes[0].get_xlabel() == "nats, ± standard error"
    assert not bars(result()).axes[0].collections


# Files and figures


def test_into_given_axes() -> None:
    figure = Figure()
    upper, lower = figure.subfigures(2, 1)
    first, second = upper.add_subplot(), lower.add_subplot()
    assert matrix(result(), axes=first) is figure
    assert bars(result(), axes=second) is figure
    assert first.get_title("left")
    assert second.get_title("left")
    assert saved(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", [matrix, bars])
def test_the_same_figure_gives_the_same_file(draw) -> None:
    assert saved(draw(result())) == saved(draw(result()))
    assert draw(result())._repr_png_().startswith(b"\x89PNG")


def test_nothing_global_is_touched() -> None:
    program = """
import json, sys, matplotlib
before = matplotlib.rcParams.copy()  # to look up its backend would import pyplot
from io import BytesIO
from attribution.views.plots.plot import plot_bars, plot_matrix
payload = json.load(sys.stdin)
for draw in (plot_matrix, plot_bars):
    draw(payload, [0, 1]).savefig(BytesIO(), format="svg")
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, input=json.dumps(result().to_dict()), text=True)


def test_matplotlib_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (matrix, bars):
        with pytest.raises(MissingExtraError, match=r"pip install 'llm-attribution\[plot\]'"):
            draw(result())


# Hostile texts

FORMULAS = [
    "$x$",
    r"$\frac{1}{2}$",
    "$",
    r"\input{/etc/passwd}",
    "_nolegend_",
    "&amp;<b>",
    "\ufffe",
    "日本語",
    "🍎",
    "e\u0301",
]


@pytest.mark.parametrize("draw", [matrix, bars])
@pytest.mark.parametrize("text", [*HOSTILE, *FORMULAS, "$y$" * 4000], ids=lambda text: ascii(text)[:20])
def test_texts_are_taken_literally(draw, text: str) -> None:
    original = result()
    hostile = result(
        prompt=text + "Hi you you",
        units=tuple(dataclasses.replace(unit, text=text) for unit in original.units),
        outputs=(Output(text, 1, 0.0), *original.outputs[1:]),
        model=dict(original.model) | {"name": text[:100]},
        method=dict(original.method) | {"name": text[:100], "unit": text[:100]},
        granularity=text[:100],
    )
    with matplotlib.rc_context({"text.parse_math": True}), warnings.catch_warnings():
        warnings.simplefilter("error")
        benign, shown = saved(draw(original)), saved(draw(hostile))
        saved(draw(hostile), "png")
    names = {element.tag for element in ElementTree.fromstring(benign).iter()}
    assert {element.tag for element in ElementTree.fromstring(shown).iter()} <= names
    written = "".join(texts_of(shown))
    if len(text) > 100:
        assert "$y$$y$" in written
        assert "…" in written
    elif text.isprintable() and text.isascii():
        assert text in written
    else:
        assert any(mark in written for mark in ("<U+", "␛", "␍", "␈", "␀", "␡", text))


def test_characters_that_no_font_has_are_marked() -> None:
    shown = result(outputs=(Output("\U000e0fff", 1, 0.0), *result().outputs[1:]))
    assert "<U+E0FFF>" in labels(matrix(shown).axes[0].yaxis)[0]
