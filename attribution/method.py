"""Method: what every attribution method is, and how methods are found by name.

A new method is one file in `attribution/methods/` with one class: it then appears in `explain`, on the command line and
in the conformance tests, with no other edit. Its name is the name of the file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.discovery import discover
from attribution.errors import CapabilityError, InputError, MissingExtraError, ModelError, UnknownMethodError
from attribution.problem import Cost, Need, Problem

LAWS: Mapping[str, str] = {
    "deterministic": "the seed changes nothing",
    "dummy": "a unit that changes nothing scores 0",
    "additive": "where the value is a sum of the units' own worths, every unit scores its worth",
    "complete": "where the value is a sum of the units' own worths, the scores add up to the value of all minus none",
    "nonnegative": "no score is below 0",
}
"""What methods may promise. The tests hold each promise on problems whose answers are known."""

CHOSEN: Mapping[str, str] = {"default": "saliency", "careful": "saliency"}
"""What "default" and "careful" stand for: the methods that find planted causes best, of those that take at most four
passes for the scores of one number, and at any cost. The board (docs/board.md) has decided."""

EXACT = "leave_one_out"
"""What stands in for these where they do not suit a question: what each unit does alone, on any model."""


@dataclass(frozen=True)
class Method(ABC):
    """An attribution method; its fields are its options. The first line of its docstring says what a score is.

    `needs` names what of a problem it uses, `laws` what it promises (see `LAWS`), `signed` is False where a score says
    how much but not which way. `unit` is what scores are measured in, with `{target}` for the unit of the target.
    `max_units` and `targets` say what it is limited to; None where it is not.
    """

    needs: ClassVar[frozenset[Need]]
    laws: ClassVar[frozenset[str]]
    signed: ClassVar[bool] = True
    unit: ClassVar[str] = "{target}"
    max_units: ClassVar[int | None] = None
    """Of more removable units than this it takes too long."""
    targets: ClassVar[frozenset[str] | None] = None
    """The names of the targets that it can explain."""
    extra: ClassVar[str | None] = None
    """The optional package that it needs, which the extra of the same name installs."""

    @abstractmethod
    def cost(self, n_units: int, n_targets: int) -> Cost:
        """The passes it takes at most, before any is made; `tokens` stays 0, since only a problem knows them."""

    @abstractmethod
    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        """The score of every unit for every target of the problem. All randomness comes from `rng`."""

    @property
    def name(self) -> str:
        """The name it is found by."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """What a score of it is, in one line."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their values."""
        return asdict(self)

    def check(self, problem: Problem) -> None:
        """Raises `CapabilityError` where the problem lacks what the method needs, or is beyond its limits.

        Raises `MissingExtraError` where a package that it needs is not installed.
        """
        if self.extra is not None:
            check_extra(self.name, self.extra)
        reason = self.misfit(problem)
        if not reason:
            return
        if any(map(problem.lacks, self.needs)):
            able = [method.name for method in list_methods() if method._suits(problem)]
            advice = ", ".join(able) or "another model"
        elif not self._explains(problem.target):
            advice = "another target, or another method"
        else:
            advice = "shapley_sampling, or larger units"
        raise CapabilityError(f"{self.name} {reason}. Use {advice}.")

    def misfit(self, problem: Problem) -> str:
        """What keeps the method from this problem, as in "needs gradients, which ..."; empty where nothing does."""
        for need in sorted(self.needs):
            if lacking := problem.lacks(need):
                return f"needs {need}, which {lacking}"
        count = int(problem.removable.sum())
        if self.max_units is not None and count > self.max_units:
            return f"takes at most {self.max_units} units, got {count}"
        if not self._explains(problem.target):
            return f"explains the target {' or '.join(sorted(self.targets or ()))}, got {problem.target}"
        return ""

    def _explains(self, target: str) -> bool:
        return self.targets is None or target in self.targets

    def _suits(self, problem: Problem) -> bool:
        return self._explains(problem.target) and not any(map(problem.lacks, self.needs))


def check_extra(who: str, package: str) -> None:
    """Raises `MissingExtraError` where the package is not installed."""
    if find_spec(package) is None:
        raise MissingExtraError(f'{who} needs the package {package}. Type: pip install "llm-attribution[{package}]"')


def list_methods() -> tuple[Method, ...]:
    """Every attribution method with its default options, by name; each knows its `summary`, `needs`, `laws` and `cost`.

    >>> import attribution as at
    >>> [method.name for method in at.list_methods() if method.max_units]
    ['exact_shapley']
    """
    return tuple(kind() for kind in _discover().values())


def build_method(method: str | Method) -> Method:
    """The method of this name, maybe one of `CHOSEN`, with its default options, or the method itself.

    Raises `UnknownMethodError` with the nearest names, and `InputError` for anything that is no method.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, type):
        raise InputError(f"Expected a method, got the class {method.__name__}. Type {method.__name__}() instead.")
    if not isinstance(method, str):
        raise InputError(f"Expected a method's name or a Method with its options, got {type(method).__name__}.")
    known = _discover()
    name = CHOSEN.get(method, method)
    if name not in known:
        raise UnknownMethodError(f"Expected a method out of {', '.join((*CHOSEN, *known))}, got {method!r}.")
    return known[name]()


def suited(chosen: Method, problem: Problem, of_ablations: Sequence[str]) -> Method:
    """What the board chose, or leave-one-out where that does not suit the question; a note then says why."""
    if of_ablations and "value" not in chosen.needs:
        reason = f"takes nothing away, so that {' and '.join(of_ablations)} would do nothing"
    else:
        try:
            reason = chosen.misfit(problem)
        except ModelError as error:
            reason = f"fails here: {error}"
    if not reason:
        return chosen
    problem.notes["instead_of"] = f"{chosen.name}, which {reason}"
    return build_method(EXACT)


@cache
def _discover() -> dict[str, type[Method]]:
    found: dict[str, type[Method]] = {}
    for name, kinds in discover("attribution.methods", Method).items():
        if len(kinds) != 1:
            raise TypeError(f"attribution/methods/{name}.py must define one Method, it defines {len(kinds)}.")
        found[name] = kinds[0]
    return found
