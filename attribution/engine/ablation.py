"""Ablated prompts: what the model says after what is left of a text, for many remainders of one text.

Two roads lead to the same numbers. *Packed*: one pass over the whole text keeps its keys and values, and the
remainders are branches of it (see `packing`). *Batched*: whole remainders of one length in one batch, without any mask,
which every architecture takes. The cheaper one is taken, by the tokens that each would compute and by what a token
costs on each, measured once per model.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from attribution.absence import Remainder
from attribution.engine import memory, packing
from attribution.engine.flops import Flops, count_flops
from attribution.engine.packing import Pack
from attribution.errors import CapabilityError, NonFiniteError
from attribution.models.local import LocalModel, Memory
from attribution.target import Target

log = logging.getLogger(__name__)

TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 16384}
"""How many tokens keep a kind of device busy; more only take memory."""

TRIAL_TOKENS = 256
"""How many tokens at most are computed on each road to find out what they cost."""

ATTENTION = 1.5
"""How much longer an operation of attention takes than one of a large matrix product; measured on a CPU."""

TOLERANCE = {torch.float64: 1e-8, torch.float32: 3e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Up to where two roads differ by rounding alone, relative to the largest number, which counts at least 1."""


@dataclass
class Spent:
    """What was computed: so many remainders, with so many tokens in all, padding counted."""

    forwards: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Allowed:
    """What may still be spent; None where there is no limit. `until` is a moment of `time.monotonic`."""

    forwards: int | None = None
    tokens: int | None = None
    until: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.until is not None and time.monotonic() >= self.until


@dataclass
class Road:
    """What is known about packing on a model."""

    works: bool
    ratio: float = 1.0
    """What a packed token costs, in batched ones that see as much."""
    measured: bool = False
    checked: int = 0
    """The longest text on which it gave what the plain way gives."""
    masks_hold: bool | None = None
    """Whether what is masked changes nothing; None as long as it was not asked."""


_roads: WeakKeyDictionary[nn.Module, Road] = WeakKeyDictionary()


def road(model: LocalModel) -> Road:
    """What is known about packing on this model."""
    return _roads.setdefault(model.model, Road(works=model.takes_masks))


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
    pairs: float
    rows: int
    bytes: float

    @property
    def looks_back(self) -> bool:
        """Whether it needs the keys and values of the whole text."""
        return any(pack.prefix for pack in self.packs)


