"""What is measured of a family: whether a model agrees with its prompts, and how well methods find their causes."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

import attribution as at
from attribution.engine.roads import road
from attribution.errors import AttributionError
from attribution.explainer import explain
from attribution.faithfulness.case import label
from attribution.faithfulness.evaluation import evaluate
from attribution.faithfulness.metric import list_metrics
from attribution.files import write_file
from attribution.method import list_methods
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.planted.confirmation import confirm
from attribution.planted.families import SHORTCUTS, draw
from benchmarks.board.passes import counting, read_passes
from benchmarks.board.peers import import_libraries, peers

AGAIN = ("max_sensitivity", "randomisation")
"""What explains the prompt many times over: measured of our methods that ask no ablated prompts and take at most
`QUICK` passes. All other metrics are measured of every method on the first `SOME` prompts of a family, under both
meanings of "absent"."""

QUICK = 60
"""Passes for the scores of one number."""

CONFIRMED = 200
SOME = 1
STEPS = 48
"""Of integrated gradients at most, for which its own tolerance would take half of all the time."""

LONGEST = 40
"""Sentences of a needle on the board: half of the methods take minutes for each longer one."""


@dataclass(frozen=True)
class Measured:
    """What was found out about one family."""

    family: str
    right: float
    """Share of the confirmed prompts that the model continues to the letter as planted."""
    followed: float
    """Share of all changes of these prompts after which the model answers what follows from them."""
    confirmed: int
    prompts: int
    """On how many of them the methods are measured; the model agrees with all changes of each."""
    own: tuple[str, ...]
    """Which of the methods are ours."""
    values: dict[str, dict[str, dict[int, float]]]
    """Method -> metric (with its meaning of "absent") -> its number for each prompt."""
    missing: dict[str, dict[str, int]]
    """Method -> reason -> how many of the numbers it has none of for this reason."""
    passes: dict[str, float]
    """Method -> forward passes over prompt and output that the scores of every output token take, as they were rated; a
    backward pass for one of them counts as one."""
    passes_of_one: dict[str, float]
    """Method of ours -> the same for the scores of one number, `per_output=False`."""
    times: dict[str, float]
    """Method -> the median of its times, for every output token, as a multiple of that of one forward pass."""

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        write_file(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Measured:
        """What `save` wrote."""
        record = json.loads(path.read_text())
        record["own"] = tuple(record["own"])
        for metrics in record["values"].values():
            for metric, numbers in metrics.items():
                metrics[metric] = {int(prompt): value for prompt, value in numbers.items()}
        return cls(**record)


def measure(family: str, count: int, models: Path, journals: Path) -> Measured:
    """Everything about one family, in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import_libraries()  # and not while a scorer is timed
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    model: Any = at.load(models / family if family in SHORTCUTS else "demo")
    known = road(model)  # which road ablations take is not left to what they are measured to cost
    known.checked = known.measured = model.context_window
    right: list[bool] = []
    followed: list[bool] = []
    chosen: list[Any] = []
    for index in range(CONFIRMED):
        planted = draw(family, Random(f"board {family} {index}"))
        found = confirm(model, planted)
        right.append(found.right)
        followed += found.followed
        short = planted.units != "sentence" or len(planted.parts) <= LONGEST + 2
        if found.holds and short and len(chosen) < count:
            chosen.append(planted)
    if not chosen:
        raise SystemExit(f"{family}: the model agrees with none of {CONFIRMED} prompts. Train it again: make model")
    steps = IntegratedGradients(max_steps=STEPS)
    ours = {
        label(method): method for method in (*list_methods(), steps) if method.name != steps.name or method is steps
    }
    kept = journals / f"{family}.passes.jsonl"
    scorers = [counting(scorer, kept) for scorer in peers()]
    once = [metric.name for metric in list_metrics() if metric.name not in AGAIN]
    passes_of_one, forward = costs(model, chosen[0], ours)
    every = [*ours.values(), *scorers]
    quick = [ours[name] for name, count in passes_of_one.items() if count <= QUICK]
    values: dict[str, dict[str, dict[int, float]]] = {}
    missing: dict[str, dict[str, int]] = {}
    times: dict[str, list[float]] = {}
    passes: dict[str, list[float]] = {}
    tables = (
        # Of planted causes there are numbers in any case, which are kept from the first two.
        ("some", 0, chosen[:SOME], every, once, True),
        ("more", SOME, chosen[SOME:], every, [], True),
        ("again", 0, chosen[:1], quick, list(AGAIN), False),
    )
    for kind, start, prompts, methods, metrics, is_new in tables:
        if not prompts:
            continue
        table = evaluate(model, prompts, methods, metrics, journal=journals / f"{family}.{kind}.jsonl")
        for row in table.rows:
            if row.metric not in metrics and not is_new:
                continue
            if row.value is None:
                reasons = missing.setdefault(row.method, {})
                reasons[row.reason] = reasons.get(row.reason, 0) + 1
            else:
                metric = f"{row.metric} ({row.absent})" if row.absent else row.metric
                values.setdefault(row.method, {}).setdefault(metric, {})[start + row.prompt] = row.value
        for spent in table.costs if is_new else ():
            length = _length(model, prompts[spent.prompt])
            times.setdefault(spent.method, []).append(spent.seconds / (forward * length))
            if spent.method in ours and spent.tokens is not None:
                passes.setdefault(spent.method, []).append(spent.tokens / length + (spent.backwards or 0))
        print(f"{family}: {kind} measured", file=sys.stderr)
    return Measured(
        family=family,
        right=float(np.mean(right)),
        followed=float(np.mean(followed)),
        confirmed=CONFIRMED,
        prompts=len(chosen),
        own=tuple(ours),
        values=values,
        missing=missing,
        passes={name: float(np.mean(found)) for name, found in (passes | read_passes(kept)).items()},
        # What asks ablated prompts asks the same of one number as of all.
        passes_of_one={name: float(np.mean(passes[name])) for name in ours if name in passes} | passes_of_one,
        times={name: median(found) for name, found in times.items()},
    )


def _length(model: Any, planted: Any) -> int:
    """The tokens of a prompt and its output that a forward pass reads."""
    ids = model.codec.encode(planted.prompt).ids
    return len(ids) + len(model.codec.encode_output(planted.prompt, ids, planted.output)) - 1


def costs(model: Any, planted: Any, ours: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """On one prompt: `passes_of_one` of what asks no ablated prompts, and the seconds of a forward pass per token."""
    asked: dict[str, Any] = {"output": planted.output, "units": planted.units, "per_output": False}
    skeleton = explain(model, planted.prompt, method="saliency", **asked)  # what is tried once on a model is tried here
    ids = torch.tensor([[*skeleton.prompt_ids, *(output.id for output in skeleton.outputs)]])[:, :-1]
    with model.borrowed(), torch.no_grad():
        forward = median(_timed(partial(model.logits, ids)) for _ in range(15))
    one: dict[str, float] = {}
    for name, method in ours.items():
        if "value" in method.needs:
            continue
        try:
            cost = explain(model, planted.prompt, method=method, **asked).cost
        except AttributionError:
            continue
        one[name] = cost["tokens"] / ids.numel() + cost["backwards"]
    return one, forward / ids.numel()


def _timed(work: Any) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun
