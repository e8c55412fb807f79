"""Hierarchical leave-one-out: what is lost without a part of the prompt, looked into where it matters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.errors import BudgetError
from attribution.method import Method
from attribution.methods._chunks import Chunk, Tree
from attribution.methods._game import Game
from attribution.methods._options import real, whole
from attribution.problem import Cost, Need, Problem


@dataclass(frozen=True)
class Hierarchical(Method):
    """Drop of the target when a part of the prompt is deleted, coarse to fine, in the target's unit.

    First the messages of a prompt are deleted one at a time; those that matter are looked into: their paragraphs are
    deleted one at a time, then sentences, words, tokens, as far as the prompt has such levels. More than `branching`
    parts are first put together into that many groups, so that a cause among 1,000 sentences is found in about 30
    forwards. A part matters where its drop, the largest over the targets, up or down, is at least `threshold` times the
    largest seen so far, that of the whole prompt included. The strongest parts are looked into first, until
    `max_evaluations` ablated prompts are asked, or a budget ends.

    The score of a unit is the drop of the smallest part with it that was deleted, never divided by the part's size.
    With `threshold=0` and no limit this is leave-one-out. A part that matters though none of its own parts does says
    things twice, or only cancels out: all of its units get its drop, and `notes["joint"]` names it. Where that holds
    for the whole prompt it is named too, with `"scored": False`, since its parts keep their own scores.
    `notes["not_looked_into"]` names the parts whose units were not deleted one at a time, and why: they are `"weak"`,
    or the `"budget"` ended. What cancels out within a weak part stays hidden.

    Cooper, Arandjelovic and Harrison, "Believe the HiPe: Hierarchical Perturbation for Fast, Robust, and Model-Agnostic
    Saliency Mapping" (2021), have the idea for images; here parts are those of the text, and scores are not summed.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    laws: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    branching: int = 8
    threshold: float = 0.05
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "branching", whole("branching", self.branching, at_least=2))
        # 0 is meant: everything is looked into.
        share = 0.0 if str(self.threshold) in ("0", "0.0") else real("threshold", self.threshold, at_most=1.0)
        object.__setattr__(self, "threshold", share)
        if self.max_evaluations is not None:
            object.__setattr__(self, "max_evaluations", whole("max_evaluations", self.max_evaluations, at_least=2))

    def cost(self, n_units: int, n_targets: int) -> Cost:
        """As if every part were divided in two and looked into, which no prompt with larger parts needs."""
        return Cost(forwards=int(min(max(2 * n_units, 1), self.max_evaluations or math.inf)))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        everything, nothing = game.ends()
        root = Chunk(0, game.n_players, everything - nothing)
        levels = [level[problem.removable].numpy() for level in problem.levels]
        tree = Tree(root, levels, self.branching, self.threshold)
        room = math.inf if self.max_evaluations is None else float(self.max_evaluations - 2)
        while asked := tree.divide(room):
            keep = np.ones((len(asked), game.n_players), bool)
            for row, part in zip(keep, asked, strict=True):
                row[part.start : part.stop] = False
            for part, drop in zip(asked, everything - game.value(keep), strict=True):
                part.drop = drop if np.isfinite(drop).all() else None
            room = room - len(asked) if all(part.drop is not None for part in asked) else 0.0
        if game.n_players > 1 and all(part.drop is None for part in root.parts):
            raise BudgetError("The budget ended before any part of the prompt was deleted. Allow more evaluations.")
        problem.notes.update(tree.notes(problem.removable.nonzero()[:, 0].tolist()))
        return game.to_units(tree.scores())
