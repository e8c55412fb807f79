"""Case: one prompt that methods are measured on, its output, its explanations and what ablated prompts answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
from jaxtyping import Float

from attribution.absence import Replace
from attribution.errors import AttributionError, InputError
from attribution.explainer import explain
from attribution.faithfulness.journal import Entry, Spent, Value
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.samples import Asked
from attribution.local_problem import LocalProblem
from attribution.method import Method, build_method
from attribution.models.local import LocalModel
from attribution.planted.confirmation import confirm
from attribution.planted.scores import SCORES, score
from attribution.prompts.units import Units, check_units
from attribution.question import ask
from attribution.result import Attribution
from attribution.target import Contrast, Semantic

LEAVE_ONE_OUT = "leave_one_out"


@dataclass(frozen=True)
class Plan:
    """What is measured of every prompt, and how."""

    metrics: tuple[Metric, ...]
    ablations: tuple[str | Replace, ...]
    units: Units
    target: str | Contrast | Semantic
    max_new_tokens: int
    seed: int

    @property
    def asked(self) -> list[tuple[Metric, str]]:
        """Every metric with every meaning of "absent" that it is measured under, empty where it removes nothing."""
        return [
            *((metric, str(absent)) for absent in self.ablations for metric in self.metrics if removes(metric)),
            *((metric, "") for metric in self.metrics if not removes(metric)),
        ]


def removes(metric: Metric) -> bool:
    """Whether the metric asks what the model does without some units, so that it matters what "absent" means."""
    return metric.perturbs == "prompt"


def label(thing: Method | Metric) -> str:
    """The name of a method or metric, with those of its options that are not as they are by default."""
    defaults = {field.name: _default(field) for field in fields(thing)}
    changed = [f"{name}={value!r}" for name, value in thing.options.items() if value != defaults.get(name, MISSING)]
    return f"{thing.name}({', '.join(changed)})" if changed else thing.name


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


class Case:
    """One prompt and its output, ready for many methods.

    What ablated prompts answer while exact leave-one-out is measured is known to every other method, for each meaning
    of "absent". What they ask beyond that each asks for itself, so that its numbers are the same to the last digit
    whichever methods are measured beside it, and in whichever order. Raises what `explain` raises.
    """

    def __init__(self, model: LocalModel, asked: Asked, plan: Plan) -> None:
        self.model = model
        self.asked = asked
        self._plan = plan
        self._units = plan.units if asked.sample.units is None else asked.sample.units
        self._question = ask(
            model, asked.sample.prompt, check_units(self._units), plan.target, asked.sample.output, plan.max_new_tokens
        )
        self._known: dict[str, Any] = {}
        self._base, cost = self.explain(build_method(LEAVE_ONE_OUT))
        self._base.total(asked.sample.outputs)  # a part that the output does not have is said before anything else
        self.leave_one_out = Entry(self.measure([self._base], explained=True), cost)
        """What exact leave-one-out has on this prompt."""

    def explain(self, method: Method) -> tuple[Attribution, Spent]:
        """The result of a method for this prompt and output, and what it took; "absent" means the first meaning."""
        begun = perf_counter()
        result = explain(
            self.model,
            self.asked.sample.prompt,
            output=list(self._question.output),
            method=method,
            units=self._units,
            target=self._plan.target,
            ablation=self._plan.ablations[0],
            seed=self._plan.seed,
        )
        cost = result.cost
        return result, Spent(cost["forwards"], cost["backwards"], cost["tokens"], perf_counter() - begun)

    def result_of(
        self,
        name: str,
        scores: Float[np.ndarray, "target unit"],
        *,
        signed: bool = True,
        output_scores: Float[np.ndarray, "target output"] | None = None,
    ) -> Attribution:
        """These scores as a result for this prompt and output."""
        return replace(
            self._base,
            scores=scores.astype(np.float32),
            output_scores=None if output_scores is None else output_scores.astype(np.float32),
            method={"name": name, "options": {}, "signed": signed, "unit": self._base.method["unit"]},
            ablation=None,
            cost={"forwards": 0, "backwards": 0, "tokens": 0},
            notes=self._question.notes,
            errors=None,
            interactions=(),
            evaluations=None,
        )

    def skeleton(self, name: str, *, signed: bool = True) -> Attribution:
        """A result for this prompt and output in which every score is 0."""
        earlier = self._base.output_scores
        return self.result_of(
            name,
            np.zeros_like(self._base.scores),
            signed=signed,
            output_scores=None if earlier is None else np.zeros_like(earlier),
        )

    @property
    def has_output_units(self) -> bool:
        """Whether earlier output tokens are units too."""
        return self._base.output_scores is not None

    def measure(self, results: Sequence[Attribution], *, explained: bool) -> tuple[Value, ...]:
        """Every number of these results, the mean over them; `explained` where a method of ours can explain again."""
        found: list[Value] = []
        for absent in self._plan.ablations:
            own = [metric for metric in self._plan.metrics if removes(metric)]
            problem = self._problem(absent)
            found += [self._value(metric, str(absent), results, problem, explained) for metric in own]
            self._known.setdefault(str(absent), problem.evaluations)
        others = [metric for metric in self._plan.metrics if not removes(metric)]
        if others:
            problem = self._problem(self._plan.ablations[0])
            found += [self._value(metric, "", results, problem, explained) for metric in others]
        return (*found, *self._planted(results))

    def _problem(self, absent: str | Replace) -> LocalProblem:
        """What is asked of this prompt under a meaning of "absent", with the answers that leave-one-out has needed."""
        question = self._question
        problem = LocalProblem(
            self.model, question.prompt, question.reading, semantic=question.semantic, ablation=absent
        )
        if str(absent) in self._known:
            problem.remember(self._known[str(absent)])
        return problem

    def _value(
        self, metric: Metric, absent: str, results: Sequence[Attribution], problem: LocalProblem, explained: bool
    ) -> Value:
        name = label(metric)
        if metric.is_asked_anew and not explained:
            return Value(name, absent, None, f"{metric.name} explains again, which takes a method of ours")
        for need in sorted(metric.needs):
            if why := problem.lacks(need):
                return Value(name, absent, None, f"{metric.name} needs {need}, which {why}")
        seed, outputs = self._plan.seed, self.asked.sample.outputs
        try:
            return _mean(name, absent, [metric(result, problem, outputs=outputs, seed=seed) for result in results])
        except AttributionError as error:
            return Value(name, absent, None, str(error))

    @cached_property
    def _effects(self) -> tuple[float | None, ...]:
        """What the planted changes of this prompt do, which is asked once."""
        return () if self.asked.planted is None else confirm(self.model, self.asked.planted).effects

    def _planted(self, results: Sequence[Attribution]) -> list[Value]:
        """How well the results find what was planted; nothing for other prompts."""
        planted = self.asked.planted
        if planted is None:
            return []
        try:
            found: list[Mapping[str, float]] = [score(result, planted, self._effects) for result in results]
        except AttributionError as error:
            return [Value(name, "", None, str(error)) for name in SCORES]
        return [_mean(name, "", [numbers[name] for numbers in found]) for name in SCORES]


def failed(plan: Plan, asked: Asked, error: AttributionError) -> Entry:
    """What a method has on a prompt that it cannot explain: the reason, in the place of every number."""
    names = [(label(metric), absent) for metric, absent in plan.asked]
    names += [(name, "") for name in SCORES if asked.planted is not None]
    return Entry(tuple(Value(name, absent, None, str(error)) for name, absent in names), None)


def _mean(metric: str, absent: str, numbers: Sequence[float]) -> Value:
    """The mean of the numbers that are defined."""
    defined = [float(number) for number in numbers if math.isfinite(number)]
    if not defined:
        return Value(metric, absent, None, f"{metric} is not defined here")
    return Value(metric, absent, math.fsum(defined) / len(defined), "")


def able(model: LocalModel, asked: Sequence[Asked], plan: Plan) -> Callable[[Method], bool]:
    """Whether a method suits the model and the target; the first prompt that can be read says what the model gives.

    Raises `InputError` where none can.
    """
    semantic = plan.target if isinstance(plan.target, Semantic) else None
    name = "contrast" if isinstance(plan.target, Contrast) else "semantic" if semantic else str(plan.target)
    first: AttributionError | None = None
    for each in asked:
        units = plan.units if each.sample.units is None else each.sample.units
        try:
            # Any output will do: none is read.
            question = ask(model, each.sample.prompt, check_units(units), "logprob", output=[0])
            problem = LocalProblem(
                model, question.prompt, question.reading, semantic=semantic, ablation=plan.ablations[0]
            )
        except AttributionError as error:
            first = first or error
            continue
        return lambda method: (
            (method.targets is None or name in method.targets) and not any(map(problem.lacks, method.needs))
        )
    raise InputError(f"Expected prompts that can be explained, got none. The first: {first}") from first
