"""Contenders: whatever gives the units of a prompt scores and is measured: methods, scores of others, and baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any, cast

import numpy as np
from jaxtyping import Float64

from attribution.errors import InputError
from attribution.faithfulness.case import LEAVE_ONE_OUT, Case, label
from attribution.faithfulness.journal import Entry, Spent, Value
from attribution.method import CHOSEN, EXACT, Method, build_method, check_extra, list_methods
from attribution.models.local import LocalModel
from attribution.result import Attribution

PAIRS = 3
"""How many random orders, and as many reversed ones, a random order's numbers are the mean over."""

RANDOM, POSITION = "random", "position"

_RESERVED = (RANDOM, POSITION, LEAVE_ONE_OUT, *CHOSEN)


@dataclass(frozen=True)
class Scorer:
    """Scores of somebody's own, or of another library, to be measured like those of a method.

    `function(model, result)` gives float `[target, unit]`: a row for each of `result.scores`. The result has the units,
    the outputs and the ids of the prompt, and scores of 0. Where it has `output_scores` too, since earlier output
    tokens are units as well, there may be as many columns more for these; without them they get 0. `signed` is False
    where a score says how much, and not which way. What the function raises ends the run, unless it is an
    `AttributionError`: then it is why a number is missing.
    """

    name: str
    function: Callable[[LocalModel, Attribution], Any]
    signed: bool = True


AnyMethod = str | Method | Scorer
"""What `evaluate` takes as one method."""


class Contender(ABC):
    """One row of the table. `label` names it, and the same label means the same scores."""

    label: str
    name: str
    options: dict[str, Any]

    @abstractmethod
    def entry(self, case: Case) -> Entry:
        """Its numbers on a prompt, and what they took; raises what `explain` raises."""

    @property
    def is_baseline(self) -> bool:
        """Whether it is there for others to be held against."""
        return self.label in (RANDOM, POSITION, LEAVE_ONE_OUT)


class _Explained(Contender):
    """A method of ours."""

    def __init__(self, method: Method) -> None:
        self.label, self.name, self.options = label(method), method.name, method.options
        self._method = method

    def entry(self, case: Case) -> Entry:
        if self.label == LEAVE_ONE_OUT:
            return case.leave_one_out
        result, cost = case.explain(self._method)
        return Entry(case.measure([result], explained=True), cost)


class _Scored(Contender):
    """Scores of somebody's own."""

    def __init__(self, scorer: Scorer) -> None:
        self.label, self.name, self.options = scorer.name, scorer.name, {}
        self._scorer = scorer

    def entry(self, case: Case) -> Entry:
        scorer, begun = self._scorer, perf_counter()
        skeleton = case.skeleton(scorer.name, signed=scorer.signed)
        given: Any = scorer.function(case.model, skeleton)
        spent = Spent(None, None, None, perf_counter() - begun)
        try:
            scores = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise _misfit(scorer, skeleton, type(given).__name__) from error
        n_rows, n_units = skeleton.scores.shape
        more = len(skeleton.outputs) if case.has_output_units else 0
        if scores.shape not in ((n_rows, n_units), (n_rows, n_units + more)):
            raise _misfit(scorer, skeleton, f"shape {scores.shape}")
        if not np.isfinite(scores).all():
            raise _misfit(scorer, skeleton, "NaN or infinity")
        earlier = None
        if more:  # what it says nothing of does nothing
            earlier = np.zeros((n_rows, more))
            earlier[:, : scores.shape[1] - n_units] = scores[:, n_units:]
            earlier = np.tril(earlier, -1) if skeleton.per_output else earlier
        result = case.result_of(scorer.name, scores[:, :n_units], signed=scorer.signed, output_scores=earlier)
        return Entry(case.measure([result], explained=False), spent)


class ScorerMistakeError(InputError):
    """A scorer gave what are no scores: a mistake in it, which ends the run."""


def _misfit(scorer: Scorer, skeleton: Attribution, came: str) -> ScorerMistakeError:
    return ScorerMistakeError(
        f"Expected finite scores of shape {skeleton.scores.shape} from the scorer {scorer.name!r}, a row for each "
        f"output and a column for each unit, got {came}. Type np.zeros_like(result.scores), and fill that."
    )


