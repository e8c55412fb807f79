"""Hierarchical leave-one-out: what is lost without a part of the prompt, looked into where it matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attribution.errors import BudgetError
from attribution.method import Method
from attribution.methods._chunks import Tree, most_prompts
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

    Without `max_evaluations` these are 50, or a quarter of leave-one-out's where that is more; there are never more
    than leave-one-out asks. With `threshold=0`, and up to twice as many units as `branching`, it is leave-one-out,
    unless `max_evaluations` is less. Where so many parts matter that groups would save nothing, units are deleted one
    at a time at once.

    The score of a unit is the drop of the smallest part with it that was deleted, never divided by the part's size. A
    part that matters though none of its own parts does says things twice, or only cancels out: all of its units get its
    drop, and `notes["joint"]` names it. Where that holds for the whole prompt, if it was asked without all of it, that
    is named too, with `"scored": False`, since its parts keep their own scores. `notes["not_looked_into"]` names the
    parts whose units were not deleted one at a time, and why: they are `"weak"`, or the `"budget"`
    ended, that of `max_evaluations` too. What cancels out within a weak part stays hidden.

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
        return Cost(forwards=most_prompts(n_units, self.threshold, self.max_evaluations))

    def attribute(self, problem: Problem, rng: np.random.Generator) -> Float[Tensor, "target unit"]:
        game = Game(problem)
        levels = [level[problem.removable].numpy() for level in problem.levels]
        tree = Tree(game.n_players, levels, self.branching, self.threshold, self.max_evaluations)
        asked = tree.begin()
        values = game.without([(0, 0), *(part.span for part in asked)])  # nothing is deleted of the first
        everything = values[0]
        tree.learn(asked, everything - values[1:])
        while asked := tree.divide():
            tree.learn(asked, everything - game.without([part.span for part in asked]))
        if game.n_players and all(part.drop is None for part in tree.root.parts):
            raise BudgetError("The budget ended before any part of the prompt was deleted. Allow more evaluations.")
        problem.notes.update(tree.notes(problem.removable.nonzero()[:, 0].tolist()))
        return game.to_units(tree.scores(problem.n_targets))
