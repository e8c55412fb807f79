"""Roads: what is known about packing on a model, found out on what it is asked first (see `ablation`)."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from attribution.absence import Remainder
from attribution.engine import memory, packing
from attribution.engine.passes import Passes
from attribution.engine.plan import Planner
from attribution.models.local import LocalModel, Memory

log = logging.getLogger(__name__)

BRANCHES = 3
"""How many remainders a trial has at least: one alone sees nothing that it must not."""

TOKENS = 256
"""How many tokens of more than these are computed on each road to find out what they cost."""

ROUNDING = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 1e-2}
"""Up to where two roads differ by rounding alone, relative to the largest number, which counts at least 1."""

SHARE = 0.02
"""And up to which share of what absence changes."""


@dataclass
class Road:
    """What is known about packing on a model."""

    works: bool
    ratio: float = 1.0
    """What a packed token costs, in batched ones that see as much."""
    measured: int = 0
    """The longest text on which that was measured."""
    checked: int = 0
    """The longest text on which it gave what the plain way gives."""
    masks_hold: bool | None = None
    """Whether what is masked changes nothing; None as long as it was not asked."""


_known: WeakKeyDictionary[nn.Module, tuple[Hashable, Road]] = WeakKeyDictionary()


def road(model: LocalModel) -> Road:
    """What is known about packing on this model; nothing any more where its parameters were exchanged since."""
    state = model.state
    known = _known.get(model.model)
    if known is None or known[0] != state:
        known = _known[model.model] = (state, Road(works=model.takes_masks))
    return known[1]


def choose_trial(known: Road, chosen: Sequence[Remainder], work: int) -> list[Remainder]:
    """Some of the remainders, more than `BRANCHES`, to find something out by; none where nothing need be known.

    Beyond `BRANCHES` they are few enough for a share of the tokens that the `work` would take.
    """
    longest = max(len(remainder.ids) for remainder in chosen)
    if longest <= 2 * known.checked and longest <= 4 * known.measured:
        return []
    count = max(BRANCHES, min(work // 16, TOKENS) // longest)
    # From the longest on, one that is whole apart: on that every road agrees.
    order = sorted(range(len(chosen)), key=lambda i: -len(chosen[i].ids))
    indices = np.linspace(1, len(chosen) - 1, min(count, len(chosen) - 1)).round().astype(int)
    return [chosen[order[i]] for i in dict.fromkeys(indices.tolist())]


def try_out(
    model: LocalModel, planner: Planner, passes: Passes, trial: Sequence[Remainder], whole: Tensor, kept: Memory
) -> None:
    """Computes the trial on both roads: do they give the same, and what does each cost? Writes down what it finds.

    `whole` is what the passes say of the whole text.
    """
    known = road(model)
    # As few rows as can be: branches in one row must not see each other.
    packs = list(packing.packs(packing.branches(trial, planner.whole), planner.busy, slope=0.0))
    batches = planner.batched(trial, planner.busy)
    on_packs = [(pack.indices, partial(passes.packed, trial, pack, kept)) for pack in packs]
    in_batches = [(batch, partial(passes.batched, [trial[i] for i in batch])) for batch in batches.batches]
    try:
        packed_seconds, packed = _timed(on_packs)
    except Exception as error:  # whatever a model makes of inputs that it does not expect
        if memory.is_out_of_memory(error):
            raise
        log.info("%s takes no packed prompts: %s", model.name, error)
        known.works = False
        return
    batched_seconds, batched = _timed(in_batches)
    if not agree(packed, batched, _unchanged(trial, batched, planner.whole, whole), model.model.dtype):
        known.works = False
        warnings.warn(
            f"Packed prompts and plain ones differ by {float((packed - batched).abs().max()):.2g} on {model.name}. "
            "They are computed the plain way, which takes longer.",
            stacklevel=2,
        )
        return
    longest = len(trial[0].ids)
    known.checked = max(known.checked, longest)
    if longest > 4 * known.measured:
        # Once more, for whatever happens at the first time only.
        packed_seconds = min(packed_seconds, _timed(on_packs)[0])
        batched_seconds = min(batched_seconds, _timed(in_batches)[0])
        packed_cost = packed_seconds / planner.cost(planner.packed(trial, packs))
        known.ratio = min(3.0, max(0.5, packed_cost * planner.cost(batches) / batched_seconds))
        known.measured = longest


def _timed(works: Sequence[tuple[Sequence[int], Callable[[], Tensor]]]) -> tuple[float, Tensor]:
    """Seconds that the work took, and what came out, in the order of the indices."""
    start = time.perf_counter()
    found = [work() for _, work in works]
    seconds = time.perf_counter() - start
    order = np.argsort([i for indices, _ in works for i in indices])
    return seconds, torch.cat(found)[torch.from_numpy(order)]


def _unchanged(trial: Sequence[Remainder], scores: Tensor, text: Remainder, whole: Tensor) -> Tensor:
    """What each one would say with nothing absent; of items that the text does not have, what they say on average."""
    found = scores.clone()
    for items in {remainder.items.tobytes() for remainder in trial}:
        same = [index for index, remainder in enumerate(trial) if remainder.items.tobytes() == items]
        found[same] = whole[0] if items == text.items.tobytes() else scores[same].mean(0)
    return found


def agree(one: Tensor, other: Tensor, whole: Tensor, dtype: torch.dtype) -> bool:
    """Whether two roads to the same log-probabilities differ by rounding, and little of what absence changes."""
    rounding = ROUNDING.get(dtype, 1e-2) * max(1.0, float(other.abs().max()))
    return float((one - other).abs().max()) <= rounding + SHARE * float((other - whole).abs().max())
