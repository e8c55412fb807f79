"""verify: does an explanation hold when it is acted on? The units that it names are removed, and kept alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool

from attribution.checks import check_count, check_seed
from attribution.errors import BudgetError, InputError
from attribution.explainer import ModelSource
from attribution.models import load_local
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.recorded import recorded_problem
from attribution.result import Attribution
from attribution.surfaces import Surfaces

if TYPE_CHECKING:
    from attribution.views.terminal.verification import VerificationView
    from attribution.views.web.html import HtmlView

SCHEMA = 1
"""Version of the layout of `Verification.to_dict`."""

SIGNIFICANT = 0.05
"""The largest p at which the strongest units count as better than random ones."""

ENOUGH = 19
"""The fewest random sets with which p can be as small as that."""

NEGLIGIBLE = 0.01
"""Share of the strongest score below which a unit is not among the strongest, however many are wanted."""

_ROUNDING = 1e-5
"""Of the largest number that was read: what is not further apart is the same."""

_DRAWS = 4
"""Sets that are drawn for every one that is asked: the quarter that is closest in its number of tokens is."""


@dataclass(frozen=True)
class Trial:
    """One half of the test: what was done to the strongest units, beside the same done to random sets of units.

    All numbers are in the target's unit, summed over the outputs that were asked about.
    """

    value: float
    """The target after it was done to the strongest units."""
    effect: float
    """By how much that is below the whole prompt's, where they were removed; above an empty prompt's, where they were
    kept alone."""
    controls: tuple[float, ...]
    """The same effect of each random set."""
    rounding: float
    """Effects that are no further apart are the same."""

    @property
    def mean(self) -> float | None:
        """The mean effect of a random set; None where there is none."""
        return float(np.mean(self.controls)) if self.controls else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """From where to where the effects of 95% of the random sets are; None where there is none."""
        if not self.controls:
            return None
        low, high = np.quantile(self.controls, [0.025, 0.975])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """The share of sets with at least this effect, the strongest units' own counted: one-sided, above 0 to 1.

        So often would units that were named by chance do as well. Phipson and Smyth, "Permutation P-values Should Never
        Be Zero" (2010).
        """
        at_least = sum(control >= self.effect - self.rounding for control in self.controls)
        return (1 + at_least) / (1 + len(self.controls))

    @property
    def holds(self) -> bool | None:
        """Whether the effect is above 0 and p at most 0.05; None with fewer than 19 random sets, which cannot tell."""
        if len(self.controls) < ENOUGH:
            return None
        return self.effect > self.rounding and self.p <= SIGNIFICANT


@dataclass(frozen=True)
class Verification(Surfaces):
    """Whether an explanation held: what became of the target without its strongest units, and with nothing but them.

    - `necessary`: the target falls further without these units than without random ones. Causes of which each suffices
      fail this half where not all are named: where one is gone another does its work.
    - `sufficient`: with nothing but these units the target comes back further than with nothing but random ones. Causes
      that need something that was not named fail this half.

    Both are about these units together, of which some may be there for nothing, and both are held against chance.
    Random sets may share units with the strongest, as sets that are named by chance would: of 20 units one in four sets
    of five has the only cause in it, so that naming five is no evidence, and naming one is. Likewise where random units
    too destroy all when they are removed, since many are needed, or do all by themselves, since any suffices.
    """

    result: Attribution
    """The explanation."""
    outputs: tuple[int, ...]
    """Indices of the output tokens that were asked about."""
    strongest: tuple[int, ...]
    """Indices of the units that were removed and kept alone, the strongest first."""
    full: float
    """The target after the whole prompt, summed over these outputs, in `unit`."""
    nothing: float
    """The same after a prompt without any unit that can be removed."""
    removed: Trial
    """What the target fell by without the strongest units."""
    alone: Trial
    """What the target rose by when they were added to nothing."""
    sets: tuple[tuple[int, ...], ...]
    """The random sets, as indices of units; as many units in each as in `strongest`."""
    n_sets: int
    """How many other sets of as many units there are, asked or not."""
    unit: str
    """What the target is measured in."""
    model: Mapping[str, Any]
    """The model that was asked: `name`, `architecture`, `dtype`, `revision`."""
    cost: Mapping[str, int]
    """The `forwards`, `backwards` and `tokens` that it took."""

    @property
    def drop(self) -> float:
        """What is lost without the strongest units, in `unit`: the whole prompt's target minus what is left of it."""
        return self.removed.effect

    @property
    def kept(self) -> float:
        """What the strongest units bring by themselves, in `unit`: the target with them alone minus that of nothing."""
        return self.alone.effect

    @property
    def share(self) -> float | None:
        """`kept` as a share of what the whole prompt brings; None where that is nothing, or less."""
        brought = self.full - self.nothing
        return self.kept / brought if brought > self.alone.rounding else None

    @property
    def necessary(self) -> bool | None:
        """Whether the drop is more than 0, and more than chance; None where too few sets of units exist to tell."""
        return self.removed.holds

    @property
    def sufficient(self) -> bool | None:
        """Whether what they keep is more than 0, and more than chance; None where too few sets exist to tell."""
        return self.alone.holds

    @property
    def held(self) -> bool | None:
        """Whether both halves are true; None where it cannot be told."""
        halves = (self.necessary, self.sufficient)
        return None if None in halves else all(halves)

    @property
    def verdict(self) -> str:
        """In words: "held", "held in part: ..." with the half that did, "did not hold", or "cannot be told"."""
        if self.held is None:
            return "cannot be told"
        if self.necessary == self.sufficient:
            return "held" if self.held else "did not hold"
        return f"held in part: {'necessary, not sufficient' if self.necessary else 'sufficient, not necessary'}"

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON; the explanation whole."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "held": self.held,
            "necessary": self.necessary,
            "sufficient": self.sufficient,
            "drop": self.drop,
            "kept": self.kept,
            "share": self.share,
            "result": self.result.to_dict(),
            "outputs": list(self.outputs),
            "strongest": list(self.strongest),
            "scores": [float(score) for score in self.result.total(list(self.outputs))[list(self.strongest)]],
            "full": self.full,
            "nothing": self.nothing,
            "removed": _trial(self.removed),
            "alone": _trial(self.alone),
            "sets": [list(units) for units in self.sets],
            "n_sets": self.n_sets,
            "unit": self.unit,
            "model": dict(self.model),
            "cost": dict(self.cost),
        }

    def text_view(self) -> VerificationView:
        """What a terminal shows. `rich` prints it, `str` makes plain text of it."""
        from attribution.views.terminal.verification import VerificationView

        return VerificationView(self.to_dict())

    def html_view(self) -> HtmlView:
        """What a browser shows: `page()` is a whole page, `notebook()` what fits into a notebook."""
        from attribution.views.web.html import HtmlView
        from attribution.views.web.payload import verification_payload

        return HtmlView(verification_payload(self.to_dict()), str(self))


