"""Gradients: one teacher-forced forward for all outputs, then batched vector-Jacobian products.

For N prompt tokens and T outputs the obvious way costs T forwards and T backwards through the parameters too. Here it
is one forward, with the parameters frozen and the head applied only where an output is predicted; one product through
the head for all outputs, since each depends on its own row of it alone; and one batched product through the blocks for
all rows that are asked. The sum over the outputs is one row, whatever T is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribution.engine import memory
from attribution.engine.forward import (
    TOKENS_AT_ONCE,
    Forward,
    Notice,
    Place,
    here,
    lay_out,
    parts,
    places_at_once,
    read,
)
from attribution.engine.probe import probe
from attribution.engine.rules import PLAIN, Rules
from attribution.engine.rules_mode import RulesMode
from attribution.errors import ModelError, NonFiniteError
from attribution.models.local import LocalModel
from attribution.target import Reading

log = logging.getLogger(__name__)

Reduce = Callable[[Tensor, Tensor], Tensor]
"""`(gradient [row, token, embed], embeddings [token, embed]) -> [row, token]`, both in at least float32."""


def gradients(
    model: LocalModel,
    prompt: Sequence[int],
    reading: Reading,
    reduce: Reduce,
    *,
    rows: Float[Tensor, "row output"] | None = None,
    places: Sequence[Place] = (here,),
    vary: Bool[Tensor, " token"] | None = None,
    rules: Rules = PLAIN,
    tokens_at_once: int | None = None,
    notice: Notice | None = None,
) -> tuple[Float[Tensor, "row token"], Float[Tensor, " output"] | None]:
    """Reduced gradients of weighted sums of the outputs' targets, and the outputs' log-probabilities, on the CPU.

    Row r is the gradient of `sum(rows[r, t] * target[t])` with respect to the embedding of every token of prompt and
    output, summed over the `places`, and reduced to a number per token by `reduce`. By default there is one row per
    output, of that output alone, where the text itself is. Gradients with respect to the last token, which predicts
    nothing, are 0.

    Tokens that do not `vary` stay where they are at every place. `rules` change what the backward pass computes.
    `tokens_at_once` bounds what is computed in one batch. The log-probabilities are None where the first place is not
    `here`, and `notice` then hears nothing.

    Raises `NonFiniteError` where a target or a gradient is NaN or infinite, `CapabilityError` where the rules do not
    fit the model, and `ModelError` where memory does not suffice for a single row.
    """
    rows = torch.eye(len(reading.output), dtype=torch.float32) if rows is None else rows
    with torch.inference_mode(False), torch.enable_grad(), model.borrowed():
        sweep = _Sweep(model, prompt, reading, places, vary, rules, tokens_at_once, notice)
        table = torch.cat([sweep.table(part, reduce) for part in rows.split(sweep.rows_held)])
    if not (table.isfinite().all() and sweep.finite):
        raise NonFiniteError(
            "A target or a gradient of this model is NaN or infinite. In float16 load the model with "
            "dtype=torch.bfloat16 or torch.float32; otherwise check that the output is possible at all."
        )
    return torch.nn.functional.pad(table, (0, 1)).cpu(), sweep.logprobs if places[0] is here else None


class _Sweep:
    """The gradients at all places, computed in parts that fit into memory."""

    def __init__(
        self,
        model: LocalModel,
        prompt: Sequence[int],
        reading: Reading,
        places: Sequence[Place],
        vary: Bool[Tensor, " token"] | None,
        rules: Rules,
        tokens_at_once: int | None,
        notice: Notice | None,
    ) -> None:
        self._notice = notice if places[0] is here else None
        self._model, self._reading, self._places, self._rules = model, reading, places, rules
        self._layout = lay_out(model, prompt, reading)
        self._vary = torch.ones(self._layout.length, dtype=torch.bool) if vary is None else vary
        budget = memory.budget(model)
        kept = probe(model).bytes_kept(*self._layout.ids.shape)
        self._checkpointed = kept > budget
        if self._checkpointed:
            log.debug("%.2g bytes to keep and %.2g allowed: the blocks are computed twice", kept, budget)
        self._places_at_once = min(len(places), places_at_once(model, self._layout))
        busy = tokens_at_once or TOKENS_AT_ONCE.get(model.device.type, TOKENS_AT_ONCE["cuda"])
        # The backward pass holds about as much per row as the forward keeps of two blocks.
        room = budget / 2 / max(1.0, 2 * kept * self._places_at_once / model.n_layers)
        self._rows_at_once = max(1, min(busy // (self._layout.ids.numel() * self._places_at_once), int(room)))
        held = 4 * self._layout.length * model.width
        self.rows_held = max(1, int(budget / 8 / held)) if self._places_at_once < len(places) else len(reading.output)
        """For how many rows `[token, embed]` is held while parts of the places add up; one part holds nothing."""
        self.finite = True
        self.logprobs: Float[Tensor, " output"] | None = None
        """Of the output at the first place."""

    def table(self, rows: Float[Tensor, "row output"], reduce: Reduce) -> Float[Tensor, "row token"]:
        """The reduced gradients of some rows; starts again with less at once where memory runs out."""
        weights = rows @ self._reading.weights.to(rows)
        while True:
            try:
                if self._places_at_once >= len(self._places):
                    return self._gradients(self._places, weights, reduce)
                return self._add_up(weights, reduce)
            except RuntimeError as error:
                if not memory.is_out_of_memory(error):
                    raise
                self._spare(error)

    def _spare(self, error: RuntimeError) -> None:
        """Makes do with less memory; `ModelError` where nothing is left to spare."""
        if self._places_at_once > 1:
            self._places_at_once //= 2
        elif not self._checkpointed:
            self._checkpointed = True
        else:
            raise ModelError(
                "Memory does not suffice for a single gradient of this text. Shorten it, load the model with "
                "dtype=torch.bfloat16, or use a device with more memory."
            ) from error
        log.debug("out of memory; now %d places, checkpointed: %s", self._places_at_once, self._checkpointed)

    def _add_up(self, weights: Float[Tensor, "row item"], reduce: Reduce) -> Float[Tensor, "row token"]:
        total: Tensor | None = None
        seen: list[Tensor] = []

        def keep(gradient: Tensor, embeddings: Tensor) -> Tensor:
            seen.append(embeddings)
            return gradient

        for part in parts(self._places, self._places_at_once):
            found = self._gradients(part, weights, keep)
            total = found if total is None else total.add_(found)
        assert total is not None
        return reduce(total, seen[0])

    def _gradients(self, places: Sequence[Place], weights: Float[Tensor, "row item"], finish: Reduce) -> Tensor:
        """One forward at these places, and what `finish` makes of every chunk of rows."""
        forward = self._forward(places)
        self.finite = self.finite and bool(forward.scores.isfinite().all())
        if self.logprobs is None:
            self.logprobs = forward.logprobs.cpu().float()
            if self._notice is not None:
                self._notice(forward.own)
        found = [
            finish(self._fold(chunk, forward.factors), forward.embeddings) for chunk in self._products(forward, weights)
        ]
        return torch.cat(found)

    def _forward(self, places: Sequence[Place]) -> Forward:
        mode = None if self._rules.changes_nothing else RulesMode(self._rules)
        cut = not self._reading.target.reads_all_positions
        with ExitStack() as around:
            if self._checkpointed:
                again = nullcontext if mode is None else partial(RulesMode, self._rules)
                around.enter_context(self._model.checkpointed(lambda: (nullcontext(), again())))
            norms = around.enter_context(self._model.counted_norms()) if mode is not None else []
            forward = read(self._model, self._layout, self._reading, places, self._vary, cut=cut, around=mode)
        if mode is not None:
            mode.check(layers=self._model.n_layers, mixture=self._model.is_mixture, norms=len(norms))
        return forward

    def _products(
        self, forward: Forward, weights: Float[Tensor, "row item"]
    ) -> Iterator[Float[Tensor, "part batch token embed"]]:
        """The gradient of every row of weighted scores, a chunk of rows at a time, in at least float32."""
        entry = _Entry(forward, self._reading)
        leaf = forward.graph.leaf
        exact = torch.promote_types(leaf.dtype, torch.float32)
        done = 0
        while done < len(weights):
            part = weights[done : done + self._rows_at_once]
            entering, sizes = entry.of(part)
            try:
                if len(part) > 1:
                    (found,) = torch.autograd.grad(
                        entry.source, leaf, entering, retain_graph=True, is_grads_batched=True
                    )
                else:
                    last = done + 1 == len(weights)
                    found = torch.autograd.grad(entry.source, leaf, entering[0], retain_graph=not last)[0][None]
            except RuntimeError as error:
                if len(part) == 1:
                    raise
                if memory.is_out_of_memory(error):
                    self._rows_at_once = len(part) // 2
                    log.debug("out of memory; now %d rows at once", self._rows_at_once)
                else:  # some operation has no batching rule
                    self._rows_at_once = 1
                    log.debug("no batched vector-Jacobian products here: %s", error)
                continue
            done += len(part)
            yield found.to(exact) * sizes.to(leaf.device)[:, None, None, None]

    def _fold(
        self, chunk: Float[Tensor, "row batch token embed"], factors: Sequence[Tensor]
    ) -> Float[Tensor, "row length embed"]:
        """The gradients by the tokens of prompt and output, of all texts and places together."""
        n_texts = len(self._layout.ids)
        by_place = chunk.unflatten(1, (-1, n_texts))
        if n_texts == 1:
            folded = by_place[:, :, 0]
        else:
            same = self._layout.shared.to(chunk)[..., None]
            folded = (by_place[:, :, :, : self._layout.length] * same).sum(2)
        if len(factors) == 1 and factors[0].ndim == 0:
            return folded[:, 0] * factors[0]
        total = folded[:, 0] * factors[0]
        for one, factor in zip(folded.unbind(1)[1:], factors[1:], strict=True):
            total = total + one * factor
        return total


class _Entry:
    """Where the gradient of weighted scores enters the blocks: at the head's input, or at the scores themselves.

    A score depends on its own row of the head's input alone, so that a single product through the head serves all rows
    of weights; where several scores are read off one row, there is one product for each of them.
    """

    def __init__(self, forward: Forward, reading: Reading) -> None:
        graph, self._scores = forward.graph, forward.scores
        self._n_items = self._scores.shape[1]
        self._magnitudes = _magnitudes(forward, reading) if graph.leaf.dtype == torch.float16 else None
        self._by_slot: list[tuple[Tensor, Tensor, Tensor]] = []
        if graph.top is None or graph.top_leaf is None:
            self.source = self._scores
            return
        self.source = graph.top
        text, row = torch.tensor(reading.places, device=graph.top.device).T
        if graph.logits.shape[1] != graph.top.shape[1]:  # the head was given all positions and took the last rows
            row = row + graph.top.shape[1] - graph.logits.shape[1]
        for items in _slots(reading.places):
            scores = self._scores[:, items]
            scale = (
                torch.ones_like(scores) if self._magnitudes is None else 1 / self._magnitudes[items].expand_as(scores)
            )
            (slope,) = torch.autograd.grad(scores, graph.top_leaf, scale, retain_graph=True)
            self._by_slot.append((items, torch.stack([text[items], row[items]]), slope))

    def of(self, weights: Float[Tensor, "row item"]) -> tuple[Float[Tensor, "row ..."], Float[Tensor, " row"]]:
        """The gradient of every row of weighted scores at `source`, divided by a size for each row; and these sizes.

        Only float16 needs the sizes: it has no numbers for the gradient of a probability near 0 or 1.
        """
        weights = weights.to(self._scores)
        sizes = torch.ones(len(weights), device=weights.device, dtype=torch.float32)
        if self._magnitudes is not None:
            sizes = (weights.abs() * self._magnitudes).amax(1).clamp(min=1e-30)
            weights = weights / sizes[:, None]
        if not self._by_slot:
            return weights[:, None].expand(-1, len(self._scores), -1), sizes
        if self._magnitudes is not None:
            weights = weights * self._magnitudes
        entering = None
        for items, (text, row), slope in self._by_slot:
            n_texts = len(slope) // len(self._scores)
            spread = slope.new_zeros(len(weights), n_texts, slope.shape[1])
            spread[:, text, row] = weights[:, items].to(slope)
            added = (spread[:, None, ..., None] * slope.unflatten(0, (-1, n_texts))).flatten(1, 2)
            entering = added if entering is None else entering + added
        assert entering is not None
        return entering, sizes


def _slots(places: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The items in groups within which every place is read once."""
    seen: Counter[tuple[int, int]] = Counter()
    groups: list[list[int]] = []
    for item, place in enumerate(places):
        if seen[place] == len(groups):
            groups.append([])
        groups[seen[place]].append(item)
        seen[place] += 1
    return [torch.tensor(group) for group in groups]


def _magnitudes(forward: Forward, reading: Reading) -> Float[Tensor, " item"]:
    """How large every score's gradient is at the logits, where it is computed in float32."""
    (slope,) = torch.autograd.grad(forward.scores.sum(), forward.graph.logits, retain_graph=True)
    if reading.target.reads_all_positions:
        return slope.abs().amax().clamp(min=1e-30).expand(forward.scores.shape[1])
    text, row = torch.tensor(reading.places, device=slope.device).T
    by_row = slope.abs().amax(-1).unflatten(0, (len(forward.scores), -1)).amax(0)
    return by_row[text, row].clamp(min=1e-30)
