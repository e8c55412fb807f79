"""Rewriting: what a model says after prompts of which parts are absent, and how like the output that is.

Prompts of one length are a batch, without padding, so that every architecture takes them; the model writes on from all
of them at once (`LocalModel.generate_all`). What takes time is the number of passes, one for every token that is
written, since the weights are read in each: batches are as large as memory allows, within reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from attribution.absence import Remainder
from attribution.engine import memory
from attribution.engine.ablation import Allowed, Spent
from attribution.engine.plan import PASS, TOKENS_AT_ONCE, Plan
from attribution.models.local import LocalModel
from attribution.target import Ids, Semantic, overlap, sameness

PromptIds = Int[np.ndarray, "_"]
"""The ids of a prompt, of whatever length."""


class Rewriting:
    """The engine: a model, what it said (`output`), and how what it says after other prompts is compared with that.

    `tokens_at_once` bounds how many tokens of prompts are read in one pass.
    """

    def __init__(self, model: LocalModel, output: Ids, semantic: Semantic, tokens_at_once: int | None = None) -> None:
        self._model, self._by = model, semantic.by
        self.max_new_tokens = semantic.max_new_tokens or len(output)
        kind = model.device.type
        self._busy = tokens_at_once or TOKENS_AT_ONCE.get(kind, TOKENS_AT_ONCE["cuda"])
        # As many as make a pass's tokens cost what the pass itself does, even where their prompts are long.
        self._rows = 1 if tokens_at_once else PASS.get(kind, PASS["cuda"])
        special: Sequence[int] = getattr(model.tokenizer, "all_special_ids", ())
        self._silent = model.stop_ids | frozenset(special)
        self._output = self._said(output)

    def similarities(
        self, remainders: Sequence[Remainder], allowed: Allowed | None = None
    ) -> tuple[Float[Tensor, " remainder"], Spent]:
        """How like the output it is what the model says after the prompt of each remainder, and what that took.

        The same prompt is computed once. NaN where what is allowed came to its end before. Raises
        `ContextWindowError` where a prompt and what may follow it are too long for the model.
        """
        found, spent = self.written([prompt_of(remainder) for remainder in remainders], allowed)
        known = {output: self._similarity(output) for output in found if output is not None}
        similarities = [torch.nan if output is None else known[output] for output in found]
        return torch.tensor(similarities, dtype=torch.float32), spent

    def written(self, prompts: Sequence[PromptIds], allowed: Allowed | None = None) -> tuple[list[Ids | None], Spent]:
        """What the model says after each prompt, None where what is allowed came to its end before; and the costs."""
        keys = [prompt.tobytes() for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        self._model.check_length(max(map(len, prompts), default=0), self.max_new_tokens)
        run = _Run(self, self._model, list(distinct.values()), allowed or Allowed())
        run.finish()
        by_key = dict(zip(distinct, run.outputs, strict=True))
        return [by_key[key] for key in keys], run.spent

    def plan(self, remainders: Sequence[Remainder]) -> Plan:
        """What it takes at most, where no output ends before it is as long as it may be. Nothing is computed."""
        prompts = list({prompt.tobytes(): prompt for prompt in map(prompt_of, remainders)}.values())
        batches = list(self.batches(prompts, range(len(prompts))))
        lengths = [len(prompt) for prompt in prompts]
        times = 1 if self._model.remembers else self.max_new_tokens
        return Plan(
            packs=(),
            batches=tuple(map(tuple, batches)),
            passes=len(batches) * self.max_new_tokens,
            tokens=sum(map(self.tokens, lengths)),
            pairs=times * sum(float(length + self.max_new_tokens - 1) ** 2 for length in lengths) / 2,
            rows=len(prompts) * self.max_new_tokens,
            bytes=max((len(batch) * self._bytes(lengths[batch[0]]) for batch in batches), default=0.0),
        )

    def tokens(self, length: int) -> int:
        """How many tokens are computed at most for a prompt of this length; the last one written is not read."""
        more = self.max_new_tokens - 1
        return length + more if self._model.remembers else (more + 1) * length + more * (more + 1) // 2

    def batches(self, prompts: Sequence[PromptIds], todo: Sequence[int], divisor: int = 1) -> Iterator[list[int]]:
        """Prompts of one length together, the short ones first; `divisor` times fewer than memory seems to allow."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index in todo:
            groups[len(prompts[index])].append(index)
        room = memory.budget(self._model) / 2
        for length, group in sorted(groups.items()):
            rows = min(max(self._rows, self._busy // length), int(room / self._bytes(length)))
            size = max(1, rows // divisor)
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def many(self, prompts: Sequence[PromptIds]) -> int:
        """How many of these prompts are computed before the clock is looked at for the next ones."""
        return max(16, self._rows, 8 * self._busy // max(map(len, prompts)))

    def _bytes(self, length: int) -> float:
        """About how much memory a prompt takes while the model reads it and writes on."""
        model, size = self._model, torch.finfo(self._model.model.dtype).bits // 8
        kept = 2.0 * model.n_layers * model.width * (length + self.max_new_tokens)
        return (24.0 * length * model.width + kept) * size + 12.0 * model.vocabulary_size

    # Comparing

    def _said(self, output: Ids) -> tuple[str, Ids]:
        """What of an output counts: its text, and the ids of that."""
        ids = tuple(i for i in output if i not in self._silent)
        return self._model.codec.decode(ids).strip(), ids

    def _similarity(self, output: Ids) -> float:
        (own_text, own), (text, ids) = self._output, self._said(output)
        if not text or not own_text or self._by == "exact":
            return sameness(text, own_text)
        if self._by == "overlap":
            return overlap(text, own_text)
        one, other = (self._model.embed(each).double().mean(0) for each in (ids, own))
        return min(1.0, max(0.0, float(functional.cosine_similarity(one, other, dim=0))))


def prompt_of(remainder: Remainder) -> PromptIds:
    """What is left of the prompt, up to the token that predicts the first one of the output; there are no gaps."""
    return remainder.ids[: remainder.rows[0] + 1]


class _Run:
    """One call: prompts, none of them twice, and what is written so far."""

    def __init__(self, engine: Rewriting, model: LocalModel, prompts: Sequence[PromptIds], limits: Allowed) -> None:
        self._engine, self._model, self._prompts, self._limits = engine, model, prompts, limits
        self.outputs: list[Ids | None] = [None] * len(prompts)
        self.spent = Spent()

    def finish(self) -> None:
        """Computes what is allowed, those that were asked first before the others."""
        todo = list(range(len(self._prompts)))
        with tqdm(total=len(todo), desc="ablations", disable=None, delay=1, leave=False) as bar:
            while part := self._next(todo):
                todo = todo[len(part) :]
                self._compute(part, bar)

    def _next(self, todo: list[int]) -> list[int]:
        """Those of them that come next: all that can be paid for; with a limit of time some at a time."""
        limits = self._limits
        if limits.is_over:
            return []
        if limits.forwards is not None:
            todo = todo[: max(0, limits.forwards - self.spent.forwards)]
        if limits.tokens is not None:
            # What ends early leaves something over, for the next part.
            most = np.cumsum([self._engine.tokens(len(self._prompts[i])) for i in todo])
            todo = todo[: int((most <= limits.tokens - self.spent.tokens).sum())]
        if limits.until is not None and todo:
            todo = todo[: self._engine.many([self._prompts[i] for i in todo])]
        return todo

    def _compute(self, todo: list[int], bar: Any) -> None:
        """Writes after these; out of memory, again with half as many at once."""
        divisor = 1
        while todo := [i for i in todo if self.outputs[i] is None]:
            size = 0
            try:
                for batch in self._engine.batches(self._prompts, todo, divisor):
                    if self._limits.is_over:
                        return
                    size = len(batch)
                    ids = torch.from_numpy(np.stack([self._prompts[i] for i in batch]))
                    found, tokens = self._model.generate_all(ids, self._engine.max_new_tokens)
                    for index, output in zip(batch, found, strict=True):
                        self.outputs[index] = output
                    self.spent.forwards += len(batch)
                    self.spent.tokens += tokens
                    bar.update(len(batch))
            except RuntimeError as error:
                if size <= 1 or not memory.is_out_of_memory(error):
                    raise
                divisor *= 2
