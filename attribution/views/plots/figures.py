"""The figures themselves: importing this file needs matplotlib, and never touches pyplot or its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure, SubFigure
from rich.cells import cell_len

from attribution.views.plots.fonts import drawable, literally
from attribution.views.scale import NEGLIGIBLE, Scale, fit
from attribution.views.words import cut, cut_names, kind

COLUMNS = 60
"""How many units a heat map shows at most."""

BARS = 20
"""How many units are drawn as bars at most."""

_LABEL = 24  # cells at most for the name of a unit or output
_CELL, _FEW = 0.24, 0.42  # inches of a cell, and where there are few
_TALLEST = 40.0  # inches
_SMALLEST = 4.0  # points: smaller labels are left out, all but every so many
_POINTS = 8.0  # of labels

# Against, orange; nothing, nearly white; for, blue: as in the other views.
_OPPOSES, _NOTHING, _SUPPORTS = ("#a63603", "#fdd0a2"), "#f7f7f7", ("#c6dbef", "#084594")
_BAR_OPPOSES, _BAR_SUPPORTS, _BAR_WEAK = "#d95f0e", "#2171b5", "#bdbdbd"

# Texts stay texts in vector files, and the same figure gives the same file.
_SAVED: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "attribution"}
# What is drawn must not depend on what somebody set for formulas.
_DRAWN: dict[Any, Any] = {"text.usetex": False, "text.parse_math": False, "axes.formatter.use_mathtext": False}
_DATES = {"svg": "Date", "pdf": "CreationDate", "ps": "CreationDate", "eps": "CreationDate"}


class ResultFigure(Figure):
    """A figure whose vector files hold texts as texts and are the same every time; notebooks show it as it is."""

    def savefig(self, fname: Any, **options: Any) -> None:
        named = Path(fname).suffix.lstrip(".") if isinstance(fname, str | Path) else ""
        form = str(options.get("format") or named).lower()
        if form in ("svg", "pdf"):
            options["metadata"] = {_DATES[form]: None} | (options.get("metadata") or {})
        options.setdefault("dpi", 200)
        with rc_context(_SAVED):
            Figure.savefig(self, fname, **options)

    def _repr_png_(self) -> bytes:
        written = BytesIO()
        self.savefig(written, format="png", dpi=120)
        return written.getvalue()


def matrix(payload: Mapping[str, Any], outputs: Sequence[int], axes: Axes | None) -> Figure:
    """See `plot_matrix`."""
    units, ordinary = payload["units"], _ordinary(payload)
    rows = list(outputs) if payload["per_output"] else [0]
    scores = np.array([payload["scores"][row] for row in rows], np.float64).reshape(len(rows), len(units))
    scale = _fit(payload, scores[:, ordinary], rows)
    strength = np.abs(scores).max(axis=0, initial=0.0)
    shown = ordinary
    if len(ordinary) > COLUMNS:
        ranked = sorted(ordinary, key=lambda u: -strength[u])[:COLUMNS]
        shown = sorted(u for u in ranked if strength[u] >= NEGLIGIBLE * scale.strongest) or ordinary[:COLUMNS]
    names = _names(payload)
    labels = _output_names(payload, outputs)
    with rc_context(_DRAWN):
        columns = [names[u] for u in shown]
        size = _matrix_size(len(shown), len(labels))
        figure, axes = _axes(axes, size, (_length(labels) + 1.0, _length(columns) + 0.8))
        signed = payload["method"]["signed"]
        limit = scale.limit or 1.0
        mesh = axes.pcolormesh(
            scores[:, shown],
            cmap=_colours(signed, scale.weak),
            vmin=-limit if signed else 0.0,
            vmax=limit,
            edgecolors="white",
            linewidth=0.4,
        )
        axes.invert_yaxis()
        slanted = 45.0 if len(shown) <= 12 else 90.0
        _ticks(axes, "x", columns, size[0] / max(len(shown), 1), rotation=slanted)
        _ticks(axes, "y", labels, size[1] / max(len(labels), 1), rotation=0.0)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        inside = scores[:, shown]
        ends = (bool((inside < -limit).any()), bool((inside > limit).any()))
        which = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}[ends]
        unit = cut(drawable(payload["method"]["unit"]), 2 * _LABEL)
        # Where there are few rows the scale lies below them: upright it would be too short for its own numbers.
        flat = size[1] < max(_length([unit]), 1.2)
        where: dict[str, Any] = {"location": "bottom", "aspect": 30} if flat else {"location": "right", "aspect": 15}
        colour_bar = axes.figure.colorbar(mesh, ax=axes, label=unit, extend=which, fraction=0.05, pad=0.02, **where)
        colour_bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        colour_bar.ax.tick_params(labelsize=_POINTS)
        label = colour_bar.ax.xaxis.label if flat else colour_bar.ax.yaxis.label
        label.set_fontsize(_POINTS)
        literally([label])
        _title(axes, payload, outputs, len(ordinary) - len(shown), scale)
    return figure


def bars(payload: Mapping[str, Any], outputs: Sequence[int], axes: Axes | None) -> Figure:
    """See `plot_bars`."""
    ordinary = _ordinary(payload)
    rows = list(outputs) if payload["per_output"] else [0]
    scores, errors = (_summed(payload[name], rows) for name in ("scores", "errors"))
    given = cast(list[float], scores)
    own = [given[u] for u in ordinary]
    scale = _fit(payload, np.array([own]), rows, None if errors is None else [errors[u] for u in ordinary])
    ranked = sorted(ordinary, key=lambda u: -abs(given[u]))
    shown = [u for u in ranked if abs(given[u]) >= NEGLIGIBLE * scale.strongest][:BARS]
    names = _names(payload)
    with rc_context(_DRAWN):
        height = 0.9 + 0.26 * max(len(shown), 3)
        figure, axes = _axes(axes, (4.0, height), (_length([names[u] for u in shown]), 0.0))
        values = [given[u] for u in shown]
        drawn = axes.barh(
            range(len(shown)),
            values,
            color=[_BAR_WEAK if scale.weak else _BAR_SUPPORTS if v > 0 else _BAR_OPPOSES for v in values],
            edgecolor="white",
            linewidth=0.0,
        )
        for patch, value in zip(drawn.patches, values, strict=True):
            if value < 0:
                patch.set_hatch("////")
        if errors is not None:
            axes.errorbar(
                values,
                range(len(shown)),
                xerr=[errors[u] for u in shown],
                fmt="none",
                ecolor="black",
                elinewidth=0.8,
                capsize=2.0,
            )
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(0.0, color="black", linewidth=0.8)
        _ticks(axes, "y", [names[u] for u in shown], 0.26, rotation=0.0, centre=0.0)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=_POINTS)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        several = "" if errors is None else ", ± standard error" + ", at most" * (len(rows) > 1)
        unit = cut(drawable(payload["method"]["unit"]), 2 * _LABEL)
        axes.set_xlabel(unit + several, fontsize=_POINTS)
        literally([axes.xaxis.label])
        _title(axes, payload, outputs, len(ordinary) - len(shown), scale)
    return figure


def _ordinary(payload: Mapping[str, Any]) -> list[int]:
    return [u for u, unit in enumerate(payload["units"]) if not unit["special"]]


def _summed(scores: Sequence[Sequence[float]] | None, rows: Sequence[int]) -> list[float] | None:
    """Over these rows; of errors the most that the error of a sum can be."""
    return None if scores is None else [sum((scores[row][u] for row in rows), 0.0) for u in range(len(scores[0]))]


def _fit(
    payload: Mapping[str, Any], scores: np.ndarray, rows: Sequence[int], errors: list[float] | None = None
) -> Scale:
    """The scale of these scores of ordinary units."""
    ordinary = _ordinary(payload)
    anywhere = max((abs(row[u]) for row in payload["scores"] for u in ordinary), default=0.0)
    if errors is None and payload["errors"] is not None:
        errors = [payload["errors"][row][u] for row in rows for u in ordinary]
    return fit(scores.ravel().tolist(), payload["method"]["unit"], anywhere=anywhere, errors=errors)


def _names(payload: Mapping[str, Any]) -> list[str]:
    """What every unit is called, repeated names told apart by their place."""
    return cut_names([drawable(_stripped(unit["name"] or unit["text"])) for unit in payload["units"]], _LABEL)


def _output_names(payload: Mapping[str, Any], outputs: Sequence[int]) -> list[str]:
    """What every row is called."""
    texts = [_stripped(output["text"]) for output in payload["outputs"]]
    if payload["per_output"]:
        names = cut_names([drawable(text) for text in texts], _LABEL)
        return [names[output] for output in outputs]
    return [cut(drawable("".join(output["text"] for output in payload["outputs"]).strip()), _LABEL)]


def _stripped(text: str) -> str:
    return text.strip() or text


def _matrix_size(columns: int, rows: int) -> tuple[float, float]:
    """Width and height of a heat map without its labels, in inches."""
    width = max(columns * (_FEW if columns <= 12 else _CELL), 2.0)
    return width, min(max(rows * _CELL, 0.5), _TALLEST)


def _length(labels: Sequence[str]) -> float:
    """About how long the longest label is, in inches."""
    return max(map(cell_len, labels), default=0) * _POINTS / 72 * 0.65


def _axes(axes: Axes | None, size: tuple[float, float], margin: tuple[float, float]) -> tuple[Figure, Axes]:
    """Where to draw: the given axes and their figure, or new ones of `size` inches, and with so many around them."""
    if axes is None:
        title = 0.6
        figure = ResultFigure(figsize=(size[0] + margin[0], size[1] + margin[1] + title), layout="constrained")
        return figure, figure.add_subplot()
    figure = axes.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    return figure, axes


def _colours(signed: bool, weak: bool) -> Colormap:
    """From strongly against to strongly for, zero in the middle; or from nothing to strong; or nothing coloured."""
    if weak:
        return ListedColormap([_NOTHING])
    ends = [*_OPPOSES, _NOTHING, *_SUPPORTS] if signed else [_NOTHING, *_SUPPORTS]
    # The lighter of each pair of colours is where a weak score begins, next to zero.
    places = [0.0, 0.4, 0.5, 0.6, 1.0] if signed else [0.0, 0.2, 1.0]
    return LinearSegmentedColormap.from_list("attribution", list(zip(places, ends, strict=True)), N=511)


def _ticks(
    axes: Axes, which: Literal["x", "y"], names: Sequence[str], room: float, *, rotation: float, centre: float = 0.5
) -> None:
    """Names at their places, literally; where they would overlap, those of every so many."""
    points = min(_POINTS, room * 72 * 0.8)
    step = 1 if points >= _SMALLEST else int(np.ceil(_SMALLEST / points))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks([place + centre for place in range(0, len(names), step)])
    # The labels come after the ticks, since those that matplotlib makes with them are read as formulas.
    axis.set_ticklabels(list(names[::step]))
    for label in axis.get_ticklabels():
        label.set_fontsize(max(points, _SMALLEST))
        label.set_rotation(rotation)
        if which == "x":
            label.set_rotation_mode("anchor")
            label.set_horizontalalignment("right")
            label.set_verticalalignment("center" if rotation == 90 else "top")
    literally(axis.get_ticklabels())


def _title(axes: Axes, payload: Mapping[str, Any], outputs: Sequence[int], left_out: int, scale: Scale) -> None:
    """What is shown, and what is not."""
    whole = len(set(outputs)) == len(payload["outputs"])
    texts = "".join(payload["outputs"][o]["text"] for o in outputs).strip()
    asked = "the output" if whole else repr(cut(drawable(texts), _LABEL))
    about = [cut(drawable(payload[name]["name"]), _LABEL) for name in ("method", "model")]
    told = [" · ".join([*about, asked])]
    if left_out:
        told.append(f"{left_out:,} weaker {drawable(kind(cut(payload['granularity'], _LABEL), left_out))} left out")
    if scale.weak:
        told.append(f"Weak signal: {scale.why}, so nothing is coloured")
    title = axes.set_title("\n".join(told), fontsize=_POINTS + 1, loc="left")
    literally([title])