@dataclass
class Ablation:
    """The engine: a model and a text of which parts are to be absent; what it remembers of the text it keeps.

    `whole` is the text with nothing absent. `tokens_at_once` bounds what is computed in one pass.
    """

    model: LocalModel
    whole: Remainder
    tokens_at_once: int | None = None
    memory: Memory | None = field(default=None, init=False)
    _flops: Flops = field(init=False)

    def __post_init__(self) -> None:
        self._flops = count_flops(self.model)

    # What is asked

    def scores(
        self, remainders: Sequence[Remainder], target: Target, allowed: Allowed | None = None
    ) -> tuple[Float[Tensor, "remainder item"], Spent]:
        """The target of every item, in at least float32 and on the CPU, and what that took.

        Every remainder must have as many items. The same remainder is computed once. A row is NaN where what is allowed
        came to its end before it. Raises `NonFiniteError` where a target is NaN or infinite, `CapabilityError` where
        positions are to be kept and the model does not heed masks.
        """
        distinct: dict[bytes, Remainder] = {}
        keys = [remainder.key for remainder in remainders]
        for key, remainder in zip(keys, remainders, strict=True):
            distinct.setdefault(key, remainder)
        run = _Run(self, tuple(distinct.values()), target, allowed or Allowed())
        with torch.no_grad(), self.model.borrowed():
            run.finish()
        if not run.values[run.done].isfinite().all():
            raise NonFiniteError(
                "The target of an ablated prompt is NaN or infinite. In float16 load the model with "
                "dtype=torch.bfloat16 or torch.float32; otherwise check that the output is possible at all."
            )
        places = {key: place for place, key in enumerate(distinct)}
        return run.values[torch.tensor([places[key] for key in keys], dtype=torch.long)], run.spent

    def plan(self, remainders: Sequence[Remainder], *, remembered: bool = False) -> Plan:
        """What scoring them would take; `remembered` as in `plan_of`. Nothing is computed."""
        distinct = {remainder.key: remainder for remainder in remainders}
        plan = self.plan_of(list(distinct.values()), remembered=remembered)
        if remembered or self.memory is not None or not plan.looks_back:
            return plan
        # To keep the keys and values of the whole text is a pass of its own, which also answers for it.
        distinct.pop(self.whole.key, None)
        rest, length = self.plan_of(list(distinct.values()), remembered=True), len(self.whole.ids)
        return replace(
            rest,
            passes=rest.passes + 1,
            tokens=rest.tokens + length,
            pairs=rest.pairs + float(length) ** 2,
            rows=rest.rows + len(self.whole.rows),
        )

    # Its two roads

    def plan_of(
        self, remainders: Sequence[Remainder], tokens_at_once: int | None = None, *, remembered: bool = False
    ) -> Plan:
        """The cheaper road for remainders none of which is there twice, in passes that fit into memory.

        `remembered` plans as if the keys and values of the whole text were known.
        """
        room = memory.budget(self.model) / 2
        busy = tokens_at_once or self.busy
        batched = self.batched_plan(remainders, busy)
        while batched.bytes > room and busy > 1:
            busy //= 2
            batched = self.batched_plan(remainders, busy)
        if not self.may_pack(remainders):
            return batched
        busy = tokens_at_once or self.busy
        first = 0 if remembered or self.memory is not None else len(self.whole.ids)
        packed = self._best_packed_plan(remainders, busy, first)
        while packed.bytes > room and busy > 1:
            busy //= 2
            packed = self._best_packed_plan(remainders, busy, first)
        fits = packed.bytes <= max(room, batched.bytes)
        return packed if fits and self.cost(packed) * road(self.model).ratio <= self.cost(batched) else batched

    @property
    def busy(self) -> int:
        """How many tokens are computed at once."""
        return self.tokens_at_once or TOKENS_AT_ONCE.get(self.model.device.type, TOKENS_AT_ONCE["cuda"])

    def may_pack(self, remainders: Sequence[Remainder]) -> bool:
        """Whether these can be branches of one tree."""
        window = self.model.attention_window
        longest = max(_extent(remainder) for remainder in (*remainders, self.whole))
        works = road(self.model).works and self.model.takes_masks
        return works and len(remainders) > 1 and (window is None or longest <= window)

    @property
    def slope(self) -> float:
        """What a token costs for every token that it looks at, in tokens that look at none."""
        return ATTENTION * self._flops.pair / self._flops.token

    def cost(self, plan: Plan) -> float:
        """What a plan costs, in tokens that look at nothing."""
        return plan.tokens + self.slope * plan.pairs

    def _best_packed_plan(self, remainders: Sequence[Remainder], tokens_at_once: int, first: int) -> Plan:
        """The cheaper of two ways to pack: as branches of the whole text, or each from its first token on."""
        alone, shared = (
            list(packing.packs(packing.branches(remainders, trunk), tokens_at_once, self.slope))
            for trunk in (None, self.whole)
        )
        looks_back = sum(p.cost(self.slope) for p in shared) + first < sum(p.cost(self.slope) for p in alone)
        packs = shared if looks_back else alone
        return self.packed_plan(remainders, packs, first if looks_back else 0)

    def packed_plan(self, remainders: Sequence[Remainder], packs: Sequence[Pack], first: int) -> Plan:
        sizes = [self._bytes(p.tokens, p.prefix, p.width, _rows(remainders, p.indices), masked=True) for p in packs]
        return Plan(
            packs=tuple(packs),
            batches=(),
            passes=len(packs) + bool(first),
            tokens=first + sum(pack.tokens for pack in packs),
            pairs=float(first) ** 2 + sum(float(pack.tokens) * (pack.prefix + pack.width) for pack in packs),
            rows=sum(len(remainder.rows) for remainder in remainders),
            bytes=max(sizes, default=0.0),
        )

    def batched_plan(self, remainders: Sequence[Remainder], tokens_at_once: int) -> Plan:
        """Remainders of one length together, gaps counted."""
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for index, remainder in enumerate(remainders):
            groups[_extent(remainder), _has_gaps(remainder)].append(index)
        batches: list[tuple[int, ...]] = []
        tokens, pairs, most = 0, 0.0, 0.0
        for (extent, _), group in sorted(groups.items()):
            size = max(1, tokens_at_once // extent)
            batches += [tuple(group[start : start + size]) for start in range(0, len(group), size)]
            tokens += extent * len(group)
            pairs += float(extent) ** 2 * len(group)
            largest = group[:size]
            most = max(most, self._bytes(extent * len(largest), 0, extent, _rows(remainders, largest), masked=False))
        rows = sum(len(remainder.rows) for remainder in remainders)
        return Plan((), tuple(batches), len(batches), tokens, pairs, rows, most)

    def _bytes(self, tokens: int, prefix: int, width: int, rows: int, *, masked: bool) -> float:
        """About how much memory a pass takes while it runs."""
        size = torch.finfo(self.model.model.dtype).bits // 8
        kept = self.memory.bytes_per_token if self.memory is not None else 4 * self.model.width * size
        states = 24.0 * tokens * self.model.width * size
        seen = tokens / width * (prefix + width) * kept + 2.0 * tokens * (prefix + width) * size if masked else 0.0
        return states + seen + 12.0 * rows * self.model.vocabulary_size


@dataclass
class _Run:
    """One call: remainders, none twice, and the values that are known so far."""

    engine: Ablation
    remainders: Sequence[Remainder]
    target: Target
    limits: Allowed
    values: Tensor = field(init=False)
    done: Tensor = field(init=False)
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        self.model = self.engine.model
        items = len(self.remainders[0].items) if self.remainders else 0
        dtype = torch.promote_types(self.model.model.dtype, torch.float32)
        self.values = torch.full((len(self.remainders), items), torch.nan, dtype=dtype)
        self.done = torch.zeros(len(self.remainders), dtype=torch.bool)

    def finish(self) -> None:
        """Computes what is allowed, those that were asked first before the others."""
        todo = list(range(len(self.remainders)))
        if any(map(_has_gaps, self.remainders)):
            self._check_masks()
        with tqdm(total=len(todo), desc="ablations", disable=None, delay=1, leave=False) as bar:
            for part in self._parts(todo):
                if not self.limits.is_over:
                    self._compute(part, bar)

    def _parts(self, todo: list[int]) -> Iterator[list[int]]:
        """All at once; with a limit of time some at a time, with one of tokens as many as it allows."""
        if self.limits.forwards is not None:
            todo = todo[: max(0, self.limits.forwards)]
        if self.limits.tokens is not None and todo:
            self._prepare(todo)
            todo = todo[: self._affordable(todo, self.limits.tokens - self.spent.tokens)]
        size = max(1, len(todo))
        if self.limits.until is not None:
            size = max(1, 8 * self.engine.busy // len(self.engine.whole.ids))
        for start in range(0, len(todo), size):
            yield todo[start : start + size]

    def _affordable(self, todo: list[int], tokens: int) -> int:
        """How many of them, from the first on, take at most so many tokens."""
        fits, beyond = 0, len(todo) + 1
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            plan = self.engine.plan([self.remainders[i] for i in todo[:middle]])
            fits, beyond = (middle, beyond) if plan.tokens <= tokens else (fits, middle)
        return fits

    def _compute(self, todo: list[int], bar: Any) -> None:
        busy = self.engine.busy
        while todo:
            self._prepare(todo)
            todo = [i for i in todo if not self.done[i]]
            chosen = [self.remainders[i] for i in todo]
            plan = self.engine.plan_of(chosen, busy)
            if plan.looks_back and self.engine.memory is None:
                self._remember()
                continue
            works = [(pack.indices, partial(self._packed, chosen, pack, self.engine.memory)) for pack in plan.packs]
            works += [(list(batch), partial(self._batched, [chosen[i] for i in batch])) for batch in plan.batches]
            try:
                for indices, work in works:
                    if self.limits.is_over:
                        return
                    places = torch.tensor([todo[i] for i in indices])
                    self.values[places], tokens = work()
                    self.done[places] = True
                    self.spent.forwards += len(indices)
                    self.spent.tokens += tokens
                    bar.update(len(indices))
            except RuntimeError as error:
                if busy == 1 or not memory.is_out_of_memory(error):
                    raise
                busy //= 2

    # Which road

    def _prepare(self, todo: Sequence[int]) -> None:
        """Finds out what has to be known before a road is chosen."""
        engine, known = self.engine, road(self.model)
        chosen = [self.remainders[i] for i in todo]
        if not engine.may_pack(chosen):
            return
        longest = max(len(remainder.ids) for remainder in chosen)
        if known.measured and longest <= 2 * known.checked:
            return
        plan = engine.plan(chosen)
        if not known.checked or plan.packs:
            self._try(chosen, plan.tokens // 16, longest)

    def _try(self, chosen: Sequence[Remainder], tokens: int, longest: int) -> None:
        """Computes some remainders on both roads: do they agree, and what does each cost?"""
        engine, known = self.engine, road(self.model)
        count = max(1, min(tokens, TRIAL_TOKENS) // longest)
        if known.checked and count == 1 and longest <= 2 * known.checked:
            return  # too little work to measure anything by
        trial = [chosen[i] for i in np.linspace(0, len(chosen) - 1, count + 2).round().astype(int)[1:-1]]
        trial = list({remainder.key: remainder for remainder in trial}.values())
        memories = engine.memory or self._read_whole()[1]
        if memories is None:
            known.works = False
            return
        packs = list(packing.packs(packing.branches(trial, engine.whole), engine.busy, engine.slope))
        plan = engine.batched_plan(trial, engine.busy)
        on_packs = [(pack.indices, partial(self._packed, trial, pack, memories)) for pack in packs]
        in_batches = [(list(batch), partial(self._batched, [trial[i] for i in batch])) for batch in plan.batches]
        try:
            packed_seconds, packed = self._timed(on_packs)
        except Exception as error:  # whatever a model makes of inputs that it does not expect
            if memory.is_out_of_memory(error):
                raise
            log.info("%s takes no packed prompts: %s", self.model.name, error)
            known.works = False
            return
        batched_seconds, batched = self._timed(in_batches)
        if not _agree(packed, batched, self.model.model.dtype):
            known.works = False
            warnings.warn(
                f"Packed prompts and plain ones differ by {float((packed - batched).abs().max()):.2g} on "
                f"{self.model.name}. They are computed the plain way, which takes longer.",
                stacklevel=2,
            )
            return
        known.checked = max(known.checked, longest)
        if not known.measured and count > 1:
            # Once more, for whatever happens at the first time only.
            packed_seconds = min(packed_seconds, self._timed(on_packs)[0])
            batched_seconds = min(batched_seconds, self._timed(in_batches)[0])
            packed_cost = packed_seconds / engine.cost(engine.packed_plan(trial, packs, first=0))
            known.ratio = min(3.0, max(0.5, packed_cost * engine.cost(plan) / batched_seconds))
            known.measured = True

    def _timed(self, works: Sequence[tuple[Sequence[int], Callable[[], tuple[Tensor, int]]]]) -> tuple[float, Tensor]:
        """Seconds that the work took, and what came out, in the order of the indices."""
        start = time.perf_counter()
        found = [(indices, *work()) for indices, work in works]
        seconds = time.perf_counter() - start
        self.spent.tokens += sum(tokens for *_, tokens in found)
        order = np.argsort([i for indices, *_ in found for i in indices])
        return seconds, torch.cat([scores for _, scores, _ in found])[torch.from_numpy(order)]

    # On the road

    def _read_whole(self) -> tuple[Tensor, Memory | None]:
        """The whole text's targets, and its keys and values where the model has them of every token."""
        whole = self.engine.whole
        logits, found = self.model.read_through(self._tensor(whole.ids)[None], _flat([whole]))
        self.spent.tokens += len(whole.ids)
        return logits, found

    def _remember(self) -> None:
        """Keeps the keys and values of the whole text. Where it is one of those asked, that answers it."""
        logits, self.engine.memory = self._read_whole()
        whole = self.engine.whole
        for i, remainder in enumerate(self.remainders):
            if not self.done[i] and len(remainder.ids) == len(whole.ids) and remainder.key == whole.key:
                self.values[i] = self._score(logits, [whole])[0]
                self.done[i] = True
                self.spent.forwards += 1
        road(self.model).works &= self.engine.memory is not None

    def _packed(self, remainders: Sequence[Remainder], pack: Pack, memories: Memory | None) -> tuple[Tensor, int]:
        given = packing.inputs(pack, remainders)
        logits = self.model.logits_after(
            memories if pack.prefix else None,
            pack.prefix,
            self._tensor(given.ids),
            self._tensor(given.positions),
            torch.from_numpy(given.sees),
            torch.from_numpy(given.reads),
        )
        return self._score(logits, [remainders[i] for i in pack.indices]), pack.tokens

    def _batched(self, batch: Sequence[Remainder]) -> tuple[Tensor, int]:
        extent = _extent(batch[0])
        if not _has_gaps(batch[0]):
            ids = self._tensor(np.stack([remainder.ids for remainder in batch]))
            return self._score(self.model.logits_of(ids, _flat(batch)), batch), ids.numel()
        logits = self._with_gaps(batch, extent, filler=int(self.engine.whole.ids[0]))
        return self._score(logits, batch), len(batch) * extent

    def _with_gaps(self, batch: Sequence[Remainder], extent: int, filler: int) -> Tensor:
        """Logits of remainders whose tokens stay where they were; what is between them is masked."""
        ids = np.full((len(batch), extent), filler)
        there = np.zeros((len(batch), extent), dtype=np.int64)
        for row, remainder in enumerate(batch):
            ids[row, remainder.positions] = remainder.ids
            there[row, remainder.positions] = 1
        reads = [row * extent + remainder.positions[remainder.rows] for row, remainder in enumerate(batch)]
        return self.model.logits_of(
            self._tensor(ids),
            torch.from_numpy(np.concatenate(reads)),
            attention_mask=self._tensor(there),
            position_ids=self._tensor(np.arange(extent)).expand(len(batch), -1),
        )

    def _check_masks(self) -> None:
        """Raises `CapabilityError` where what is masked changes what the model says."""
        known = road(self.model)
        if known.masks_hold is None:
            trial = next(remainder for remainder in self.remainders if _has_gaps(remainder))
            ends = self.engine.whole.ids[[0, -1]].tolist()
            fillers = (ends[0], (ends[1] + 1) % self.model.vocabulary_size)
            one, other = (self._score(self._with_gaps([trial], _extent(trial), f), [trial]) for f in fillers)
            self.spent.tokens += 2 * _extent(trial)
            known.masks_hold = _agree(one, other, self.model.model.dtype)
        if not known.masks_hold:
            raise CapabilityError(
                f'ablation="mask" needs a model that heeds attention masks, and {self.model.name} does not. '
                'Use ablation="delete" or Replace(...).'
            )

    def _score(self, logits: Float[Tensor, "row vocabulary"], batch: Sequence[Remainder]) -> Tensor:
        items = torch.from_numpy(np.concatenate([remainder.items for remainder in batch])).to(logits.device)
        return self.target.score(logits, items).to(self.values.dtype).cpu().view(len(batch), -1)

    def _tensor(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.model.device)


def _extent(remainder: Remainder) -> int:
    """How many places its tokens stretch over."""
    return int(remainder.positions[-1]) + 1


def _has_gaps(remainder: Remainder) -> bool:
    """Whether some of these places are empty."""
    return _extent(remainder) != len(remainder.ids)


def _rows(remainders: Sequence[Remainder], indices: Sequence[int]) -> int:
    return sum(len(remainders[i].rows) for i in indices)


def _flat(batch: Sequence[Remainder]) -> Tensor:
    """Where the items of remainders of one length are predicted, in the batch laid end to end."""
    return torch.from_numpy(np.concatenate([row * len(r.ids) + r.rows for row, r in enumerate(batch)]))


def _agree(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two roads to the same numbers differ by rounding alone."""
    largest = max(1.0, float(other.abs().max()))
    return float((one - other).abs().max()) <= TOLERANCE.get(dtype, 2e-1) * largest
