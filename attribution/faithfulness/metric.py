"""Metric: what every metric of faithfulness is, and how metrics are found by name.

A new metric is a class in a file of `attribution/faithfulness/metrics/`, where metrics of one idea stand together: it
then appears wherever metrics are listed, with no other edit. Its name is that of the class, in lower case with
underscores.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from attribution.discovery import discover
from attribution.errors import InputError
from attribution.outputs import Outputs
from attribution.problem import Need, Problem
from attribution.result import Attribution


@dataclass(frozen=True)
class Metric(ABC):
    """A number that says how faithful a result is; its fields are its options.

    The first line of its docstring says what the number is, the rest has the exact definition and its source.
    `better` says which way is better, `low` and `high` what it can be at least and at most (None without a limit).
    `needs` names what of a problem it uses beyond what the result says.
    """

    better: ClassVar[Literal["higher", "lower"]]
    low: ClassVar[float | None] = None
    high: ClassVar[float | None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    perturbs: ClassVar[Literal["prompt", "embeddings", "weights"]] = "prompt"
    """What it changes to see what becomes of the target or of the scores."""
    is_asked_anew: ClassVar[bool] = False
    """Whether it explains again by the method of the result, which costs as much each time. Then it needs a result of
    `explain` and a problem of a model that runs here, and explains with the result's own meaning of absent."""

    @abstractmethod
    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        """The number for the scores of these outputs (see `Attribution.total`), asked of a problem of the result.

        The problem has the result's units and a target for every row of its scores; what an absent unit means is the
        problem's own, which may be another than that of the result. NaN where the number is not defined. `seed` is of
        all randomness: ties, masks, noise. Raises `InputError` where result and problem do not belong together, and
        `BudgetError` where the problem does not answer all that is asked.
        """

    @property
    def name(self) -> str:
        """The name it is found by."""
        return _name(type(self))

    @property
    def summary(self) -> str:
        """What the number is, in one line."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their values."""
        return asdict(self)


def list_metrics() -> tuple[Metric, ...]:
    """Every metric with its default options, by name; each knows its `summary`, `better`, `low`, `high` and `needs`.

    >>> [metric.name for metric in list_metrics() if metric.is_asked_anew]
    ['max_sensitivity', 'randomisation']
    """
    return tuple(kind() for kind in _discover().values())


def build_metric(metric: str | Metric) -> Metric:
    """The metric of this name with its default options, or the metric itself.

    Raises `InputError` for a name that no metric has, with those there are, and for anything that is no metric.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type):
        raise InputError(f"Expected a metric, got the class {metric.__name__}. Type {metric.__name__}() instead.")
    if not isinstance(metric, str):
        raise InputError(f"Expected a metric's name or a Metric with its options, got {type(metric).__name__}.")
    known = _discover()
    if metric not in known:
        raise InputError(f"Expected a metric out of {', '.join(known)}, got {metric!r}.")
    return known[metric]()


def _name(kind: type[Metric]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@cache
def _discover() -> dict[str, type[Metric]]:
    files = discover("attribution.faithfulness.metrics", Metric).values()
    found = {_name(kind): kind for kinds in files for kind in kinds}
    return dict(sorted(found.items()))
