"""Results written by hand, for games whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attribution.result import Attribution, Output, Unit


def scored(
    scores: Sequence[float] | Sequence[Sequence[float]] | np.ndarray,
    lengths: Sequence[int] | None = None,
    *,
    signed: bool = True,
    per_output: bool = True,
) -> Attribution:
    """A result with these scores, `[unit]` or `[target, unit]`, of units of so many tokens; one each by default."""
    table = np.atleast_2d(np.asarray(scores, np.float32))
    edges = np.cumsum([0, *([1] * table.shape[1] if lengths is None else lengths)]).tolist()
    units = [
        Unit(f"u{i}", 3 * i, 3 * i + 3, edges[i], edges[i + 1], role="prompt", special=False)
        for i in range(table.shape[1])
    ]
    return Attribution(
        scores=table,
        output_scores=None,
        units=tuple(units),
        outputs=tuple(Output(f"o{i}", i, -1.0) for i in range(len(table))),
        prompt="u0 " * len(units),
        granularity="word",
        method={"name": "by_hand", "options": {}, "signed": signed, "unit": "nats"},
        target="logprob",
        ablation="delete",
        seed=0,
        model={"name": "game"},
        cost={"forwards": 0, "backwards": 0, "tokens": 0},
        versions={},
        per_output=per_output,
    )
