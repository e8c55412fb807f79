"""The command of a benchmark: its options, the line about where it is measured, and its rows one after the other.

Every library runs in a process of its own, on a random model of which each has the same copy, and all take turns.
What is compared are medians over the rounds. F is the median of one plain forward pass over prompt and output with one
row of logits, in our process and in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from benchmarks.rows import OURS, Row, measure
from benchmarks.table import HEADER, failures, table_lines
from benchmarks.workers import Worker, WorkerError


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark measures on which device, and how.

    `module` is what is run with `python -m`, `about` one line on it. `desk` names the function that opens a library's
    desk (see `workers.Worker`), `packages` are those whose versions are told.
    """

    module: str
    about: str
    rows: Mapping[str, Sequence[Row]]
    desk: str
    packages: tuple[str, ...]


def run(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Prints the table, row by row; the exit status is 1 where something could not be measured."""
    options = _parser(benchmark).parse_args(arguments)
    rows = {row.name: row for row in benchmark.rows[options.device]}
    if options.list:
        print("\n".join(rows))
        return 0
    unknown = sorted(set(options.only) - set(rows))
    if unknown:
        print(f"Expected rows out of {', '.join(rows)}, got {', '.join(unknown)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    start = partial(_start, desk=benchmark.desk, device=options.device, threads=options.threads)
    failed = False
    with ExitStack() as stack:
        running: dict[str, Worker] = {}

        def workers(library: str) -> Worker:
            if library not in running or not running[library].alive:
                running[library] = stack.enter_context(start(library))
            return running[library]

        try:
            workers(OURS)
        except WorkerError as error:
            print(f"Nothing can be measured with --device {options.device}: {error}.", file=sys.stderr)
            return 1
        print(_circumstances(benchmark.packages, options.device, options.threads), *HEADER, sep="\n", flush=True)
        for name in options.only or rows:
            measurement = measure(rows[name], workers, start, options.rounds)
            print(*table_lines(measurement), sep="\n", flush=True)
            print(*failures(measurement), sep="\n", end="\n" * bool(failures(measurement)), file=sys.stderr)
            failed |= bool(failures(measurement))
    return int(failed)


def _parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    devices = sorted(benchmark.rows)
    parser = argparse.ArgumentParser(prog=f"python -m {benchmark.module}", description=benchmark.about)
    parser.add_argument("--rounds", type=_from_one, default=5, help="counted rounds at most; long rows have fewer")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--device", choices=devices, default="cpu", help="each has rows of its own (see --list)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="measure these rows alone")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and measure nothing")
    return parser


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _start(library: str, *, desk: str, device: str, threads: int) -> Worker:
    return Worker(desk, library, device, threads)


def _circumstances(packages: Sequence[str], device: str, threads: int) -> str:
    """Where and with what a table was measured, in one line above it."""
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    cores = f"{os.cpu_count()} cores" + (f", {threads} threads" if threads else "")
    load = os.getloadavg()[0]
    return (
        f"On {device} ({platform.machine()}, {cores}, load average {load:.1f} at the start), "
        f"Python {platform.python_version()}, {versions}.\n"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
