"""Explaining again, by the method of a result, on a model that something is done to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from attribution.errors import CapabilityError
from attribution.faithfulness.metrics._subject import Subject
from attribution.local_problem import LocalProblem
from attribution.method import Method, build_method
from attribution.models.local import LocalModel
from attribution.problem import Problem
from attribution.recorded import recorded_problem
from attribution.result import Attribution


def local_model(metric: str, problem: Problem) -> LocalModel:
    """The model of a problem; `CapabilityError` where that is not at hand."""
    if not isinstance(problem, LocalProblem):
        raise CapabilityError(
            f"{metric} explains again and needs a model that runs here, got a {type(problem).__name__}. Use another "
            "metric."
        )
    return problem.model


def own_method(result: Attribution) -> Method:
    """The method of a result, with its options. Raises `UnknownMethodError` where it is none of ours."""
    return replace(build_method(result.method["name"]), **result.method["options"])


def ask_again(model: LocalModel, result: Attribution, times: int) -> list[LocalProblem]:
    """So many problems that the result is about, of which nothing is computed, for what is done to the model then.

    They are made before that, since a model that it was done to would be taken for another one.
    """
    return [recorded_problem(model, result) for _ in range(times)]


def explain_again(problem: LocalProblem, result: Attribution, subject: Subject) -> Float64[np.ndarray, " player"]:
    """The scores of the subject's players by the same method, options and seed."""
    method = own_method(result)
    method.check(problem)
    scores = method.attribute(problem, np.random.default_rng(result.seed)).double().numpy()
    return scores[list(subject.rows)].sum(0)[subject.players]
