"""How many prompts `hierarchical` saves, on the embedded model: `python -m benchmarks.hierarchy`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

import numpy as np
import torch

from attribution.explainer import explain
from attribution.models import load
from attribution.models.local import LocalModel
from attribution.planted.families import FAMILIES, draw
from attribution.planted.needles import needle
from attribution.planted.prompt import Planted
from attribution.result import Attribution

SENTENCES = 200
LONG, SHORT = "needle-200", "short"
MOST_OF_LONG, LEAST_AGREEMENT = 0.25, 0.95
SHORT_NEEDLES = (8, 12, 16, 20, 30, 40)
"""How many sentences a needle is drawn among where prompts are short."""

HEADER = (
    "| prompts | units | how many | N | calls | leave-one-out's | of them, median | at most | same top unit "
    "| same top two | of its scores | must reach | reached |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|",
)


@dataclass(frozen=True)
class Compared:
    """What both methods asked of one prompt, and what they found."""

    units: int
    """How many can be removed."""
    calls: int
    leave_one_out: int
    is_same_top: bool
    are_same_two: bool
    share: float
    """Of leave-one-out's scores, in absolute numbers, the share on units that `hierarchical` deleted one at a time."""

    @property
    def ratio(self) -> float:
        """What part of leave-one-out's calls it takes."""
        return self.calls / self.leave_one_out


def long_needle(seed: int) -> Planted:
    """A needle among 200 sentences."""
    return needle(Random(f"needle {seed}"), True, SENTENCES)


def short_prompt(family: str, seed: int) -> Planted:
    """A prompt of this family with at most about 50 words or 40 sentences."""
    if family == "needle":
        return needle(Random(f"needle {seed}"), True, SHORT_NEEDLES[seed % len(SHORT_NEEDLES)])
    return draw(family, seed=seed)


def compare(model: LocalModel, planted: Planted, units: str) -> Compared:
    """Both methods with their defaults, each from nothing, on the planted prompt and its right output."""
    ours, theirs = (
        explain(model, planted.prompt, output=planted.output, units=units, method=method)
        for method in ("hierarchical", "leave_one_out")
    )
    own, reference = ours.total(), theirs.total()
    alone = np.ones(len(reference), bool)
    for part in ours.notes["not_looked_into"]:
        alone[slice(*part["units"])] = False
    whole = float(np.abs(reference).sum())
    top, their_top = (np.argsort(-scores, kind="stable")[:2].tolist() for scores in (own, reference))
    found = Compared(
        sum(not unit.special for unit in ours.units),
        calls(ours),
        calls(theirs),
        top[0] == their_top[0],
        set(top) == set(their_top),
        float(np.abs(reference[alone]).sum()) / whole if whole else 1.0,
    )
    print(planted.family, found, file=sys.stderr, flush=True)
    return found


def calls(result: Attribution) -> int:
    """How many different ablated prompts it took, the whole and the empty one counted."""
    assert result.evaluations is not None
    return len(result.evaluations)


def line(name: str, units: str, found: Sequence[Compared], must: str, is_reached: bool) -> str:
    """These prompts as a row of the table."""
    sizes, ratios = sorted(one.units for one in found), [one.ratio for one in found]
    cells = (
        f"`{name}`",
        units,
        f"{len(found)}",
        f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}",
        f"{np.mean([one.calls for one in found]):.1f}",
        f"{np.mean([one.leave_one_out for one in found]):.1f}",
        f"{median(ratios):.3f}",
        f"{max(ratios):.3f}",
        f"{np.mean([one.is_same_top for one in found]):.0%}",
        f"{np.mean([one.are_same_two for one in found]):.0%}",
        f"{np.mean([one.share for one in found]):.1%}",
        must,
        "yes" if is_reached else "**no**",
    )
    return f"| {' | '.join(cells)} |"


def rows(model: LocalModel, only: Sequence[str], n_long: int, n_short: int) -> Iterator[tuple[str, bool]]:
    """Every row of the table, and whether it reached what it must."""
    if LONG in only:
        found = [compare(model, long_needle(seed), "sentence") for seed in range(n_long)]
        enough = np.mean([one.is_same_top and one.ratio <= MOST_OF_LONG for one in found]) >= LEAST_AGREEMENT
        must = f"at most {MOST_OF_LONG} with the same top unit in {LEAST_AGREEMENT:.0%}"
        yield line(LONG, "sentence", found, must, bool(enough)), bool(enough)
    for family in FAMILIES if SHORT in only else ():
        for units in ("sentence",) if family == "needle" else ("word", "sentence"):
            found = [compare(model, short_prompt(family, seed), units) for seed in range(n_short)]
            enough = all(one.calls <= one.leave_one_out for one in found)
            yield line(family, units, found, "never more", enough), enough


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, row by row; the exit status is 1 where one does not reach what it must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hierarchy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=40, help=f"needles among {SENTENCES} sentences")
    parser.add_argument("--short", type=int, default=6, help="short prompts of each family")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--only", nargs="+", default=[LONG, SHORT], choices=[LONG, SHORT], help="these prompts alone")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"On {platform.machine()} ({os.cpu_count()} cores), the embedded model.\n", *HEADER, sep="\n", flush=True)
    failed = False
    for text, is_reached in rows(load("demo"), options.only, options.prompts, options.short):
        print(text, flush=True)
        failed |= not is_reached
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
