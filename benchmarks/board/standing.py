"""How the methods stand: their numbers over all families, what they take, and which is best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.board.measurement import Measured

FAST = 4.0
"""Passes that the default method may take at most for the scores of one number."""

BASELINES = ("random", "position")
"""What knows nothing of the model."""

_RESAMPLES = 1000


class Board:
    """The numbers of all families, method by method; `methods` has first those with numbers in every family."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.measured = sorted(measured, key=lambda each: each.family)
        names = dict.fromkeys(name for each in self.measured for name in each.values)
        self.methods = sorted(names, key=lambda name: (not self.is_whole(name), -self.mean(name, "auroc")))

    def of_family(self, method: str, metric: str) -> dict[str, dict[int, float]]:
        """A method's numbers by family and prompt; families without any are left out."""
        return {each.family: numbers for each in self.measured if (numbers := each.values.get(method, {}).get(metric))}

    def mean(self, method: str, metric: str, families: Sequence[str] | None = None) -> float:
        """The mean over the families, or over some, of the means over their prompts; NaN where there is none."""
        found = [
            float(np.mean(list(numbers.values())))
            for name, numbers in self.of_family(method, metric).items()
            if families is None or name in families
        ]
        return float(np.mean(found)) if found else float("nan")

    def interval(self, method: str, metric: str, other: str | None = None) -> tuple[float, float]:
        """From where to where 95% of that mean are when families, and the prompts of each, are drawn anew.

        With another method, that of how far it is above that, on the prompts that both have numbers for.
        """
        rng, own = np.random.default_rng(0), self.of_family(method, metric)
        theirs = {} if other is None else self.of_family(other, metric)
        drawn: list[np.ndarray] = []
        for family, numbers in own.items():
            less = dict.fromkeys(numbers, 0.0) if other is None else theirs.get(family, {})
            paired = [number - less[prompt] for prompt, number in numbers.items() if prompt in less]
            if paired:
                drawn.append(rng.choice(paired, (_RESAMPLES, len(paired))).mean(1))
        if not drawn:
            return float("nan"), float("nan")
        families = rng.integers(len(drawn), size=(_RESAMPLES, len(drawn)))
        low, high = np.quantile(np.array(drawn)[families, np.arange(_RESAMPLES)[:, None]].mean(1), [0.025, 0.975])
        return float(low), float(high)

    def cost(self, method: str, kind: str) -> float:
        """The mean over the families of what a method takes, in `passes` or `times`; NaN where that is unknown."""
        found = [getattr(each, kind)[method] for each in self.measured if method in getattr(each, kind)]
        return float(np.mean(found)) if found else float("nan")

    def is_own(self, method: str) -> bool:
        """Whether it is a method of this library."""
        return all(method in each.own for each in self.measured)

    def is_whole(self, method: str) -> bool:
        """Whether it has numbers in every family, so that its means can be held against those of others."""
        return len(self.of_family(method, "auroc")) == len(self.measured)

    @property
    def own(self) -> list[str]:
        """Our methods that have a number in every family, the best first."""
        return [name for name in self.methods if self.is_own(name) and self.is_whole(name)]

    @property
    def default(self) -> str:
        """The best of our methods that take at most `FAST` passes."""
        return self.fast[0]

    @property
    def fast(self) -> list[str]:
        """Our methods that take at most `FAST` passes for one number, the best first."""
        return [name for name in self.own if self.cost(name, "passes_of_one") <= FAST]

    @property
    def careful(self) -> str:
        """The best of our methods, whatever it takes."""
        return self.own[0]
