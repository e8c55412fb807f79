"""Plans: in which passes remainders of a text are computed, and what that costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from attribution.absence import Remainder
from attribution.engine import memory, packing
from attribution.engine.flops import count_flops
from attribution.engine.packing import Pack
from attribution.models.local import LocalModel

TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 16384}
"""How many tokens keep a kind of device busy; more only take memory."""

PASS = {"cpu": 32, "cuda": 512}
"""What a pass costs besides its tokens, in tokens: the weights are read once, and every operation is begun."""

ATTENTION = 1.5
"""How much longer an operation of attention takes than one of a large matrix product; measured on a CPU."""


@dataclass(frozen=True)
class Plan:
    """What would be computed: in how many forward passes, with how many tokens that look at how many others, and the
    most memory that one pass would take, in bytes.
    """

    packs: tuple[Pack, ...]
    batches: tuple[tuple[int, ...], ...]
    """Indices of the remainders that are computed together, where they are not packed."""
    passes: int
    tokens: int
    """Padding counted."""
    pairs: float
    rows: int
    """How many rows of logits."""
    bytes: float

    @property
    def looks_back(self) -> bool:
        """Whether it needs the keys and values of the whole text."""
        return any(pack.prefix for pack in self.packs)


class Planner:
    """Plans for remainders of a text, `whole`, on a model; `tokens_at_once` bounds what one pass computes.

    Remainders are packed or batched (see `ablation`), whichever costs less. `ratio` says what a packed token costs in
    batched ones that see as much; `kept` is how many bytes the model keeps of each token, where that is known.
    """

    def __init__(self, model: LocalModel, whole: Remainder, tokens_at_once: int | None) -> None:
        self._model, self.whole = model, whole
        self._flops = count_flops(model)
        self.busy = tokens_at_once or TOKENS_AT_ONCE.get(model.device.type, TOKENS_AT_ONCE["cuda"])
        self._pass = PASS.get(model.device.type, PASS["cuda"])
        self.kept: int | None = None

    @property
    def slope(self) -> float:
        """What a token costs for every token that it looks at, in tokens that look at none."""
        return ATTENTION * self._flops.pair / self._flops.token

    def cost(self, plan: Plan) -> float:
        """What a plan costs, in tokens that look at nothing."""
        return plan.tokens + self.slope * plan.pairs + self._pass * plan.passes

    def best(self, remainders: Sequence[Remainder], busy: int, *, ratio: float | None, remembered: bool) -> Plan:
        """The cheaper plan for remainders none of which is there twice, in passes that fit into memory.

        `ratio` None stands for remainders that cannot be packed. Where the whole text is not `remembered` yet, to look
        back at it costs a pass over it.
        """
        room = memory.budget(self._model) / 2
        batched = self._fitting(lambda at_once: self.batched(remainders, at_once), busy, room)
        if ratio is None:
            return batched
        first = 0 if remembered else len(self.whole.ids)
        packed = self._fitting(lambda at_once: self._packed(remainders, at_once, first), busy, room)
        fits = packed.bytes <= max(room, batched.bytes)
        return packed if fits and self.cost(packed) * ratio <= self.cost(batched) else batched

    def _fitting(self, make: Callable[[int], Plan], busy: int, room: float) -> Plan:
        """The plan with as many tokens at once as memory has room for."""
        plan = make(busy)
        while plan.bytes > room and busy > 1:
            busy //= 2
            plan = make(busy)
        return plan

    def after_whole(self, plan: Plan) -> Plan:
        """The plan behind a pass over the whole text."""
        length = len(self.whole.ids)
        return replace(
            plan,
            passes=plan.passes + 1,
            tokens=plan.tokens + length,
            pairs=plan.pairs + float(length) ** 2,
            rows=plan.rows + len(self.whole.rows),
        )

    def _packed(self, remainders: Sequence[Remainder], tokens_at_once: int, first: int) -> Plan:
        """The cheaper of two ways to pack: as branches of the whole text, or each from its first token on."""
        alone, shared = (
            self.packed(
                remainders, list(packing.packs(packing.branches(remainders, trunk), tokens_at_once, self.slope))
            )
            for trunk in (None, self.whole)
        )
        if first and shared.looks_back:
            shared = self.after_whole(shared)
        return min(shared, alone, key=self.cost)

    def packed(self, remainders: Sequence[Remainder], packs: Sequence[Pack]) -> Plan:
        """The plan that these packs are."""
        sizes = [self._bytes(p.tokens, p.prefix, p.width, _rows(remainders, p.indices), masked=True) for p in packs]
        return Plan(
            packs=tuple(packs),
            batches=(),
            passes=len(packs),
            tokens=sum(pack.tokens for pack in packs),
            pairs=sum(float(pack.tokens) * (pack.prefix + pack.width) for pack in packs),
            rows=sum(len(remainder.rows) for remainder in remainders),
            bytes=max(sizes, default=0.0),
        )

    def batched(self, remainders: Sequence[Remainder], tokens_at_once: int) -> Plan:
        """Remainders of one length together, gaps counted."""
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for index, remainder in enumerate(remainders):
            groups[remainder.extent, remainder.has_gaps].append(index)
        batches: list[tuple[int, ...]] = []
        tokens, pairs, most = 0, 0.0, 0.0
        for (extent, _), group in sorted(groups.items()):
            size = max(1, tokens_at_once // extent)
            batches += [tuple(group[start : start + size]) for start in range(0, len(group), size)]
            tokens += extent * len(group)
            pairs += float(extent) ** 2 * len(group) / 2  # none looks at what comes after it, and no mask is read
            largest = group[:size]
            most = max(most, self._bytes(extent * len(largest), 0, extent, _rows(remainders, largest), masked=False))
        rows = sum(len(remainder.rows) for remainder in remainders)
        return Plan((), tuple(batches), len(batches), tokens, pairs, rows, most)

    def _bytes(self, tokens: int, prefix: int, width: int, rows: int, *, masked: bool) -> float:
        """About how much memory a pass takes while it runs."""
        size = torch.finfo(self._model.model.dtype).bits // 8
        kept = self.kept or 4 * self._model.width * size
        states = 24.0 * tokens * self._model.width * size
        seen = tokens / width * (prefix + width) * kept + 2.0 * tokens * (prefix + width) * size if masked else 0.0
        return states + seen + 12.0 * rows * self._model.vocabulary_size


def _rows(remainders: Sequence[Remainder], indices: Sequence[int]) -> int:
    return sum(len(remainders[i].rows) for i in indices)
