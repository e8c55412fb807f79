"""Problems whose answers are known, without any model: what methods must find is built first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attribution.problem import Cost, Problem


class Game(Problem):
    """A problem given by its value function; it offers no gradients."""

    offers = frozenset({"value"})

    def __init__(self, n_units: int, n_outputs: int, value: Callable[[Tensor], Tensor]) -> None:
        self.n_units, self.n_outputs, self.cost = n_units, n_outputs, Cost()
        self._value = value

    def value(self, keep: Tensor) -> Tensor:
        self.cost.forwards += len(keep)
        return self._value(keep)

    def gradients(self, reduce, weights=None) -> Tensor:
        raise AssertionError("a method asked for gradients that the problem does not offer")


class LinearGame(Game):
    """Every unit adds its own worth `[unit, output]`, and its embedding's product with a direction is that worth.

    The last unit consists of no token of weight: its direction is 0, whatever its embedding is.
    """

    offers = frozenset({"value", "gradients"})

    def __init__(self, worth: Tensor, embed: int = 6) -> None:
        super().__init__(*worth.shape, lambda keep: 0.5 + keep.float() @ worth)
        generator = torch.Generator().manual_seed(7)
        self.worth = worth
        self.embeddings = torch.randn(len(worth), embed, generator=generator)
        share = self.embeddings / self.embeddings.square().sum(-1, keepdim=True)
        self.directions = share[None] * worth.T[..., None]
        """Gradient of each output by each unit's embedding: [output, unit, embed]."""

    def gradients(self, reduce, weights=None) -> Tensor:
        weights = torch.eye(self.n_outputs) if weights is None else weights
        self.cost.forwards += 1
        self.cost.backwards += len(weights)
        return reduce(torch.einsum("ro,oue->rue", weights, self.directions), self.embeddings)


def linear_game() -> LinearGame:
    """Four units and three outputs; the last unit is worth nothing."""
    worth = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.25, 4.0], [-3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    return LinearGame(worth)


def and_game() -> Game:
    """Worth 1 when units 0 and 1 are both there; unit 2 does nothing."""
    return Game(3, 1, lambda keep: (keep[:, :1] & keep[:, 1:2]).float())


def or_game() -> Game:
    """Worth 1 when unit 0 or unit 1 is there."""
    return Game(2, 1, lambda keep: (keep[:, :1] | keep[:, 1:2]).float())