class _Ordered(Contender):
    """Scores that know nothing of the model: the units in some orders, evenly spaced from -1 to 1."""

    def __init__(self, label: str, seed: int) -> None:
        self.label, self.name = label, label
        self.options = {"orders": 2 * PAIRS} if label == RANDOM else {}
        self._seed = seed

    def entry(self, case: Case) -> Entry:
        begun = perf_counter()
        skeleton = case.skeleton(self.label)
        n = len(skeleton.units) + len(skeleton.outputs) * case.has_output_units
        if self.label == POSITION:
            orders = [np.arange(n)]
        else:
            # Each prompt has orders of its own. An order and its reverse share their masks, and cancel out.
            rng = np.random.default_rng([self._seed, int(case.asked.digest[:8], 16)])
            drawn = [rng.permutation(n) for _ in range(PAIRS)]
            orders = [order for one in drawn for order in (one, n - 1 - one)]
        results = [self._result(case, skeleton, (2 * order + 1.0 - n) / n) for order in orders]
        spent = Spent(0, 0, 0, perf_counter() - begun)
        measured = case.measure(results, explained=False)
        return Entry(tuple(_without_size(value) for value in measured), spent)

    def _result(self, case: Case, skeleton: Attribution, scores: Float64[np.ndarray, " place"]) -> Attribution:
        """These scores of units, and of earlier output tokens behind them, for every output."""
        rows = np.tile(scores, (len(skeleton.scores), 1))
        own, earlier = np.split(rows, [len(skeleton.units)], axis=1)
        if skeleton.per_output:
            earlier = np.tril(earlier, -1)
        return case.result_of(self.label, own, output_scores=earlier if case.has_output_units else None)


def _without_size(value: Value) -> Value:
    """The same, but for what is of the size of scores, which places in an order do not have."""
    if value.metric != "magnitude_auroc":
        return value
    return value._replace(value=None, reason="places in an order have no size")


def baselines(seed: int) -> list[Contender]:
    """What every method is held against: a random order, the order of the prompt, and exact leave-one-out."""
    return [_Ordered(RANDOM, seed), _Ordered(POSITION, seed), _Explained(build_method(LEAVE_ONE_OUT))]


def check_methods(methods: object) -> list[Contender]:
    """These methods as contenders, each once.

    Raises `InputError` for what is no method and for two scorers of one name or one with the name of a method,
    `MissingExtraError` for a method whose package is not installed.
    """
    if isinstance(methods, (str, Method, Scorer)) or not isinstance(methods, Sequence):
        raise InputError(f'Expected a list of methods, got {type(methods).__name__}. Type methods=["saliency"].')
    found: dict[str, Contender] = {}
    for given in cast("Sequence[Any]", methods):
        contender = _contender(given)
        if contender.label in found and isinstance(given, Scorer):
            raise InputError(f"Expected a name of its own for each scorer, got {given.name!r} twice.")
        found[contender.label] = contender
    return list(found.values())


def _contender(given: Any) -> Contender:
    if isinstance(given, Scorer):
        if not isinstance(given.name, str) or not given.name or given.name in _RESERVED:
            raise InputError(
                f"Expected a scorer with a name of its own, got {given.name!r}. {', '.join(_RESERVED)} are those of "
                "the baselines, which are measured in any case, and of the methods that the board chose."
            )
        if not callable(given.function):
            raise InputError(f"Expected a function of a model and a result, got {type(given.function).__name__}.")
        return _Scored(given)
    method = build_method(given)
    if method.extra is not None:
        check_extra(method.name, method.extra)
    return _Explained(method)


def suited(methods: Sequence[AnyMethod], is_able: Callable[[Method], bool]) -> list[AnyMethod]:
    """The same methods, with leave-one-out in the place of what the board chose where that is not able."""
    return [
        EXACT if isinstance(each, str) and each in CHOSEN and not is_able(build_method(each)) else each
        for each in methods
    ]


def suitable(is_able: Callable[[Method], bool]) -> list[Contender]:
    """Every method that is able and whose package is installed, with its default options."""
    installed = [method for method in list_methods() if method.extra is None or find_spec(method.extra) is not None]
    return [_Explained(method) for method in installed if is_able(method)]
