"""evaluate: how faithful many methods are on many prompts, beside baselines and with how sure that is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

from tqdm import tqdm

import attribution
from attribution.absence import Replace, check_ablation
from attribution.checks import check_count, check_seed
from attribution.errors import AttributionError, InputError
from attribution.explainer import ModelSource
from attribution.faithfulness.case import Case, Plan, able, failed, label, removes
from attribution.faithfulness.contenders import (
    AnyMethod,
    Contender,
    ScorerMistakeError,
    baselines,
    check_methods,
    suitable,
    suited,
)
from attribution.faithfulness.journal import Entry, Journal
from attribution.faithfulness.metric import Metric, build_metric
from attribution.faithfulness.samples import AnyPrompt, Asked, check_prompts, units_record
from attribution.faithfulness.table import Evaluation, Row, Spending
from attribution.method import CHOSEN
from attribution.models import load_local
from attribution.models.fingerprint import fingerprint
from attribution.models.local import LocalModel
from attribution.planted.scores import SCORES
from attribution.prompts.units import Units, check_units
from attribution.recorded import target_record
from attribution.target import Contrast, Semantic, named_target

QUICK = (
    "aopc_comprehensiveness",
    "aopc_sufficiency",
    "morf_lerf_difference",
    "linear_datamodeling_score",
    "infidelity",
    "leave_one_out_correlation",
)
"""The metrics that are measured where none are named."""


def evaluate(
    model: ModelSource,
    prompts: Sequence[AnyPrompt],
    methods: Sequence[AnyMethod] | None = None,
    metrics: Sequence[str | Metric] | None = None,
    *,
    units: Units = "word",
    target: str | Contrast | Semantic = "logprob",
    ablations: Sequence[str | Replace] = ("delete", "mask"),
    max_new_tokens: int = 20,
    seed: int = 0,
    journal: str | os.PathLike[str] | None = None,
    resamples: int = 1000,
) -> Evaluation:
    """A table of how faithful methods are: the mean of every metric over the prompts, beside three baselines.

    - `model`: what `attribution.load` gave, or anything it takes.
    - `prompts`: texts, chats, `Sample`s, which say what is asked of an output, or planted prompts, whose causes are
      known: for these the table also says how well they were found.
    - `methods`: names, `Method`s with their options, or `Scorer`s with scores of your own; None for every method that
      the model allows and whose packages are installed.
    - `metrics`: names out of `attribution.list_metrics()`, or `Metric`s with their options; None for `QUICK`. Costly
      ones, `normalised_aopc`, `shapley_correlation`, `max_sensitivity` and `randomisation`, are measured where named.
      Of planted prompts there may be none: then all that is asked is how well their causes were found.
    - `units`, `target`, `max_new_tokens`: as `explain` takes them.
    - `ablations`: the meanings of "absent", at least two where a metric removes units, so that no method is judged only
      by its own. Methods that remove units do so by the first; every metric that does is measured under each.
    - `seed`: of all randomness, that of the intervals too.
    - `journal`: a file in which each number is kept once it is known. A run that was stopped goes on from it, with the
      same numbers as one that was not; a later one may have other prompts and methods, of which those that are new are
      measured. What a `Scorer` does is not in it: another function wants another name.
    - `resamples`: how many draws of the prompts the intervals are made of.

    The baselines are a random order of the units (its numbers are the mean over six orders: three and their reverses),
    the order of the prompt, later units scoring higher, and exact leave-one-out. A method that fails on a prompt has
    the reason in the place of its numbers; the table says of how many prompts each mean is.

    Raises `InputError` for an argument that is not as above, and where no prompt can be explained;
    `MissingExtraError` for a named method whose package is not installed; `ResultFileError` for a file that is no
    journal. Whatever a `Scorer` raises reaches you, and what was measured until then is in the journal.

    >>> import attribution as at
    >>> found = at.evaluate("demo", ["Sam has 3 apples. How many apples does Sam have?"], ["saliency"], ["morf"])
    >>> sorted({row.method for row in found.rows})
    ['leave_one_out', 'position', 'random', 'saliency']
    """
    asked = check_prompts(prompts)
    seed, resamples = check_seed(seed), check_count("resamples", resamples)
    plan = Plan(
        metrics=_check_metrics(QUICK if metrics is None else metrics, may_be_none=all(each.planted for each in asked)),
        ablations=_check_ablations(ablations, target),
        units=units,
        target=target if isinstance(target, (Contrast, Semantic)) else named_target(target).name,
        max_new_tokens=check_count("max_new_tokens", max_new_tokens),
        seed=seed,
    )
    check_units(units)
    judged_by = [metric.name for metric in plan.metrics if removes(metric)]
    if judged_by and len(plan.ablations) < 2:
        raise InputError(
            f'Expected at least two meanings of "absent" for {", ".join(judged_by)}, got {ablations[0]} alone: no '
            'method may be judged only by its own. Type ablations=("delete", "mask").'
        )
    given = None if methods is None else check_methods(methods)
    local = load_local(model, "evaluate")
    if methods is None:
        given = suitable(able(local, asked, plan))
    elif any(each in CHOSEN for each in methods if isinstance(each, str)):
        given = check_methods(suited(methods, able(local, asked, plan)))
    contenders = _with_baselines(given or [], seed)
    settings = _settings(plan, local, contenders)
    # A metric's summary is no part of what it measures.
    metrics_kept = [{name: own[name] for name in ("label", "name", "options")} for own in settings["metrics"]]
    digests = [each.digest for each in asked]
    weights = fingerprint(local)
    made_by = {"version": attribution.__version__, "weights": weights}
    of_planted = {"planted": list(SCORES)}
    kept = Journal(journal, {**settings, **made_by, **of_planted, "metrics": metrics_kept, "prompts": digests})
    entries = _measured(local, asked, contenders, plan, kept)
    return _evaluation(asked, contenders, entries, {**settings, "n_prompts": len(asked), "resamples": resamples})


def _measured(
    model: LocalModel, asked: Sequence[Asked], contenders: Sequence[Contender], plan: Plan, journal: Journal
) -> list[list[Entry]]:
    """What every contender has on every prompt, which is in the journal by then."""
    pairs = [(digest, one.label) for digest in {each.digest for each in asked} for one in contenders]
    done = sum(journal.get(*pair) is not None for pair in pairs)
    with tqdm(total=len(pairs), initial=done, desc="evaluation", disable=None, delay=1, leave=False) as bar:
        for each in asked:
            missing = [one for one in contenders if journal.get(each.digest, one.label) is None]
            for one, entry in _entries(model, each, missing, plan):
                journal.add(each.digest, one.label, entry)
                bar.update()
    found = [[journal.get(each.digest, one.label) for one in contenders] for each in asked]
    return cast("list[list[Entry]]", found)


def _entries(
    model: LocalModel, asked: Asked, contenders: Sequence[Contender], plan: Plan
) -> Iterator[tuple[Contender, Entry]]:
    """What these contenders have on one prompt, each once it is known."""
    if not contenders:
        return
    try:
        case = Case(model, asked, plan)
    except AttributionError as error:
        yield from ((one, failed(plan, asked, error)) for one in contenders)
        return
    for one in contenders:
        try:
            entry = one.entry(case)
        except ScorerMistakeError:
            raise
        except AttributionError as error:
            entry = failed(plan, asked, error)
        yield one, entry


def _evaluation(
    asked: Sequence[Asked], contenders: Sequence[Contender], entries: Sequence[Sequence[Entry]], settings: Any
) -> Evaluation:
    """The entries as a table; `InputError` where there is not one number in it."""
    rows: list[Row] = []
    costs: list[Spending] = []
    for prompt, (each, own) in enumerate(zip(asked, entries, strict=True)):
        for one, entry in zip(contenders, own, strict=True):
            rows += [Row(prompt, each.family, one.label, *value) for value in entry.values]
            if (cost := entry.cost) is not None:
                costs.append(Spending(prompt, one.label, cost.forwards, cost.backwards, cost.tokens, cost.seconds))
    if all(row.value is None for row in rows):
        raise InputError(f"Expected prompts that can be explained, got none. The first: {rows[0].reason}")
    model = settings.pop("model")
    return Evaluation(tuple(rows), tuple(costs), settings, model)


def _settings(plan: Plan, model: LocalModel, contenders: Sequence[Contender]) -> dict[str, Any]:
    """What is measured, as JSON holds it."""
    return {
        "model": model.describe(),
        "methods": [
            {"label": one.label, "name": one.name, "options": one.options, "baseline": one.is_baseline}
            for one in contenders
        ],
        "metrics": [
            {
                "label": label(metric),
                "name": metric.name,
                "options": metric.options,
                "better": metric.better,
                "summary": metric.summary,
            }
            for metric in plan.metrics
        ],
        "ablations": [str(absent) for absent in plan.ablations],
        "units": units_record(plan.units),
        "target": target_record(plan.target),
        "max_new_tokens": plan.max_new_tokens,
        "seed": plan.seed,
    }


def _with_baselines(contenders: Sequence[Contender], seed: int) -> list[Contender]:
    """The baselines, and every other contender behind them."""
    always = baselines(seed)
    known = {one.label for one in always}
    return [*always, *(one for one in contenders if one.label not in known)]


def _check_metrics(metrics: object, *, may_be_none: bool) -> tuple[Metric, ...]:
    """The metrics, each once; `InputError` for what is no metric, and for none where there has to be one."""
    if isinstance(metrics, (str, Metric)) or not isinstance(metrics, Sequence):
        raise InputError(f'Expected a list of metrics, got {type(metrics).__name__}. Type metrics=["morf"].')
    found = [build_metric(metric) for metric in cast("Sequence[Any]", metrics)]
    if not found and not may_be_none:
        raise InputError(f"Expected at least one metric, got none. Leave metrics out for {', '.join(QUICK)}.")
    return tuple({label(metric): metric for metric in found}.values())


def _check_ablations(ablations: object, target: object) -> tuple[str | Replace, ...]:
    """The meanings of "absent", each once; `InputError` for none, and for one that the target does not allow."""
    if isinstance(ablations, (str, Replace)) or not isinstance(ablations, Sequence) or not ablations:
        raise InputError(
            f'Expected a list of meanings of "absent", got {ablations!r}. Type ablations=("delete", "mask").'
        )
    found = {str(absent): check_ablation(absent) for absent in cast("Sequence[Any]", ablations)}
    if isinstance(target, Semantic) and "mask" in found:
        raise InputError(
            'Expected meanings of "absent" that leave no gaps, since for a Semantic target the model writes on after '
            'what is left, got "mask". Type ablations=("delete", at.Replace("...")).'
        )
    return tuple(found.values())
