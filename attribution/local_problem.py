"""LocalProblem: what methods may ask of a prompt and its output on a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribution.absence import Replace
from attribution.engine import attention, backward, forward
from attribution.engine.ablation import Ablation, Allowed, Spent
from attribution.engine.attention import Step
from attribution.engine.backward import Reduce
from attribution.engine.forward import Place, here
from attribution.engine.plan import Plan
from attribution.engine.probe import probe
from attribution.engine.rewriting import Rewriting
from attribution.engine.rules import PLAIN, Rules
from attribution.errors import CapabilityError, InputError
from attribution.evaluations import Answers, Evaluations
from attribution.layouts import Layouts
from attribution.models.local import LocalModel
from attribution.problem import Baseline, Budget, Cost, ModelProblem, Need, OverOutputs
from attribution.prompts.prompt import Prompt, levels
from attribution.target import TARGETS, Reading, Semantic

ALTERNATIVES = 5
"""How many tokens are told that are likeliest in the place of an output token."""

_LOGITS_AT_ONCE = 2**21
"""How many of them are made probabilities at once, where a vocabulary is large and an output long."""


class LocalProblem(ModelProblem):
    """A prompt and a reading of what follows it, on a model of transformers.

    `ablation` says what an absent unit means (see `absence`). Special tokens (BOS) are never removed, whatever a mask
    says, unless `ablate_special`. With `output_units` each token of the output is a unit too. Without `per_output`
    there is one target, what `over_outputs` says of the output tokens' numbers. Of the `budget`, time runs from now on.

    The minimum is that after each ablated prompt; gradients, `value_at` and attention are of the output token whose
    number is the smallest after the whole prompt, the first of them, which may take a pass to find out. So what is
    true of a token's gradients, such as that a path's add up, is true of the minimum's.

    With `semantic` the one target is how like the output it is what the model writes after an ablated prompt; output
    tokens, which then are not given, are no units. The `reading` is the output's plain log-probability.

    Raises `ContextWindowError` where prompt and output are too long for the model, `InputError` where texts to replace
    units by do not fit, and `CapabilityError` where the model is to write on after a prompt with gaps.
    """

    def __init__(
        self,
        model: LocalModel,
        prompt: Prompt,
        reading: Reading,
        *,
        output_units: bool = False,
        per_output: bool = True,
        over_outputs: OverOutputs = "sum",
        semantic: Semantic | None = None,
        ablation: str | Replace = "delete",
        ablate_special: bool = False,
        budget: Budget | None = None,
        tokens_at_once: int | None = None,
    ) -> None:
        n_prompt, n_output = len(prompt.encoding.ids), len(reading.output)
        output_units, per_output = output_units and semantic is None, per_output and semantic is None
        rewriting = None if semantic is None else Rewriting(model, reading.output, semantic, tokens_at_once)
        if rewriting is not None and ablation == "mask":
            raise CapabilityError(
                'ablation="mask" leaves gaps in the prompt, and for a Semantic target the model writes on after what '
                'is left. Use ablation="delete" or Replace(...).'
            )
        written = 0 if rewriting is None else rewriting.max_new_tokens
        model.check_length(n_prompt, max(written, *map(len, reading.texts)))
        self.n_units = len(prompt.units) + n_output * output_units
        self.n_targets = n_output if per_output else 1
        self.n_outputs = n_output if not per_output and over_outputs == "sum" and semantic is None else 1
        self.target = reading.target.name if reading.is_plain else "contrast"
        self.unit = reading.target.unit
        """What the target is measured in."""
        self.offers: frozenset[Need] = frozenset({"value", "gradients", "attention"})
        if semantic is not None:
            self.target, self.unit = semantic.name, semantic.unit
            self.offers = frozenset({"value"})
        self.cost = Cost()
        self.notes: dict[str, Any] = {}
        self.errors: Tensor | None = None
        self.interactions: dict[tuple[int, int], Tensor] = {}
        self.is_partial = False
        self._model = model
        self._prompt = prompt
        self._reading = reading
        self._is_minimum = not per_output and over_outputs == "min"
        self._rows = torch.eye(n_output, dtype=torch.float32)
        """What each target is of the output tokens' numbers; of a minimum, what it could be."""
        if not per_output and not self._is_minimum:
            self._rows = torch.full((1, n_output), 1.0 if over_outputs == "sum" else 1 / n_output, dtype=torch.float32)
        self._smallest: int | None = None
        """The output token whose number is the smallest after the whole prompt, once that is known."""
        self._tokens_at_once = tokens_at_once
        self._logprobs: Tensor | None = None
        self._likeliest: tuple[Tensor, Tensor] | None = None
        spans = [unit.tokens for unit in prompt.units]
        if output_units:
            spans += [(i, i + 1) for i in range(n_prompt, n_prompt + n_output)]
        owners = torch.full((n_prompt + n_output,), -1)
        for index, (start, end) in enumerate(spans):
            owners[start:end] = index
        self._owners = owners
        """The unit of every token of prompt and output; -1 for an output token that is no unit."""
        special = torch.tensor([unit.special for unit in prompt.units] + [False] * n_output * output_units)
        self.removable = torch.ones_like(special) if ablate_special else ~special
        if output_units:
            self.removable[-1] = False  # the last output token is predicted only: nothing comes after it
        self.levels = tuple(map(torch.tensor, levels(prompt, n_output * output_units)))
        self._always = owners < 0
        for unit in prompt.units:
            self._always[slice(*unit.tokens)] = unit.special
        """The tokens that no place moves."""
        self._budget = budget or Budget()
        seconds = self._budget.max_seconds
        self._until = None if seconds is None else monotonic() + seconds
        self._layouts = Layouts(model.codec, prompt, reading, owners, self.removable, ablation, model.context_window)
        self._engine = Ablation(model, self._layouts.whole, tokens_at_once, self._notice)
        self._rewriting = rewriting
        self._asked = Answers(self.n_units, self.n_targets)

    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch target"]:
        masks = (keep | ~self.removable).numpy()
        missing, left = self._asked.missing(masks), self._left()
        if left.forwards is not None:
            missing = missing[: max(0, left.forwards) // self._layouts.count]
        if missing:
            self._asked.add(missing, self._compute(missing, left).numpy())
        found = torch.from_numpy(self._asked.targets(masks))
        self.is_partial |= bool(found.isnan().any())
        return found

    def remember(self, evaluations: Evaluations) -> None:
        """Takes these values as known, so that none is computed again.

        Raises `InputError` where they are of another number of units or targets.
        """
        self._asked.remember(evaluations)

    def plans(self, rounds: Sequence[Bool[Tensor, "_ unit"]]) -> list[Plan]:
        """What asking for these masks would take, one round of them after the other, were nothing known yet."""
        found: list[Plan] = []
        for masks in rounds:
            remainders = [left for mask in (masks | ~self.removable).numpy() for left in self._layouts.remainders(mask)]
            if self._rewriting is not None:
                found.append(self._rewriting.plan(remainders))
            else:
                found.append(self._engine.plan(remainders, remembered=any(plan.looks_back for plan in found)))
        return found

    @property
    def model(self) -> LocalModel:
        """The model that is asked."""
        return self._model

    @property
    def n_tokens(self) -> int:
        """How many tokens prompt and output have that are read."""
        return len(self._owners) - 1

    @property
    def lengths(self) -> list[int]:
        """How many tokens are read of the prompt and each text after it, the output first."""
        return [len(self._prompt.encoding.ids) + len(text) - 1 for text in self._reading.texts]

    @property
    def n_readings(self) -> int:
        """How many ablated prompts the model reads for one mask."""
        return self._layouts.count

    def bytes_of_gradients(self) -> float:
        """About what one forward pass keeps for the backward pass."""
        return probe(self._model).bytes_kept(len(self._reading.texts), self.n_tokens)

    @property
    def evaluations(self) -> Evaluations:
        """Every mask that was asked and its values, those too that were known before."""
        return self._asked.evaluations

    def _left(self) -> Allowed:
        """What the budget still allows."""
        forwards, tokens = self._budget.max_forwards, self._budget.max_tokens
        # The output's own log-probabilities stand in every result; another target takes one pass more for them.
        own = 0 if self._logprobs is not None or self.target == "logprob" else 1
        return Allowed(
            forwards=None if forwards is None else forwards - self.cost.forwards - own,
            tokens=None if tokens is None else tokens - self.cost.tokens - own * self.n_tokens,
            until=self._until,
        )

    def _compute(self, masks: Sequence[np.ndarray], allowed: Allowed) -> Float[Tensor, "batch target"]:
        """Every target for these masks, none of them twice; NaN where the budget ended before."""
        remainders = [remainder for mask in masks for remainder in self._layouts.remainders(mask)]
        if self._rewriting is not None:
            similarities, spent = self._rewriting.similarities(remainders, allowed)
            self._pay(spent)
            return similarities.view(len(masks), -1).mean(1, keepdim=True)
        found, spent = self._engine.scores(remainders, self._reading.target, allowed)
        self._pay(spent)
        read = self._layouts.read(found)
        whole = [index for index, mask in enumerate(masks) if mask.all()]
        if self._reading.is_plain and self._reading.target is TARGETS["logprob"] and whole:
            self._logprobs = read[whole[0]].float() if read[whole[0]].isfinite().all() else None
        targets = read @ (self._rows @ self._reading.weights).to(read.dtype).T
        if not self._is_minimum:
            return targets
        if whole and targets[whole[0]].isfinite().all():
            self._smallest = int(targets[whole[0]].argmin())
        return targets.amin(1, keepdim=True)

    def _rows_here(self) -> Float[Tensor, "target output"]:
        """What each target is of the output tokens' numbers near the whole prompt."""
        if not self._is_minimum:
            return self._rows
        if self._smallest is None and self.target == "logprob" and self._logprobs is not None:
            self._smallest = int(self._logprobs.argmin())
        if self._smallest is None:
            self._numbers_at([here])
        return self._rows[[self._smallest]]

    def logprobs(self) -> Float[Tensor, " output"]:
        """The log-probability of each output token after the whole prompt, in nats."""
        if self._logprobs is None:  # else a question before has computed them along the way
            found, spent = self._engine.scores([self._layouts.whole], TARGETS["logprob"])
            self._pay(spent)
            self._logprobs = found[0].float()
        return self._logprobs

    def likeliest(self) -> list[list[tuple[int, float]]]:
        """The likeliest ids in the place of each output token and their log-probabilities in nats, the best first.

        They come from the pass that the output's own log-probabilities come from.
        """
        self.logprobs()
        if self._likeliest is None:
            return [[] for _ in self._reading.output]
        ids, logprobs = (part.tolist() for part in self._likeliest)
        return [
            [(token, logprob) for token, logprob in zip(*row, strict=True) if np.isfinite(logprob)]
            for row in zip(ids, logprobs, strict=True)
        ]

    def _notice(self, logits: Float[Tensor, "output vocabulary"]) -> None:
        """Keeps what is likeliest in the place of each output token after the whole prompt."""
        if self._likeliest is not None:
            return
        count = min(ALTERNATIVES, logits.shape[1])
        found: list[tuple[Int[Tensor, "output best"], Float[Tensor, "output best"]]] = []
        for part in logits.detach().split(max(1, _LOGITS_AT_ONCE // logits.shape[1])):
            best = part.topk(count)
            found.append((best.indices.cpu(), (best.values - part.logsumexp(1, keepdim=True)).cpu().float()))
        ids, logprobs = zip(*found, strict=True)
        self._likeliest = torch.cat(ids), torch.cat(logprobs)

    def lacks(self, need: Need) -> str:
        if need not in self.offers:
            return "a Semantic target does not give: it compares texts that the model writes anew"
        return probe(self._model).fault if need == "gradients" else super().lacks(need)

    def gradients(
        self, reduce: Reduce, places: Sequence[Place] = (here,), rules: Rules = PLAIN
    ) -> Float[Tensor, "target unit"]:
        ids, rows = self._prompt.encoding.ids, self._rows_here()
        table, logprobs = backward.gradients(
            self._model,
            ids,
            self._reading,
            reduce,
            rows=rows,
            places=places,
            vary=~self._always,
            rules=rules,
            tokens_at_once=self._tokens_at_once,
            notice=self._notice,
        )
        self._logprobs = self._logprobs if logprobs is None else logprobs
        self._count(len(places), len(table))
        return self._by_unit(table)

    def value_at(self, places: Sequence[Place]) -> Float[Tensor, "place target"]:
        return self._numbers_at(places) @ self._rows_here().T

    def _numbers_at(self, places: Sequence[Place]) -> Float[Tensor, "place output"]:
        """The number of every output token at places of embedding space."""
        found, logprobs = forward.values(
            self._model, self._prompt.encoding.ids, self._reading, places, vary=~self._always, notice=self._notice
        )
        if places[0] is here:
            self._logprobs, self._smallest = logprobs, int(found[0].argmin())
        self._count(len(places), 0)
        return found

    def _pay(self, spent: Spent) -> None:
        self.cost.forwards += spent.forwards
        self.cost.tokens += spent.tokens

    def _count(self, n_places: int, n_rows: int) -> None:
        lengths = self.lengths
        self.cost.forwards += n_places * len(lengths)
        self.cost.backwards += n_places * n_rows * len(lengths)
        self.cost.tokens += n_places * sum(lengths)

    def _by_unit(self, table: Float[Tensor, "target token"]) -> Float[Tensor, "target unit"]:
        owned = self._owners >= 0
        sums = torch.zeros(len(table), self.n_units, dtype=torch.float32)
        return sums.index_add_(1, self._owners[owned], table[:, owned].float())

    def baseline(self, kind: Baseline, *, text: str = "", seed: int = 0) -> Float[Tensor, "token embed"]:
        model, n_read = self._model, len(self._owners) - 1
        own = model.embed([*self._prompt.encoding.ids, *self._reading.output][:-1])
        if kind == "mean":
            found = model.mean_embedding()
        elif kind == "padding":
            found = model.embed([model.codec.padding_id])
        elif kind == "random":
            drawn = torch.randint(model.vocabulary_size, (n_read,), generator=torch.Generator().manual_seed(seed))
            found = model.embed(drawn.tolist())
        elif kind == "text":
            found = model.embed(self._stand_ins(text)[:n_read])
        else:
            found = own.new_zeros(())
        with torch.inference_mode(False):
            return torch.where(self._always[:n_read, None].to(own.device), own, found)

    def _stand_ins(self, text: str) -> list[int]:
        """The ids that a text puts in the place of prompt and output."""
        given = self._model.codec.ids_of(text)
        ids = self._prompt.encoding.ids
        stays = self._always[: len(ids)].tolist()
        own = stays.count(False)
        if len(given) == 1:
            return list(given) * len(self._owners)
        if len(given) != own:
            raise InputError(
                f"Expected a baseline text of 1 token or of {own}, as many as the prompt has, got {len(given)} in "
                f"{text!r}."
            )
        rest = iter(given)
        prompt = [token if stay else next(rest) for token, stay in zip(ids, stays, strict=True)]
        return [*prompt, *self._reading.output]

    def attention(self, step: Step) -> Float[Tensor, "target unit"]:
        ids = [*self._prompt.encoding.ids, *self._reading.output][:-1]
        first = len(self._prompt.encoding.ids) - 1
        rows = self._rows_here()
        asked = torch.zeros(len(rows), len(ids), dtype=torch.float32)
        asked[:, first:] = rows
        relevance = attention.fold_attention(self._model, ids, asked, step)
        self.cost.forwards += 1
        self.cost.tokens += len(ids)
        return self._by_unit(torch.nn.functional.pad(relevance, (0, 1)))
