"""Gradient attribution against Captum and Inseq: `python -m benchmarks.gradient`. See README.md.

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
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from benchmarks.questions import Question
from benchmarks.rows import OURS, Peer, Row, measure
from benchmarks.table import HEADER, failures, table_lines
from benchmarks.workers import Worker, WorkerError

GPT2_ROWS = (
    Row(
        "matrix-17",
        Question("gpt2", 17, 7),
        "matrix",
        (Peer("Captum", "matrix", times=3), Peer("Inseq", "matrix", times=3)),
        at_most=5.5,
    ),
    Row(
        "matrix-187",
        Question("gpt2", 187, 16),
        "matrix",
        (Peer("Captum", "matrix", times=2), Peer("Inseq", "matrix", times=2)),
    ),
    Row("span-16", Question("gpt2", 187, 16), "span", (Peer("Captum", "span", times=12),), at_most=3.5),
    Row("span-64", Question("gpt2", 187, 64), "span", (Peer("Captum", "span", times=40),), at_most=3.5),
    Row(
        "ig",
        Question("gpt2", 187, 16),
        "integrated gradients",
        (Peer("Captum", "integrated gradients", times=2, cosine=0.99),),
    ),
    Row(
        "ig-memory",
        Question("gpt2", 187, 16),
        "integrated gradients",
        (Peer("Captum", "integrated gradients", times=3, cosine=0.99),),
        measure="memory",
    ),
    Row("attnlrp", Question("llama", 187, 16), "AttnLRP", (Peer(OURS, "span", times=1 / 1.3, cosine=None),)),
    Row(
        "matrix-1000-memory",
        Question("gpt2", 1000, 16),
        "matrix",
        (Peer("Captum", "matrix", times=2),),
        measure="memory",
    ),
)

GEMMA_ROWS = (
    # In bfloat16 two ways to the same gradient differ by percents.
    Row(
        "gemma-matrix-30",
        Question("gemma-2b", 30, 7),
        "matrix",
        (Peer("Captum", "matrix", times=None, cosine=0.9), Peer("Inseq", "matrix", times=None, cosine=0.9)),
    ),
    Row(
        "gemma-span-4096-16",
        Question("gemma-2b", 4096, 16),
        "span",
        (Peer("Captum", "span", times=None, cosine=0.9),),
    ),
    Row(
        "gemma-span-4096-64",
        Question("gemma-2b", 4096, 64),
        "span",
        (Peer("Captum", "span", times=None, cosine=0.9),),
    ),
)

ROWS = {"cpu": GPT2_ROWS, "cuda": (*GPT2_ROWS, *GEMMA_ROWS)}
"""What is measured on which device."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, row by row; the exit status is 1 where something could not be measured."""
    options = _parser().parse_args(arguments)
    rows = {row.name: row for row in ROWS[options.device]}
    if options.list:
        print("\n".join(rows))
        return 0
    unknown = sorted(set(options.only) - set(rows))
    if unknown:
        print(f"Expected rows out of {', '.join(rows)}, got {', '.join(unknown)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    start = partial(_start, device=options.device, threads=options.threads)
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
        print(_circumstances(options.device, options.threads), *HEADER, sep="\n", flush=True)
        for name in options.only or rows:
            measurement = measure(rows[name], workers, start, options.rounds)
            print(*table_lines(measurement), sep="\n", flush=True)
            print(*failures(measurement), sep="\n", end="\n" * bool(failures(measurement)), file=sys.stderr)
            failed |= bool(failures(measurement))
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradient", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=_from_one, default=5, help="counted rounds at most; long rows have fewer")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--device", choices=sorted(ROWS), default="cpu", help="cuda has rows of Gemma-2B's shape too")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="measure these rows alone")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and measure nothing")
    return parser


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _start(library: str, *, device: str, threads: int) -> Worker:
    return Worker("benchmarks.libraries:open_desk", library, device, threads)


def _circumstances(device: str, threads: int) -> str:
    """Where and with what a table was measured, in one line above it."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers", "captum", "inseq"))
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


if __name__ == "__main__":
    sys.exit(main())
