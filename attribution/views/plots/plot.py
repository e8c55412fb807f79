"""Figures of a result for papers and reports, drawn by matplotlib, which is an extra."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attribution.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_matrix(payload: Mapping[str, Any], outputs: Sequence[int], axes: Axes | None = None) -> Figure:
    """A heat map of the scores: output tokens down, units of the prompt across, in the unit of the method.

    `payload` is the dict of a result, `outputs` are the indices of the output tokens to show; a result with scores for
    the output as a whole has one row. Blue supports, orange opposes. Special units are left out, and of more units than
    are readable all but the strongest, which the title says. Drawn into `axes` where given, else into a figure of its
    own that knows nothing of pyplot.

    Raises `MissingExtraError` where matplotlib is not installed.
    """
    _require_matplotlib()
    from attribution.views.plots import figures

    return figures.matrix(payload, outputs, axes)


def plot_bars(payload: Mapping[str, Any], outputs: Sequence[int], axes: Axes | None = None) -> Figure:
    """Bars of the strongest units, scores summed over the output tokens, with standard errors where there are some.

    Blue supports, orange and hatched opposes; arguments, figure and errors as of `plot_matrix`.
    """
    _require_matplotlib()
    from attribution.views.plots import figures

    return figures.bars(payload, outputs, axes)


def _require_matplotlib() -> None:
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise MissingExtraError(
            "Expected matplotlib to draw figures, which is not installed. Type: pip install 'llm-attribution[plot]'"
        ) from error