def verify(
    model: ModelSource,
    result: Attribution,
    top: int = 5,
    *,
    outputs: Outputs = None,
    n_random: int = 100,
    seed: int = 0,
) -> Verification:
    """Does the explanation hold when it is acted on: without the units that it names, and with nothing but them?

    - `model`: the model that the result is of, or anything `attribution.load` takes.
    - `result`: what `explain` gave, or `Attribution.load`.
    - `top`: how many of the strongest units to act on, those that support the output most; fewer where fewer do, or
      where others have less than 1% of the strongest score. For a
      method without signs those with the largest scores, which do not say whether they support or oppose: the latter
      do not hold.
    - `outputs`: the part of the output that is asked about, as `Attribution.total` takes it, for instance `"3"`.
    - `n_random`: with how many random sets of as many units to compare; all there are, where there are fewer. Of more
      the ones closest to the strongest units in their number of tokens are taken.
    - `seed`: of the random sets.

    The target, and what it means that a unit is absent, are those of the result; output tokens all stay. It takes two
    ablated prompts for every random set and four more. See `Verification` for what each half of the answer means. After
    DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models" (2020), who call the two halves
    comprehensiveness and sufficiency.

    Raises `InputError` for anything but a result of `explain`, for one that another model or tokenizer gave, for one in
    which no unit supports these outputs, and for arguments that are not as above.

    >>> import attribution as at
    >>> from attribution.experiments.verification import verify
    >>> question = "Sam has 3 apples and Tom has 5 oranges. How many oranges does Tom have?"
    >>> result = at.explain("demo", question, method="leave_one_out")
    >>> verify("demo", result, 2, outputs="5").verdict
    'held'
    """
    if not isinstance(result, Attribution):
        raise InputError(
            f"Expected the result to verify, got {type(result).__name__}. Type verify(model, explain(...)), or read a "
            "saved one with Attribution.load."
        )
    top, n_random = check_count("top", top), check_count("n_random", n_random)
    rng = np.random.default_rng(check_seed(seed))
    result.output_indices(outputs)  # a mistake is said before a model is loaded
    local = load_local(model, "verify")
    problem = recorded_problem(local, result)
    return examine(
        problem, result, top, outputs=outputs, n_random=n_random, rng=rng, unit=problem.unit, model=local.describe()
    )


