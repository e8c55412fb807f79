"""`python -m benchmarks.board` measures, and writes `docs/board.md`, `docs/board.html` and `docs/board.svg`.

All that is random comes from seeds, so that the same machine gives the same numbers but for the times.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from attribution.planted.families import FAMILIES, SHORTCUTS
from benchmarks.board.measurement import Measured, measure
from benchmarks.board.pages import write_board
from training.shortcuts import is_current, train_shortcut

FOLDER = Path(__file__).parents[2]
SLOW = ("needle", "chain_of_thought")
"""What takes longest, and is begun first."""


def measure_all(families: Sequence[str], count: int, models: Path, journals: Path, processes: int) -> None:
    """Every family, the slowest first, several at a time, each into a file; what one of them raises ends the others."""
    ordered = sorted(families, key=lambda family: (family not in SLOW, family))
    begun = perf_counter()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(measure, family, count, models, journals): family for family in ordered}
        try:
            for future in as_completed(running):
                future.result().save(journals / f"{running[future]}.json")
                print(f"{running[future]}: done after {perf_counter() - begun:.0f} s", file=sys.stderr)
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "docs", help="folder to write the board to")
    parser.add_argument("--prompts", type=int, default=4, help="prompts of each family that methods are measured on")
    parser.add_argument("--families", nargs="*", default=[*FAMILIES, *SHORTCUTS], help="which families")
    parser.add_argument("--models", type=Path, default=FOLDER / "training" / "out" / "shortcuts")
    parser.add_argument("--journals", type=Path, default=FOLDER / "training" / "out" / "board")
    parser.add_argument("--resume", action="store_true", help="go on with a run of the same models that was stopped")
    parser.add_argument("--pages", action="store_true", help="only write the pages anew, from what a run has measured")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not options.pages:
        prepare(options.families, options.models, options.journals, resume=options.resume)
        measure_all(options.families, options.prompts, options.models, options.journals, options.processes)
    write_board([Measured.load(options.journals / f"{family}.json") for family in options.families], options.out)


def prepare(families: Sequence[str], models: Path, journals: Path, *, resume: bool) -> None:
    """Trains the models that take a shortcut where they are not there, and takes away what an earlier run has left."""
    journals.mkdir(parents=True, exist_ok=True)
    for family in families:
        if not resume:
            for left in journals.glob(f"{family}.*"):
                left.unlink()
        if family in SHORTCUTS and not is_current(family, models / family):
            print(f"{family}: training its model", file=sys.stderr)
            train_shortcut(family, models / family)


if __name__ == "__main__":
    main()
