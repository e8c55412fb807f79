"""Ablated prompts: what the model says after what is left of a text, for many remainders of one text.

Two roads lead to the same numbers. *Packed*: one pass over the whole text keeps its keys and values, and the
remainders are branches of it (see `packing`). *Batched*: whole remainders of one length in one batch, without any mask,
which every architecture takes. The cheaper one is taken, by the tokens that each would compute (see `plan`) and by what
a token costs on each, measured once per model (see `roads`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from attribution.absence import Remainder
from attribution.engine import memory, roads
from attribution.engine.forward import Notice
from attribution.engine.passes import Passes
from attribution.engine.plan import Plan, Planner
from attribution.errors import CapabilityError, NonFiniteError
from attribution.models.local import LocalModel, Memory
from attribution.target import TARGETS, Target


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


class Ablation:
    """The engine: a model and a text of which parts are to be absent; what it remembers of the text it keeps.

    `whole` is the text with nothing absent. `tokens_at_once` bounds what is computed in one pass. `notice` hears of the
    whole text whenever that is read.
    """

    def __init__(
        self,
        model: LocalModel,
        whole: Remainder,
        tokens_at_once: int | None = None,
        notice: Notice | None = None,
    ) -> None:
        self.model, self.whole, self.notice = model, whole, notice
        self.planner = Planner(model, whole, tokens_at_once)
        self.memory: Memory | None = None
        self.can_remember = True
        """Whether the text can be remembered and packs fit into memory, as far as that was tried."""

    def scores(
        self, remainders: Sequence[Remainder], target: Target, allowed: Allowed | None = None
    ) -> tuple[Float[Tensor, "remainder item"], Spent]:
        """The target of every item, in at least float32 and on the CPU, and what that took.

        Every remainder must have as many items. The same remainder is computed once. A row is NaN where what is allowed
        came to its end before it. Raises `NonFiniteError` where a target is NaN or infinite, `CapabilityError` where
        positions are to be kept and the model does not heed masks.
        """
        keys = [remainder.key for remainder in remainders]
        distinct = dict(zip(keys, remainders, strict=True))
        run = _Run(self, tuple(distinct.values()), target, allowed or Allowed())
        with torch.no_grad(), self.model.borrowed():
            run.finish()
        if not run.values[run.done].isfinite().all():
            raise NonFiniteError(
                "The target of an ablated prompt is NaN or infinite. In float16 load the model with "
                "dtype=torch.bfloat16 or torch.float32; otherwise check that the output is possible at all."
            )
        places = {key: place for place, key in enumerate(distinct)}
        spent = Spent(run.forwards, run.passes.tokens)
        return run.values[torch.tensor([places[key] for key in keys], dtype=torch.long)], spent

    def plan(self, remainders: Sequence[Remainder], *, remembered: bool = False) -> Plan:
        """What scoring them would take; `remembered` as if the whole text were. Nothing is computed."""
        distinct = {remainder.key: remainder for remainder in remainders}
        plan = self.plan_of(list(distinct.values()), remembered=remembered)
        if remembered or self.memory is not None or not plan.looks_back:
            return plan
        # The pass that remembers the whole text also answers for it.
        distinct.pop(self.whole.key, None)
        return self.planner.after_whole(self.plan_of(list(distinct.values()), remembered=True))

    def plan_of(self, remainders: Sequence[Remainder], busy: int | None = None, *, remembered: bool = False) -> Plan:
        """The plan for remainders none of which is there twice, with at most `busy` tokens at once."""
        ratio = roads.road(self.model).ratio if self.may_pack(remainders) else None
        known = remembered or self.memory is not None
        return self.planner.best(remainders, busy or self.planner.busy, ratio=ratio, remembered=known)

    def may_pack(self, remainders: Sequence[Remainder]) -> bool:
        """Whether these can be branches of one tree. So few that no trial can be made of them are not worth a tree."""
        if not roads.road(self.model).works or not self.can_remember or len(remainders) <= roads.BRANCHES:
            return False
        window = self.model.attention_window
        return window is None or max(remainder.extent for remainder in (*remainders, self.whole)) < window


class _Run:
    """One call: remainders, none of them twice, and the values that are known so far."""

    def __init__(self, engine: Ablation, remainders: Sequence[Remainder], target: Target, limits: Allowed) -> None:
        self._engine, self._remainders, self._limits = engine, remainders, limits
        self._road = roads.road(engine.model)
        self.passes = Passes(engine.model, engine.whole, target, engine.notice)
        items = len(remainders[0].items) if remainders else 0
        self.values = torch.full((len(remainders), items), torch.nan, dtype=self.passes.dtype)
        self.done = torch.zeros(len(remainders), dtype=torch.bool)
        self.forwards = 0

    def finish(self) -> None:
        """Computes what is allowed, those that were asked first before the others."""
        with tqdm(total=len(self._remainders), desc="ablations", disable=None, delay=1, leave=False) as bar:
            for part in self._parts():
                if not self._limits.is_over:
                    self._compute(part, bar)

    def _parts(self) -> Iterator[list[int]]:
        """All at once; with a limit of time some at a time, with one of tokens as many as it allows."""
        limits, todo = self._limits, list(range(len(self._remainders)))
        if limits.forwards is not None:
            todo = todo[: max(0, limits.forwards)]
        if limits.tokens is not None and limits.tokens <= 0:
            todo = []
        if limits.tokens is not None and todo:
            self._prepare(todo)
            todo = todo[: self._affordable(todo, limits.tokens - self.passes.tokens)]
        size = max(1, len(todo))
        if limits.until is not None:
            size = max(16, 8 * self._engine.planner.busy // len(self._engine.whole.ids))
        for start in range(0, len(todo), size):
            yield todo[start : start + size]

    def _affordable(self, todo: list[int], tokens: int) -> int:
        """How many of them, from the first on, take at most so many tokens."""
        fits, beyond = 0, len(todo) + 1
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            plan = self._engine.plan([self._remainders[i] for i in todo[:middle]])
            fits, beyond = (middle, beyond) if plan.tokens <= tokens else (fits, middle)
        return fits

    def _compute(self, todo: list[int], bar: Any) -> None:
        """Computes these; out of memory, again with half as many tokens at once."""
        engine, busy = self._engine, self._engine.planner.busy
        self._prepare(todo)
        while todo := [i for i in todo if not self.done[i]]:
            chosen = [self._remainders[i] for i in todo]
            plan = engine.plan_of(chosen, busy)
            if plan.looks_back and engine.memory is None:
                bar.update(self._remember())
                continue
            works = [(pack.indices, partial(self.passes.packed, chosen, pack, engine.memory)) for pack in plan.packs]
            works += [(list(batch), partial(self.passes.batched, [chosen[i] for i in batch])) for batch in plan.batches]
            try:
                for indices, work in works:
                    if self._limits.is_over:
                        return
                    places = torch.tensor([todo[i] for i in indices])
                    self.values[places] = work()
                    self.done[places] = True
                    self.forwards += len(indices)
                    bar.update(len(indices))
            except RuntimeError as error:
                if not memory.is_out_of_memory(error):
                    raise
                if plan.packs and all(len(pack.indices) == 1 for pack in plan.packs):
                    engine.can_remember = False  # whole prompts take less, one by one
                elif busy == 1:
                    raise
                else:
                    busy //= 2

    def _remember(self) -> int:
        """Keeps the keys and values of the whole text. Where it is one of those asked, that answers it."""
        engine, whole = self._engine, self._engine.whole
        try:
            scores, found = self.passes.whole()
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            engine.can_remember = False
            return 0
        if found is None:
            self._cannot_remember()
            return 0
        engine.memory = found
        engine.planner.kept = found.bytes_per_token
        own = [i for i, r in enumerate(self._remainders) if len(r.ids) == len(whole.ids) and r.key == whole.key]
        for i in own:
            self.values[i], self.done[i] = scores[0], True
        self.forwards += len(own)
        return len(own)

    def _prepare(self, todo: Sequence[int]) -> None:
        """Finds out what has to be known before a road is chosen."""
        engine, chosen = self._engine, [self._remainders[i] for i in todo]
        gaps = next((remainder for remainder in chosen if remainder.has_gaps), None)
        if gaps is not None:
            self._check_masks(gaps)
        if not engine.may_pack(chosen):
            return
        plan = engine.plan(chosen)
        trial = roads.choose_trial(self._road, chosen, plan.tokens)
        if not trial or (self._road.checked and not plan.packs):
            return
        # In log-probabilities, whatever is asked: what a target leaves out of them is not for the next one to miss.
        passes = Passes(engine.model, engine.whole, TARGETS["logprob"])
        try:
            whole, kept = passes.whole()
            # It is not kept for the run, so that the same call finds the same whether or not it tries.
            if kept is None:
                self._cannot_remember()
            else:
                roads.try_out(engine.model, engine.planner, passes, trial, whole, kept)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            engine.can_remember = False
        self.passes.tokens += passes.tokens

    def _cannot_remember(self) -> None:
        """The model kept something else than keys and values of every token, always or beyond its window."""
        self._engine.can_remember = False
        self._road.works &= self._engine.model.attention_window is not None

    def _check_masks(self, trial: Remainder) -> None:
        """Raises `CapabilityError` where what is masked changes what the model says."""
        model = self._engine.model
        if self._road.masks_hold is None:
            first, last = self._engine.whole.ids[[0, -1]].tolist()
            fillers = (first, (last + 1) % model.vocabulary_size)
            passes = Passes(model, self._engine.whole, TARGETS["logprob"])
            one, other = (passes.around_gaps([trial], filler) for filler in fillers)
            self._road.masks_hold = roads.agree(one, other, other, model.model.dtype)
            self.passes.tokens += passes.tokens
        if not self._road.masks_hold:
            raise CapabilityError(
                f'ablation="mask" needs a model that heeds attention masks, and {model.name} does not. '
                'Use ablation="delete" or Replace(...).'
            )
