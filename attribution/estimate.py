"""Estimate: what an attribution would cost, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribution.engine.flops import count_flops, measure_speed
from attribution.engine.plan import PASS
from attribution.local_problem import LocalProblem
from attribution.method import Method
from attribution.problem import PLAIN, Baseline, Cost, Place, Problem, Reduce, Rules, Step, here


@dataclass(frozen=True)
class Estimate:
    """What a method would cost at most on a prompt; `method` is its name.

    `forwards` and `backwards` count prompts, `tokens` those of all forward passes, `flops` the floating-point
    operations, `bytes` about what the largest pass takes besides the model, `seconds` about how long it would take, by
    the speed that the model showed on one short text. Budgets, what `resume` knows, and what is tried out once on a
    model that is new are not counted in.
    """

    method: str
    forwards: int
    backwards: int
    tokens: int
    flops: float
    bytes: float
    seconds: float

    def __str__(self) -> str:
        passes = [f"{self.forwards:,} forwards"] + [f"{self.backwards:,} backwards"] * bool(self.backwards)
        parts = (
            " + ".join(passes),
            f"{self.tokens:,} tokens",
            f"{self.flops / 1e12:.3g} TFLOP",
            f"{self.bytes / 2**20:,.0f} MiB",
            f"about {self.seconds:.2g} s",
        )
        return f"{self.method}: at most " + ", ".join(parts)


def estimate(problem: LocalProblem, method: Method, rng: np.random.Generator) -> Estimate:
    """What the method would cost on this problem.

    A method that asks ablated prompts is rehearsed: it is given random numbers for what the model would say. What it
    asked then is what is counted, and where it might ask more, as much more of the same.
    """
    n_units, n_targets = int(problem.removable.sum()), problem.n_targets
    expected = method.cost(n_units, n_targets)
    flops = count_flops(problem.model)
    length = problem.n_tokens
    lengths = problem.lengths
    # What the output's own numbers take is one more, where nothing else tells them.
    forwards, backwards = (expected.forwards + 1) * len(lengths), expected.backwards * len(lengths)
    tokens = (expected.forwards + 1) * sum(lengths)
    spent = flops.forward(tokens, tokens * length / 2, forwards * n_targets)
    most = begun = 0.0
    if "value" in method.needs:
        rehearsal = Rehearsal(problem)
        method.attribute(rehearsal, rng)
        plans = problem.plans(rehearsal.rounds)
        asked = sum(map(len, rehearsal.rounds))
        more = max(1.0, expected.forwards / asked)
        forwards = round(asked * more) * problem.n_readings
        tokens = round(sum(plan.tokens for plan in plans) * more)
        spent = sum(flops.forward(plan.tokens, plan.pairs, plan.rows) for plan in plans) * more
        most = max(plan.bytes for plan in plans)
        # Where the model writes, a pass has so few tokens that it takes longer than they do.
        wait = PASS.get(problem.model.device.type, PASS["cuda"])
        begun = flops.token * wait * sum(plan.passes for plan in plans) * more
        if problem.target != "logprob":
            forwards, tokens = forwards + 1, tokens + length
            spent += flops.forward(length, length**2 / 2, n_targets)
    if "gradients" in method.needs:
        most = problem.bytes_of_gradients()
    if backwards:
        spent += flops.forward(backwards * length, backwards * length**2 / 2, backwards)
    seconds = (spent + begun) / measure_speed(problem.model)
    return Estimate(method.name, forwards, backwards, tokens, spent, most, seconds)


class Rehearsal(Problem):
    """A problem that answers with random numbers and writes down which masks it was asked.

    It is for methods that need values: what is asked of gradients and attention is known without a rehearsal.
    """

    def __init__(self, problem: Problem) -> None:
        self.n_units, self.n_targets, self.n_outputs = problem.n_units, problem.n_targets, problem.n_outputs
        self.target, self.removable, self.levels = problem.target, problem.removable, problem.levels
        self.offers, self.cost, self.notes = problem.offers, Cost(), {}
        self.errors, self.interactions = None, {}
        self.rounds: list[Tensor] = []
        """The masks that were new, call by call."""
        self._answers: dict[bytes, Tensor] = {}
        self._generator = torch.Generator().manual_seed(0)

    def value(self, keep: Bool[Tensor, "batch unit"]) -> Float[Tensor, "batch target"]:
        masks = keep | ~self.removable
        keys = [mask.numpy().tobytes() for mask in masks]
        new = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self._answers}
        if new:
            self.rounds.append(torch.stack(list(new.values())))
            self._answers |= {key: -torch.rand(self.n_targets, generator=self._generator) for key in new}
        return torch.stack([self._answers[key] for key in keys])

    def gradients(
        self, reduce: Reduce, places: Sequence[Place] = (here,), rules: Rules = PLAIN
    ) -> Float[Tensor, "target unit"]:
        raise NotImplementedError

    def value_at(self, places: Sequence[Place]) -> Float[Tensor, "place target"]:
        raise NotImplementedError

    def baseline(self, kind: Baseline, *, text: str = "", seed: int = 0) -> Float[Tensor, "token embed"]:
        raise NotImplementedError

    def attention(self, step: Step) -> Float[Tensor, "target unit"]:
        raise NotImplementedError
