"""Evaluation: the numbers of many methods on many prompts, and what they say together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attribution.checks import check_count
from attribution.errors import InputError
from attribution.faithfulness.bootstrap import Difference, paired_difference
from attribution.files import check_file, write_file
from attribution.frames import csv_of, frame
from attribution.surfaces import Surfaces, encoded

if TYPE_CHECKING:
    from attribution.views.terminal.evaluation import EvaluationView
    from attribution.views.web.html import HtmlView

SCHEMA = 1
"""Version of the layout of `Evaluation.to_dict`."""

_LOWER = frozenset({"template_share", "irrelevant_share"})
"""Of the scores against planted causes, those of which less is better."""


@dataclass(frozen=True)
class Row:
    """One number: what a metric says of a method on a prompt; where there is none, `reason` says why."""

    prompt: int
    """The place of the prompt in the list that was given."""
    family: str
    """The family of a planted prompt; empty for another."""
    method: str
    metric: str
    absent: str
    """The meaning of "absent" that was used; empty where nothing is removed."""
    value: float | None
    reason: str


@dataclass(frozen=True)
class Spending:
    """What explaining one prompt by a method took; counts are None for scores that were computed elsewhere."""

    prompt: int
    method: str
    forwards: int | None
    backwards: int | None
    tokens: int | None
    seconds: float


@dataclass(frozen=True)
class Standing:
    """Where a method stands by one metric under one meaning of "absent"."""

    method: str
    metric: str
    absent: str
    better: Literal["higher", "lower"]
    n: int
    """How many prompts the mean is of."""
    of: int
    """On how many prompts the metric was asked."""
    mean: float | None
    """None where no prompt has a number."""
    to_random: Difference | None
    """By how much it is above a random order, on the same prompts; None for that order itself."""
    to_leave_one_out: Difference | None
    """By how much it is above exact leave-one-out, on the same prompts; None for leave-one-out itself."""


@dataclass(frozen=True)
class Evaluation(Surfaces):
    """What `evaluate` has found: a table of methods and metrics, and every number behind it."""

    rows: tuple[Row, ...]
    costs: tuple[Spending, ...]
    settings: Mapping[str, Any]
    """`methods` and `metrics` with their labels and options, `ablations`, `units`, `target`, `max_new_tokens`, `seed`,
    `resamples` and `n_prompts`."""
    model: Mapping[str, Any]
    """The model that was asked: `name`, `architecture`, `dtype`, `revision`."""

    def summary(self, family: str | None = None) -> tuple[Standing, ...]:
        """Where every method stands by every metric, over all prompts or those of one family of planted prompts.

        The intervals are of 95%, from a percentile bootstrap over the prompts that both methods have a number for,
        paired by prompt (see `bootstrap.paired_difference`). Every cell is looked at by itself: of twenty differences
        that are none, about one is held for one. Raises `InputError` for a family that no prompt is of.
        """
        known = sorted({row.family for row in self.rows} - {""})
        if family is not None and family not in known:
            raise InputError(
                f"Expected a family out of {', '.join(known) or 'those of planted prompts'}, got {family!r}."
            )
        table: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
        prompts: dict[tuple[str, str], set[int]] = {}
        for row in self.rows:
            if family is not None and row.family != family:
                continue
            prompts.setdefault((row.absent, row.metric), set()).add(row.prompt)
            own = table.setdefault((row.absent, row.metric), {}).setdefault(row.method, {})
            if row.value is not None:
                own[row.prompt] = row.value
        directions: dict[str, Any] = {metric["label"]: metric["better"] for metric in self.settings["metrics"]}
        found: list[Standing] = []
        for (absent, metric), by_method in table.items():
            for method, values in by_method.items():
                found.append(
                    Standing(
                        method=method,
                        metric=metric,
                        absent=absent,
                        better=directions.get(metric, "lower" if metric in _LOWER else "higher"),
                        n=len(values),
                        of=len(prompts[absent, metric]),
                        mean=float(np.mean(list(values.values()))) if values else None,
                        to_random=self._difference(by_method, method, "random"),
                        to_leave_one_out=self._difference(by_method, method, "leave_one_out"),
                    )
                )
        return tuple(found)

    def _difference(self, by_method: Mapping[str, Mapping[int, float]], method: str, other: str) -> Difference | None:
        if method == other or other not in by_method:
            return None
        resamples = check_count("resamples", self.settings["resamples"])
        # The same draws of the same prompts for every pair, so that no cell depends on which others there are.
        return paired_difference(by_method[method], by_method[other], resamples=resamples, seed=self.settings["seed"])

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON; `summary` is that of all prompts."""
        return {
            "schema": SCHEMA,
            "model": dict(self.model),
            "settings": dict(self.settings),
            "summary": [_standing(standing) for standing in self.summary()],
            "rows": [asdict(row) for row in self.rows],
            "costs": [asdict(cost) for cost in self.costs],
        }

    def to_frame(self) -> Any:
        """A table with a row for every number: prompt, family, method, metric, absent, value and reason.

        It is of pandas where that is installed, else of polars. Raises `MissingExtraError` where neither is.
        """
        return frame(self._columns())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        r"""Writes the rows and columns of `to_frame` as CSV, in UTF-8; it needs no other library.

        Half a character, which UTF-8 does not have, is written as `\ud800`. Raises what `to_html` raises.
        """
        file = check_file(path)
        write_file(file, encoded(csv_of(self._columns())))

    def to_markdown(self) -> str:
        """The table in Markdown, a block for every meaning of "absent": methods down, metrics across.

        The best of a column is bold; a star marks what is better than a random order, a dagger what is worse, both by
        an interval of at least 6 prompts that 0 is not in.
        """
        from attribution.views.markdown import evaluation_markdown

        return evaluation_markdown(self.to_dict())

    def text_view(self) -> EvaluationView:
        """What a terminal shows. `rich` prints it, `str` makes plain text of it."""
        from attribution.views.terminal.evaluation import EvaluationView

        return EvaluationView(self.to_dict())

    def html_view(self) -> HtmlView:
        """What a browser shows: `page()` is a whole page without scripts, `notebook()` what fits into a notebook."""
        from attribution.views.web.evaluation import EvaluationHtml

        return EvaluationHtml(self.to_dict())

    def _columns(self) -> dict[str, list[Any]]:
        """What a table of it has in each column."""
        names = ("prompt", "family", "method", "metric", "absent", "value", "reason")
        return {name: [getattr(row, name) for row in self.rows] for name in names}


def _standing(standing: Standing) -> dict[str, Any]:
    """It as JSON holds it, with the `side` of 0 on which each difference is."""
    found = asdict(standing)
    for name, difference in (("to_random", standing.to_random), ("to_leave_one_out", standing.to_leave_one_out)):
        if difference is not None:
            found[name]["side"] = difference.side
    return found
