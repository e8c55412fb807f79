"""Sensitivity: whether an explanation stays as it is where the prompt's embeddings hardly move."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attribution.checks import check_count
from attribution.faithfulness.metric import Metric
from attribution.faithfulness.metrics._again import ask_again, explain_again, local_model
from attribution.faithfulness.metrics._options import check_real
from attribution.faithfulness.metrics._subject import subject_of
from attribution.models.local import LocalModel
from attribution.outputs import Outputs
from attribution.problem import Problem
from attribution.result import Attribution


@dataclass(frozen=True)
class MaxSensitivity(Metric):
    """Largest relative change of the scores where the prompt's embeddings move a little; from 0 on.

    The embedding of every token id in the removable part of the prompt is moved in a random direction by `radius` times
    its own length, wherever the id stands, and the prompt is explained again, by the same method with the same seed and
    the result's own meaning of absent. The number is the largest of `draws` such distances of the scores from those of
    the unmoved prompt, in Euclidean length, divided by the length of the latter. 0 for scores that stay the same, which
    constant ones do; NaN where all scores are 0. It says nothing of whether they are true.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (2019), whose maximum over a ball is estimated by
    draws too; theirs is not relative. It takes `draws + 1` explanations. The model is as it was afterwards.
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"
    low: ClassVar[float | None] = 0.0
    perturbs: ClassVar[Literal["prompt", "embeddings", "weights"]] = "embeddings"
    is_asked_anew: ClassVar[bool] = True

    radius: float = 0.01
    draws: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", check_real("radius", self.radius))
        object.__setattr__(self, "draws", check_count("draws", self.draws))

    def __call__(self, result: Attribution, problem: Problem, *, outputs: Outputs = None, seed: int = 0) -> float:
        model, subject = local_model(self.name, problem), subject_of(result, problem, outputs)
        at_rest, *others = ask_again(model, result, self.draws + 1)
        own = explain_again(at_rest, result, subject)
        length = float(np.linalg.norm(own))
        if not length:
            return math.nan
        units = [result.units[player] for player in subject.players.tolist()]
        ids = sorted({token for unit in units for token in result.prompt_ids[unit.first_token : unit.last_token]})
        changes: list[float] = []
        for draw, other in enumerate(others):
            with moved_embeddings(model, ids, self.radius, seed=[seed, draw]):
                changes.append(float(np.linalg.norm(explain_again(other, result, subject) - own)))
        return max(changes) / length


@contextmanager
def moved_embeddings(model: LocalModel, ids: Sequence[int], radius: float, seed: Sequence[int]) -> Generator[None]:
    """The model with these ids' embeddings moved, each in a random direction by `radius` times its length.

    While the block runs, for this thread only. What moves is what the embedding layer gives, not its weights.
    """
    places = torch.full((model.vocabulary_size,), len(ids), device=model.device)
    places[list(ids)] = torch.arange(len(ids), device=model.device)
    known = model.embed(ids)
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(known.shape))).to(known)
    lengths = radius * known.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    moves = torch.cat([drawn * lengths, torch.zeros_like(known[:1])])  # the last is of all other ids
    here = get_ident()

    def move(_module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output if get_ident() != here else (output + moves[places[inputs[0]]]).to(output.dtype)

    handle = model.embedding_layer.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
