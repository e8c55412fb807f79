"""Ablation methods against Captum, Inseq and the `context-cite` package: `python -m benchmarks.ablation`.

See README.md.
"""

from __future__ import annotations

import sys

from benchmarks.command import Benchmark, run
from benchmarks.questions import Question
from benchmarks.rows import OURS, Peer, Row

REPLACED = "leave-one-out, <unk> instead"
"""Our work that means by absence what Captum and Inseq mean by it for tokens."""

ROWS = (
    Row(
        "loo-17",
        Question("gpt2", 17, 7),
        "leave-one-out",
        (
            Peer("Captum", "one call", times=2.5, like=REPLACED),
            Peer("Captum", "token by token", times=15, like=REPLACED),
            Peer("Captum", "token by token, cache mended", times=None, like=REPLACED),
            Peer("Inseq", "leave-one-out", times=15, like=f"{REPLACED}, up or down"),
        ),
        at_most=7,
    ),
    Row(
        "loo-47",
        Question("gpt2", 47, 16),
        "leave-one-out",
        (
            Peer("Captum", "one call", times=3, like=REPLACED),
            Peer("Captum", "token by token", times=30, like=REPLACED),
            Peer("Captum", "token by token, cache mended", times=None, like=REPLACED),
        ),
        at_most=24,
    ),
    Row(
        "loo-187-tokens",
        Question("gpt2", 187, 16),
        "leave-one-out",
        (Peer("Captum", "one call", times=4, like=REPLACED),),
    ),
    Row(
        "loo-187-words",
        Question("gpt2", 187, 16, unit=3),
        "leave-one-out of units",
        (Peer("Captum", "one call of units", times=4),),
    ),
    Row(
        "context-cite-40",
        Question("gpt2", 808, 16, unit=20, query=8),
        "ContextCite",
        (Peer("context-cite", "ContextCite", times=1.5, cosine=0.99),),
    ),
    Row(
        "hierarchical-1000",
        Question("planted", 5005, 8, unit=5, query=5, plants_causes=True),
        "hierarchical",
        (Peer(OURS, "naive leave-one-out", times=10, cosine=None),),
        measure="tokens",
    ),
)

BENCHMARK = Benchmark(
    module="benchmarks.ablation",
    about="Ablation methods against Captum, Inseq and the context-cite package. See README.md.",
    rows={"cpu": ROWS, "cuda": ROWS},
    desk="benchmarks.ablation_libraries:open_desk",
    packages=("torch", "transformers", "captum", "inseq", "context-cite"),
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK))
