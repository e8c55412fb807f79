"""The board: every method, and those of other libraries, on prompts whose causes are known.

`python -m benchmarks.board` measures, and writes `docs/board.md`, `docs/board.html` and `docs/board.svg`. All that is
random comes from seeds, so that the same machine gives the same numbers but for the times.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent
METRICS = (
    "comprehensiveness",
    "sufficiency",
    "aopc_comprehensiveness",
    "aopc_sufficiency",
    "morf",
    "lerf",
    "morf_lerf_difference",
    "insertion",
    "deletion",
    "top_k_drop",
    "linear_datamodeling_score",
    "infidelity",
    "completeness_error",
    "leave_one_out_correlation",
)
"""What is measured of every method on the first `SOME` prompts of a family, under both meanings of "absent"."""

COSTLY = (
    "normalised_aopc",
    "shapley_correlation",
    "soft_sufficiency",
    "soft_comprehensiveness",
    "max_sensitivity",
    "randomisation",
)
"""What is measured of our methods on the first prompt of every family only."""

CONFIRMED = 200
SOME = 3
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
    passes: dict[str, float]
    """Method -> forward passes over prompt and output that it takes; a backward pass counts as one. Ours are asked for
    the scores of one number, those of other libraries for the scores of every output token, as they always are."""
    times: dict[str, float]
    """Method -> the median of its times as a multiple of that of one forward pass, asked the same."""


def measure(family: str, count: int, models: Path, journals: Path) -> Measured:
    """Everything about one family, in this process."""
    import torch

    import attribution as at
    from attribution.faithfulness.evaluation import evaluate
    from attribution.method import list_methods
    from attribution.planted.confirmation import confirm
    from attribution.planted.families import SHORTCUTS, draw
    from benchmarks.peers import peers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    model: Any = at.load(models / family if family in SHORTCUTS else "demo")
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
    names = [method.name for method in list_methods()]
    scorers = peers()
    tables = [
        ((), evaluate(model, chosen, [*names, *scorers], (), journal=journals / f"{family}.planted.jsonl")),
        (
            METRICS,
            evaluate(model, chosen[:SOME], [*names, *scorers], METRICS, journal=journals / f"{family}.some.jsonl"),
        ),
        (COSTLY, evaluate(model, chosen[:1], names, COSTLY, journal=journals / f"{family}.first.jsonl")),
    ]
    values: dict[str, dict[str, dict[int, float]]] = {}
    for metrics, table in tables:
        for row in table.rows:
            if row.value is not None and np.isfinite(row.value) and (row.metric in metrics or not metrics):
                label = f"{row.metric} ({row.absent})" if row.absent else row.metric
                values.setdefault(row.method, {}).setdefault(label, {})[row.prompt] = row.value
    passes, times = _costs(model, chosen[:2], names, scorers)
    agreed = float(np.mean(right)), float(np.mean(followed))
    return Measured(family, *agreed, CONFIRMED, len(chosen), tuple(names), values, passes, times)


def _costs(
    model: Any, chosen: Sequence[Any], names: Sequence[str], scorers: Sequence[Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Passes, and times as a multiple of a forward pass, see `Measured`."""
    import torch

    from attribution.errors import AttributionError
    from attribution.explainer import explain

    passes: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for planted in chosen:
        asked: dict[str, Any] = {"output": planted.output, "units": planted.units, "per_output": False}
        skeleton = explain(model, planted.prompt, method="saliency", output=planted.output, units=planted.units)
        ids = torch.tensor([[*skeleton.prompt_ids, *(output.id for output in skeleton.outputs)]])[:, :-1]
        with model.borrowed(), torch.no_grad():
            forward = median(_timed(partial(model.logits, ids)) for _ in range(7))
        works = {name: partial(explain, model, planted.prompt, method=name, **asked) for name in names}
        works |= {scorer.name: partial(scorer.function, model, skeleton) for scorer in scorers}
        for name, work in works.items():
            try:
                with _counted(model.model) as tokens:
                    took = _timed(work)
            except AttributionError:
                continue
            times.setdefault(name, []).append(took / forward)
            passes.setdefault(name, []).append(sum(tokens) / ids.numel())
    return (
        {name: float(np.mean(found)) for name, found in passes.items()},
        {name: median(found) for name, found in times.items()},
    )


@contextmanager
def _counted(module: Any) -> Generator[list[int]]:
    """The tokens that go through the model meanwhile, forwards and backwards, in a list with a number for each pass."""
    tokens: list[int] = []

    def forwards(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = named.get("input_ids", named.get("inputs_embeds", arguments[0] if arguments else None))
        tokens.append(given.shape[0] * given.shape[1])

    def backwards(_module: Any, _arguments: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        if hidden.requires_grad:  # a batched product counts as often as it has rows
            hidden.register_hook(lambda gradient: tokens.append(gradient.numel() // hidden.shape[-1]))

    handles = [
        module.base_model.register_forward_pre_hook(forwards, with_kwargs=True),
        module.base_model.register_forward_hook(backwards),
    ]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


def _timed(work: Any) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun


def all_measured(
    families: Sequence[str], count: int, models: Path, journals: Path, processes: int
) -> Iterator[Measured]:
    """Every family, the slowest first, several at a time."""
    ordered = sorted(families, key=lambda family: (family != "needle", family))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(measure, family, count, models, journals) for family in ordered]
        for family, future in zip(ordered, running, strict=True):
            begun = perf_counter()
            yield future.result()
            print(f"{family}: measured, {perf_counter() - begun:.0f} s more", file=sys.stderr)


def main() -> int:
    """The command line."""
    from attribution.planted.families import FAMILIES, SHORTCUTS
    from benchmarks.board_pages import write_board
    from training.shortcuts import is_current, train_shortcut

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "docs", help="folder to write the board to")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of each family that methods are measured on")
    parser.add_argument("--families", nargs="*", default=[*FAMILIES, *SHORTCUTS], help="which families")
    parser.add_argument("--models", type=Path, default=FOLDER / "training" / "out" / "shortcuts")
    parser.add_argument("--journals", type=Path, default=FOLDER / "training" / "out" / "board")
    parser.add_argument("--resume", action="store_true", help="go on with a run of the same models that was stopped")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not options.resume:
        shutil.rmtree(options.journals, ignore_errors=True)
    options.journals.mkdir(parents=True, exist_ok=True)
    for family in options.families:
        if family in SHORTCUTS and not is_current(options.models / family):
            print(f"{family}: training its model", file=sys.stderr)
            train_shortcut(family, options.models / family)
    found = list(all_measured(options.families, options.prompts, options.models, options.journals, options.processes))
    write_board(found, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
