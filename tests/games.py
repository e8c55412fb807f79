"""Problems whose answers are known, without any model: what methods must find is built first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attribution.problem import PLAIN, Cost, Problem, here


class Game(Problem):
    """A problem given by its value function `keep [batch, unit] -> [batch, target]`; it offers no gradients.

    As a real one does, it computes every mask once. With `allowed` it computes no more masks than that, and the rest
    are NaN.
    """

    offers = frozenset({"value"})
    n_outputs = 1
    target = "logprob"

    def __init__(
        self, n_units: int, n_targets: int, value: Callable[[Tensor], Tensor], allowed: int | None = None
    ) -> None:
        self.n_units, self.n_targets, self.cost, self.notes = n_units, n_targets, Cost(), {}
        self.removable = torch.ones(n_units, dtype=torch.bool)
        self.levels, self.errors, self.interactions = (), None, {}
        self._value, self._allowed = value, allowed
        self._known: dict[bytes, Tensor] = {}

    def value(self, keep: Tensor) -> Tensor:
        keep = keep | ~self.removable
        keys = [row.numpy().tobytes() for row in keep]
        missing = {key: row for key, row in zip(keys, keep, strict=True) if key not in self._known}
        if self._allowed is not None:
            missing = dict(list(missing.items())[: max(0, self._allowed - self.cost.forwards)])
        if missing:
            self._known |= dict(zip(missing, self._value(torch.stack(list(missing.values()))), strict=True))
        self.cost.forwards += len(missing)
        unknown = torch.full((self.n_targets,), torch.nan)
        return torch.stack([self._known.get(key, unknown) for key in keys])

    def gradients(self, reduce, places=(here,), rules=PLAIN) -> Tensor:
        raise AssertionError("a method asked for gradients that the problem does not offer")

    def value_at(self, places) -> Tensor:
        raise AssertionError("a method asked for places in a problem that has none")

    def baseline(self, kind, *, text="", seed=0) -> Tensor:
        raise AssertionError("a method asked for embeddings in a problem that has none")

    def attention(self, step) -> Tensor:
        raise AssertionError("a method asked for attention that the problem does not offer")


class LinearGame(Game):
    """Every unit adds its own worth `[unit, target]`, and its embedding's product with a direction is that worth.

    The last unit consists of no token of weight: its direction is 0, whatever its embedding is. Attention looks at all
    units alike.
    """

    offers = frozenset({"value", "gradients", "attention"})

    def __init__(self, worth: Tensor, embed: int = 6) -> None:
        super().__init__(*worth.shape, lambda keep: 0.5 + keep.float() @ worth)
        generator = torch.Generator().manual_seed(7)
        self.worth = worth
        self.embeddings = torch.randn(len(worth), embed, generator=generator)
        share = self.embeddings / self.embeddings.square().sum(-1, keepdim=True)
        self.directions = share[None] * worth.T[..., None]
        """Gradient of each output by each unit's embedding: [target, unit, embed]."""

    def gradients(self, reduce, places=(here,), rules=PLAIN) -> Tensor:
        self.cost.forwards += len(places)
        self.cost.backwards += len(places) * self.n_targets
        factors = sum(place(self.embeddings)[1] for place in places)
        return reduce(self.directions * factors, self.embeddings)

    def value_at(self, places) -> Tensor:
        self.cost.forwards += len(places)
        there = torch.stack([place(self.embeddings)[0].expand_as(self.embeddings) for place in places])
        return 0.5 + torch.einsum("pue,tue->pt", there, self.directions)

    def baseline(self, kind, *, text="", seed=0) -> Tensor:
        if kind == "random":
            return torch.randn(self.embeddings.shape, generator=torch.Generator().manual_seed(seed))
        return torch.zeros(1, self.embeddings.shape[1])

    def attention(self, step) -> Tensor:
        self.cost.forwards += 1
        row = torch.zeros(self.n_targets, self.n_units)
        row[:, 0] = 1
        return step(row, torch.full_like(row, 1 / self.n_units))


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
