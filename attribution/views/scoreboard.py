"""A scoreboard: the table of an evaluation, cell by cell, as every view of it shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attribution.views.words import number

BETTER, WORSE = "*", "†"
"""After a mean: better, or worse, than a random order by an interval that 0 is not in."""

LEGEND = (
    "↑ more is better, ↓ less is better; the best of a column is bold",
    f"{BETTER} better than a random order, {WORSE} worse: 0 is outside of the 95% interval of the mean difference "
    "(percentile bootstrap over prompts, paired by prompt; at least 6 of them)",
    "(n/of): the mean is of fewer prompts than the metric was asked on",
)
"""What the marks mean, a sentence each."""

_ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Cell:
    """A mean with its marks, and the differences behind them in words; `text` is empty where there is no number."""

    text: str
    mark: str = ""
    counted: str = ""
    """How many prompts the mean is of, where these are not all."""
    best: bool = False
    to_random: str = ""
    to_leave_one_out: str = ""


@dataclass(frozen=True)
class Block:
    """The table of one meaning of "absent": its title, the metrics across, and for every method its cells."""

    title: str
    metrics: tuple[str, ...]
    arrows: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Expense:
    """What a method took for a prompt on average, in words."""

    method: str
    n: int
    forwards: str
    backwards: str
    tokens: str
    seconds: str


def blocks(payload: Mapping[str, Any]) -> list[Block]:
    """The tables of an evaluation, given as its dict."""
    by_absent: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for standing in payload["summary"]:
        own = by_absent.setdefault(standing["absent"], {}).setdefault(standing["metric"], {})
        own[standing["method"]] = standing
    methods: list[str] = [method["label"] for method in payload["settings"]["methods"]]
    found: list[Block] = []
    for absent, by_metric in by_absent.items():
        columns = [_column(standings, methods) for standings in by_metric.values()]
        rows = [(method, tuple(column[method] for column in columns)) for method in methods]
        title = f"absent: {absent}" if absent else "without removing anything"
        arrows = [_ARROWS[next(iter(standings.values()))["better"]] for standings in by_metric.values()]
        found.append(Block(title, tuple(by_metric), tuple(arrows), tuple(rows)))
    return found


def expenses(payload: Mapping[str, Any]) -> list[Expense]:
    """What every method took on average, in the order of the methods."""
    found: list[Expense] = []
    for method in payload["settings"]["methods"]:
        own = [cost for cost in payload["costs"] if cost["method"] == method["label"]]
        if own:
            forwards, backwards, tokens = (
                _mean([cost[name] for cost in own]) for name in ("forwards", "backwards", "tokens")
            )
            seconds = sum(cost["seconds"] for cost in own) / len(own)
            found.append(Expense(method["label"], len(own), forwards, backwards, tokens, f"{seconds:.3f}"))
    return found


def gaps(payload: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Why numbers are missing: method, reason, and on how many prompts."""
    prompts: dict[tuple[str, str], set[int]] = {}
    for row in payload["rows"]:
        if row["value"] is None:
            prompts.setdefault((row["method"], row["reason"]), set()).add(row["prompt"])
    return [(method, reason, len(where)) for (method, reason), where in prompts.items()]


def about(payload: Mapping[str, Any]) -> str:
    """What was measured, in a line; it has names that others wrote."""
    settings, count = payload["settings"], payload["settings"]["n_prompts"]
    told = [
        f"evaluation of {payload['model']['name']}",
        f"{count} prompt{'s' * (count != 1)}",
        f"units: {settings['units']}",
        f"target: {settings['target']}",
        f"seed {settings['seed']}",
    ]
    return " · ".join(told)


def _column(standings: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Cell]:
    """The cells of one metric by method."""
    asked = max(standing["of"] for standing in standings.values())
    means = [abs(standing["mean"]) for standing in standings.values() if standing["mean"] is not None]
    largest = max(means, default=0.0)
    most = max(standing["n"] for standing in standings.values())
    # A mean over fewer prompts is not of the same thing.
    rivals = {
        method: standing["mean"] * (1 if standing["better"] == "higher" else -1)
        for method, standing in standings.items()
        if standing["mean"] is not None and standing["n"] == most
    }
    top = max(rivals.values(), default=None)
    empty = {method: Cell("", counted=f"0/{asked}") for method in methods}
    return empty | {
        method: _cell(standing, largest, best=method in rivals and rivals[method] == top)
        for method, standing in standings.items()
    }


def _cell(standing: Mapping[str, Any], largest: float, *, best: bool) -> Cell:
    if standing["mean"] is None:
        return Cell("", counted=f"0/{standing['of']}")
    return Cell(
        number(standing["mean"], largest, signed=standing["mean"] < 0),
        _mark(standing["to_random"], standing["better"]),
        f"{standing['n']}/{standing['of']}" if standing["n"] < standing["of"] else "",
        best,
        _difference(standing["to_random"], largest),
        _difference(standing["to_leave_one_out"], largest),
    )


def _mark(difference: Mapping[str, Any] | None, better: str) -> str:
    if difference is None or not difference["side"]:
        return ""
    return BETTER if (difference["side"] > 0) == (better == "higher") else WORSE


def _difference(difference: Mapping[str, Any] | None, largest: float) -> str:
    """Such as "+0.120 [+0.034, +0.201]"."""
    if difference is None:
        return ""
    told = number(difference["mean"], largest)
    if difference["low"] is None:
        return told
    return f"{told} [{number(difference['low'], largest)}, {number(difference['high'], largest)}]"


def _mean(counts: list[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known) / len(known):,.0f}" if known else "–"