def examine(
    problem: Problem,
    result: Attribution,
    top: int,
    *,
    outputs: Outputs = None,
    n_random: int,
    rng: np.random.Generator,
    unit: str,
    model: Mapping[str, Any],
) -> Verification:
    """The same on any problem that has the result's units and a target for every row of its scores.

    All masks are asked at once. Raises `InputError` where no unit that can be removed supports these outputs, and
    `BudgetError` where the problem does not answer all of them.
    """
    removable = problem.removable.numpy()
    strongest = _strongest(result, outputs, top, removable)
    tokens = [unit.last_token - unit.first_token for unit in result.units]
    pool: list[int] = np.flatnonzero(removable).tolist()
    sets = _random_sets(strongest, pool, tokens, n_random, rng)
    # In each mask these units are absent (False) or, of those that can be removed, nothing else is.
    masks = [np.ones(len(removable), bool), ~removable]
    for units in (strongest, *sets):
        chosen = np.zeros(len(removable), bool)
        chosen[list(units)] = True
        masks += [~chosen, chosen | ~removable]
    targets = problem.value(torch.from_numpy(np.stack(masks))).double().numpy()
    rows = result.output_indices(outputs) if result.per_output else [0]
    values = targets[:, rows].sum(1)
    if not np.isfinite(values).all():
        raise BudgetError(f"The budget ended before all of {len(masks)} ablated prompts were asked. Allow more.")
    full, nothing = values[:2].tolist()
    without, only = values[2::2], values[3::2]
    rounding = _ROUNDING * float(np.abs(values).max())

    def trial(values: Any, effects: Any) -> Trial:
        return Trial(float(values[0]), float(effects[0]), tuple(effects[1:].tolist()), rounding)

    return Verification(
        result=result,
        outputs=tuple(result.output_indices(outputs)),
        strongest=strongest,
        full=full,
        nothing=nothing,
        removed=trial(without, full - without),
        alone=trial(only, only - nothing),
        sets=tuple(sets),
        n_sets=comb(len(pool), len(strongest)) - 1,
        unit=unit,
        model=model,
        cost=asdict(problem.cost),
    )


def _strongest(
    result: Attribution, outputs: Outputs, top: int, removable: Bool[np.ndarray, " unit"]
) -> tuple[int, ...]:
    """The removable units with the largest scores above next to nothing, the strongest first; `InputError` for none."""
    scores = result.total(outputs).astype(np.float64)
    strength = np.where(removable, scores if result.method["signed"] else np.abs(scores), 0.0)
    least = NEGLIGIBLE * strength.max(initial=0.0)
    found = [int(unit) for unit in np.argsort(-strength, kind="stable")[:top] if strength[unit] > least]
    if not found:
        raise InputError(
            f"Expected a result in which some {result.granularity} supports these outputs, but no score is above 0: "
            "there is nothing to verify. Choose other outputs, or explain with another method."
        )
    return tuple(found)


def _random_sets(
    strongest: Sequence[int], pool: Sequence[int], tokens: Sequence[int], count: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Other sets of as many units out of the pool, no two the same, those closest in their number of tokens."""
    own, size = tuple(sorted(strongest)), len(strongest)
    if comb(len(pool), size) - 1 <= _DRAWS * count:
        every = [units for units in combinations(sorted(pool), size) if units != own]
        found = [every[index] for index in rng.permutation(len(every))]
    else:
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < _DRAWS * count:
            units = tuple(sorted(rng.choice(pool, size, replace=False, shuffle=False).tolist()))
            if units != own:
                drawn[units] = None
        found = list(drawn)
    wanted = sum(tokens[unit] for unit in own)
    return sorted(found, key=lambda units: abs(sum(tokens[unit] for unit in units) - wanted))[:count]


def _trial(trial: Trial) -> dict[str, Any]:
    found = asdict(trial) | {"controls": list(trial.controls)}
    interval = None if trial.interval is None else list(trial.interval)
    return found | {"mean": trial.mean, "interval": interval, "p": trial.p, "holds": trial.holds}
