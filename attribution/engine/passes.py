"""Passes: what a model says after remainders of a text, computed on either road (see `ablation`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribution.absence import Remainder
from attribution.engine import packing
from attribution.engine.forward import Notice
from attribution.engine.packing import Pack
from attribution.models.local import LocalModel, Memory
from attribution.target import Target

LOGITS_AT_ONCE = 2**21
"""How many logits a CPU makes targets of at once."""


class Passes:
    """Forward passes of a model over remainders of a text; every one gives the targets, and counts its tokens.

    `notice` hears of each that reads the whole text as it is.
    """

    def __init__(self, model: LocalModel, whole: Remainder, target: Target, notice: Notice | None = None) -> None:
        self._model, self._whole, self._target, self._notice = model, whole, target, notice
        self.dtype = torch.promote_types(model.model.dtype, torch.float32)
        self.tokens = 0

    def whole(self) -> tuple[Float[Tensor, "1 item"], Memory | None]:
        """The targets after the whole text, and its keys and values where the model has them of every token."""
        logits, memory = self._model.read_through(self._ids(self._whole.ids)[None], _flat([self._whole]))
        self.tokens += len(self._whole.ids)
        return self._score(logits, [self._whole]), memory

    def packed(
        self, remainders: Sequence[Remainder], pack: Pack, memory: Memory | None
    ) -> Float[Tensor, "remainder item"]:
        """The targets of a pack's remainders, in its order, which look back at the remembered text."""
        given = packing.inputs(pack, remainders)
        logits = self._model.logits_after(
            memory if pack.prefix else None,
            pack.prefix,
            self._ids(given.ids),
            self._ids(given.positions),
            torch.from_numpy(given.sees),
            torch.from_numpy(given.reads),
        )
        self.tokens += pack.tokens
        return self._score(logits, [remainders[i] for i in pack.indices])

    def batched(self, batch: Sequence[Remainder]) -> Float[Tensor, "remainder item"]:
        """The targets of remainders of one length, each computed whole."""
        if batch[0].has_gaps:
            return self.around_gaps(batch, filler=int(self._whole.ids[0]))
        ids = self._ids(np.stack([remainder.ids for remainder in batch]))
        self.tokens += ids.numel()
        return self._score(self._model.logits_of(ids, _flat(batch)), batch)

    def around_gaps(self, batch: Sequence[Remainder], filler: int) -> Float[Tensor, "remainder item"]:
        """The targets of remainders whose tokens stay where they were; fillers stand between them, and are masked."""
        extent = batch[0].extent
        ids = np.full((len(batch), extent), filler)
        there = np.zeros((len(batch), extent), dtype=np.int64)
        for row, remainder in enumerate(batch):
            ids[row, remainder.positions] = remainder.ids
            there[row, remainder.positions] = 1
        reads = [row * extent + remainder.positions[remainder.rows] for row, remainder in enumerate(batch)]
        logits = self._model.logits_of(
            self._ids(ids),
            torch.from_numpy(np.concatenate(reads)),
            attention_mask=self._ids(there),
            position_ids=self._ids(np.arange(extent)).expand(len(batch), -1),
        )
        self.tokens += ids.size
        return self._score(logits, batch)

    def _score(self, logits: Float[Tensor, "row vocabulary"], batch: Sequence[Remainder]) -> Tensor:
        if self._notice is not None:
            size, key = len(self._whole.ids), self._whole.key
            for own, remainder in zip(logits.split(len(batch[0].items)), batch, strict=True):
                if len(remainder.ids) == size and remainder.key == key:
                    self._notice(own)
        items = torch.from_numpy(np.concatenate([remainder.items for remainder in batch])).to(logits.device)
        # What a target computes on the way takes as much memory again and again; a CPU is faster with little of it.
        rows = max(1, LOGITS_AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        parts = zip(logits.split(rows), items.split(rows), strict=True)
        scores = torch.cat([self._target.score(part, ids) for part, ids in parts])
        return scores.to(self.dtype).cpu().view(len(batch), -1)

    def _ids(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._model.device)


def _flat(batch: Sequence[Remainder]) -> Tensor:
    """Where the items of remainders of one length are predicted, in the batch laid end to end."""
    return torch.from_numpy(np.concatenate([row * len(r.ids) + r.rows for row, r in enumerate(batch)]))
