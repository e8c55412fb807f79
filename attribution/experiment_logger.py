"""ExperimentLogger: a table of what was asked, what it took, and what every part of the prompt scored."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast

import numpy as np

from attribution.errors import InputError, ResultFileError
from attribution.files import check_file, write_file
from attribution.frames import csv_of, frame
from attribution.models.api.secret import HIDDEN, Secret
from attribution.models.api.tally import Tally
from attribution.result import Attribution
from attribution.views.words import visible

SCHEMA = 1
"""Version of saved logs. A file with a higher one is refused."""

Table = Literal["experiments", "scores", "totals"]

_KIND = "attribution experiments"
_SHOWN, _SHORT = 20, 40
"""Experiments, and characters of a text, that are shown; tables and files have all."""

_SEEN = ("started", "model", "method", "perturbation", "attribution", "unit", "calls", "seconds", "prompt", "output")


@dataclass(frozen=True)
class Experiment:
    """One experiment: what was asked, what it took and what came of it.

    `started` is a time in UTC; `attribution` and `perturbation` are the strategies, `target` and `method` what
    `explain` calls them. `road` says what the numbers rest on ("scored", "likeliest" or "texts", empty for a model
    that runs here). `prompts` counts ablated prompts, `calls` those sent for them and all else, `cached` replies that
    were on the disk; `cost` is in the prices' currency, None without prices. `partial` where a budget ended before.

    `scores` are those of each of the `outputs`, of each of the `units`; one row where the output was scored as a whole.
    """

    started: str
    model: str
    endpoint: str
    prompt: str
    output: str
    method: str
    perturbation: str
    attribution: str
    target: str
    unit: str
    road: str
    prompts: int
    calls: int
    cached: int
    tokens: int
    cost: float | None
    seconds: float
    partial: bool
    seed: int
    outputs: tuple[str, ...]
    units: tuple[Mapping[str, Any], ...]
    scores: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Experiment:
        """The one that a file says; `ValueError` or `TypeError` where that is damaged."""
        known = dict(content)
        for name in ("outputs", "units"):
            known[name] = tuple(known[name])
        known["scores"] = tuple(map(tuple, known["scores"]))
        found = cls(**known)
        wrong = [each.name for each in fields(found) if not _RIGHT[str(each.type)](getattr(found, each.name))]
        sizes = {len(row) for row in found.scores}
        if wrong or sizes != {len(found.units)} or len(found.scores) != len(found.outputs):
            raise ValueError(f"damaged in {', '.join(wrong) or 'scores'}")
        return found

    @property
    def columns(self) -> dict[str, Any]:
        """All but what is in the tables of scores."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _INNER}


_INNER = ("outputs", "units", "scores")
"""Fields that have more than one value, which are in tables of their own."""

_UNIT: Mapping[str, type] = {"text": str, "start": int, "end": int, "role": str, "special": bool}
"""What a table says of a unit, under these names."""


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast(float, value))


def _is_unit(value: object) -> bool:
    given = cast("dict[str, Any]", value)
    return isinstance(value, dict) and {name: type(each) for name, each in given.items()} == _UNIT


_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: type(value) is int,
    "bool": lambda value: isinstance(value, bool),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[str, ...]": lambda value: all(isinstance(each, str) for each in value),
    "tuple[Mapping[str, Any], ...]": lambda value: all(map(_is_unit, value)),
    "tuple[tuple[float, ...], ...]": lambda value: all(_is_number(each) for row in value for each in row),
}
"""Whether a value is what a field of this type may have."""


