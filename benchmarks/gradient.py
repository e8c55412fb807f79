"""Gradient attribution against Captum and Inseq: `python -m benchmarks.gradient`. See README.md."""

from __future__ import annotations

import sys

from benchmarks.command import Benchmark, run
from benchmarks.questions import Question
from benchmarks.rows import OURS, Peer, Row

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

BENCHMARK = Benchmark(
    module="benchmarks.gradient",
    about="Gradient attribution against Captum and Inseq. See README.md.",
    rows={"cpu": GPT2_ROWS, "cuda": (*GPT2_ROWS, *GEMMA_ROWS)},
    desk="benchmarks.gradient_libraries:open_desk",
    packages=("torch", "transformers", "captum", "inseq"),
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