class ExperimentLogger:
    """Experiments and their scores, in the order they came; several threads and coroutines may add to one.

    Tables are named `"experiments"`, one row for each; `"scores"`, one row for each unit and output token of each; and
    `"totals"`, one row for each unit, summed over the output. The column `experiment` counts from 0 and joins them.

    It is kept as JSON: opening a file runs nothing. Keys of endpoints are in none of it.

    >>> ExperimentLogger()
    <ExperimentLogger with 0 experiments>
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._experiments: list[Experiment] = []

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """Those that were added until now."""
        with self._lock:
            return tuple(self._experiments)

    def __len__(self) -> int:
        return len(self.experiments)

    def add(
        self,
        result: Attribution,
        *,
        perturbation: str = "",
        attribution: str = "",
        started: datetime | None = None,
        seconds: float = 0.0,
        spent: Tally | None = None,
        secret: Secret | None = None,
    ) -> int:
        """Adds an experiment that gave this result, and tells its number.

        `perturbation` is what stood for absent units, by default what the result says; `attribution` what was
        scored; `started` a time, by default now; `seconds` how long it took; `spent` what was asked of an endpoint, by
        default what the result says. Where the `secret` stands in a text, `***` stands there in its place.
        """
        if not isinstance(result, Attribution):
            raise InputError(f"Expected a result to log, got {type(result).__name__}. Pass what explain gave.")
        known = result.notes.get("calls", {})
        told = Tally(known.get("sent", 0), 0, known.get("cached", 0), result.cost["tokens"], known.get("cost", 0.0))
        taken = spent or told
        tell = _hider(secret)
        rows = [output.text for output in result.outputs] if result.per_output else [result.output]
        found = Experiment(
            started=(started or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds"),
            model=tell(result.model["name"]),
            endpoint=tell(result.model.get("endpoint", "")),
            prompt=tell(result.prompt),
            output=tell(result.output),
            method=result.method["name"],
            perturbation=tell(perturbation or result.ablation or ""),
            attribution=tell(attribution),
            target=result.target,
            unit=result.granularity,
            road=result.notes.get("evidence", {}).get("road", ""),
            prompts=result.cost["forwards"],
            calls=taken.sent,
            cached=taken.cached,
            tokens=taken.tokens,
            cost=taken.cost if "cost" in known else None,
            seconds=float(seconds),
            partial=bool(result.notes.get("partial", False)),
            seed=result.seed,
            outputs=_all_told(rows, result.output, tell),
            units=_units(result, tell),
            scores=tuple(map(tuple, result.scores.tolist())),
        )
        with self._lock:
            self._experiments.append(found)
            return len(self._experiments) - 1

    # Tables

    def to_frame(self, table: Table = "experiments") -> Any:
        """One of the tables, of pandas where that is installed, else of polars.

        Raises `InputError` for another name, `MissingExtraError` where neither is installed.
        """
        return frame(self._columns(table))

    def to_csv(self, path: str | os.PathLike[str], table: Table = "experiments") -> None:
        r"""Writes one of the tables as CSV, in UTF-8, with `\ud800` for half a character; raises what `save` raises."""
        columns = self._columns(table)
        write_file(check_file(path), csv_of(columns).encode("utf-8", "backslashreplace"))

    def _columns(self, table: str) -> dict[str, list[Any]]:
        """What a table has in each column."""
        makers = {"experiments": _experiment_rows, "scores": _score_rows, "totals": _total_rows}
        if table not in makers:
            raise InputError(f"Expected a table out of {', '.join(map(repr, makers))}, got {table!r}.")
        columns: dict[str, list[Any]] = {name: [] for name in _NAMES[table]}
        for number, experiment in enumerate(self.experiments):
            for row in makers[table](experiment):
                for name, cell in zip(columns, (number, *row), strict=True):
                    columns[name].append(cell)
        return columns

    # Keeping it

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it as JSON; an existing file is replaced once the new one is whole.

        Raises `InputError` where the folder does not exist, `ResultFileError` where the file cannot be written.
        """
        file = check_file(path)
        own = self.experiments
        content = {"kind": _KIND, "schema": SCHEMA, "experiments": [asdict(each) for each in own]}
        text = json.dumps(content, allow_nan=False)
        if tuple(map(Experiment.read, json.loads(text)["experiments"])) != own:
            raise ResultFileError(
                "The log cannot be written: a text in it has halves of characters that a file would join into one. "
                "Replace them in the prompt."
            )
        write_file(file, (text + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ExperimentLogger:
        """The log that `save` wrote, to which more can be added.

        Raises `ResultFileError` for a file that is missing, damaged, no log, or written by a newer version.
        """
        name = str(path)
        try:
            content = json.loads(Path(path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ResultFileError(f"No log can be read from {name!r}: {error}") from error
        if not isinstance(content, dict) or cast("dict[str, Any]", content).get("kind") != _KIND:
            raise ResultFileError(f"{name!r} is JSON, but no log of this library.")
        known = cast("dict[str, Any]", content)
        schema = known.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise ResultFileError(
                f"{name!r} was written by a newer version (schema {schema}, this one reads up to {SCHEMA}). "
                "Type: pip install -U llm-attribution"
            )
        own = cls()
        try:
            own._experiments.extend(map(Experiment.read, known["experiments"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResultFileError(f"The log in {name!r} is damaged: {error!r}") from error
        return own

    # Seeing it

    def __repr__(self) -> str:
        count = len(self)
        return f"<ExperimentLogger with {count} experiment{'s' * (count != 1)}>"

    def __str__(self) -> str:
        lines = [repr(self), *("  ".join(cells) for cells in self._shown())]
        return "\n".join([*lines, *self._left_out()])

    def _repr_html_(self) -> str:
        """The last experiments as a table for a notebook."""
        head = "".join(f"<th>{name}</th>" for name in ("experiment", *_SEEN))
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in self._shown()]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        told = "".join(f"<p>{line}</p>" for line in self._left_out())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{told}"

    def _shown(self) -> Iterator[list[str]]:
        """The cells of the last experiments, none of them long, and nothing in them that a terminal would act upon."""
        numbered = list(enumerate(self.experiments))[-_SHOWN:]
        for number, experiment in numbered:
            yield [str(number), *(_cell(getattr(experiment, name)) for name in _SEEN)]

    def _left_out(self) -> list[str]:
        more = len(self) - _SHOWN
        return [f"and {more} before them: to_frame() has all"] if more > 0 else []


_NAMES: Mapping[str, tuple[str, ...]] = {
    "experiments": ("experiment", *(each.name for each in fields(Experiment) if each.name not in _INNER)),
    "scores": ("experiment", "output", "output_text", "unit", "unit_text", "start", "end", "role", "special", "score"),
    "totals": ("experiment", "unit", "unit_text", "start", "end", "role", "special", "score"),
}
"""The columns of each table."""


def _experiment_rows(experiment: Experiment) -> Iterator[tuple[Any, ...]]:
    yield tuple(experiment.columns.values())


def _score_rows(experiment: Experiment) -> Iterator[tuple[Any, ...]]:
    for output, (text, row) in enumerate(zip(experiment.outputs, experiment.scores, strict=True)):
        for unit, (about, score) in enumerate(zip(experiment.units, row, strict=True)):
            yield (output, text, unit, *(about[name] for name in _UNIT), score)


def _total_rows(experiment: Experiment) -> Iterator[tuple[Any, ...]]:
    # As `Attribution.total` gives them, to the last digit.
    totals = np.sum(np.array(experiment.scores, dtype=np.float64), axis=0).astype(np.float32)
    for unit, (about, score) in enumerate(zip(experiment.units, totals.tolist(), strict=True)):
        yield (unit, *(about[name] for name in _UNIT), score)


def _units(result: Attribution, tell: Callable[[str], str]) -> tuple[dict[str, Any], ...]:
    texts = _all_told([unit.text for unit in result.units], result.prompt, tell)
    return tuple(
        {"text": text, "start": unit.start, "end": unit.end, "role": unit.role, "special": unit.special}
        for text, unit in zip(texts, result.units, strict=True)
    )


def _hider(secret: Secret | None) -> Callable[[str], str]:
    """Puts `***` where the key stands in a text; a key so short that it may stand there by chance is left."""
    if secret is None:
        return str
    return lambda text: secret.hide(text) if secret.is_in(text) else text


def _all_told(parts: Sequence[str], whole: str, tell: Callable[[str], str]) -> tuple[str, ...]:
    """The parts of a text; all hidden where the key stands in it, for each may have a piece of that."""
    return tuple(parts) if tell(whole) == whole else (HIDDEN,) * len(parts)


def _cell(value: object) -> str:
    """What is shown of a value."""
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return visible(text if len(text) <= _SHORT else text[: _SHORT - 1] + "…")
