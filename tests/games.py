"""Problems whose answers are known, without any model: what methods must find is built first."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
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


class KnownGame(Game):
    """A game of at most 16 units by the table of all its values, in float64, with its Shapley and Banzhaf values.

    Row k of the table `[coalition, target]` is the value with the units whose bits are set in k; answers are
    `[target, unit]`. It computes every mask once and keeps to what is allowed, as `Game` does, only faster.
    """

    def __init__(self, table: np.ndarray, shapley: np.ndarray, banzhaf: np.ndarray, allowed: int | None = None) -> None:
        self.table, self.shapley, self.banzhaf = table, shapley, banzhaf
        n_targets, n_units = shapley.shape
        super().__init__(n_units, n_targets, lambda keep: torch.from_numpy(table[self._rows(keep)]), allowed)
        self._computed = np.zeros(len(table), bool)

    @property
    def computed(self) -> set[int]:
        """The coalitions that were computed."""
        return set(self._computed.nonzero()[0].tolist())

    def _rows(self, keep: Tensor) -> np.ndarray:
        return (keep | ~self.removable).numpy() @ (1 << np.arange(self.n_units))

    def value(self, keep: Tensor) -> Tensor:
        rows = self._rows(keep)
        found, first = np.unique(rows, return_index=True)
        new = found[first.argsort()]
        new = new[~self._computed[new]]
        if self._allowed is not None:
            new = new[: max(0, self._allowed - self.cost.forwards)]
        self._computed[new] = True
        self.cost.forwards += len(new)
        return torch.from_numpy(np.where(self._computed[rows, None], self.table[rows], np.nan))

    def again(self, allowed: int | None = None) -> KnownGame:
        """The same game, of which nothing is computed yet."""
        return KnownGame(self.table, self.shapley, self.banzhaf, allowed)


def moebius_game(n_units: int, terms: dict[tuple[int, ...], float], constant: float = 0.0) -> KnownGame:
    """Every term adds its worth where all its units are there: each has an equal share of its Shapley value."""
    coalitions = np.arange(2**n_units)
    table = np.full(len(coalitions), constant)
    shapley, banzhaf = np.zeros(n_units), np.zeros(n_units)
    for units, worth in terms.items():
        bits = sum(1 << unit for unit in units)
        table += worth * (coalitions & bits == bits)
        shapley[list(units)] += worth / len(units)
        banzhaf[list(units)] += worth / 2 ** (len(units) - 1)
    return KnownGame(table[:, None], shapley[None], banzhaf[None])


def random_game(n_units: int, order: int, seed: int, n_terms: int = 40) -> KnownGame:
    """Every unit's own worth and many random interactions of up to `order` units."""
    rng = np.random.default_rng(seed)
    terms: dict[tuple[int, ...], float] = {(unit,): rng.normal() for unit in range(n_units)}
    for _ in range(n_terms):
        units = rng.choice(n_units, size=rng.integers(2, order + 1), replace=False)
        terms[tuple(sorted(units.tolist()))] = rng.normal()
    return moebius_game(n_units, terms, constant=rng.normal())


def additive_game(worth: list[float]) -> KnownGame:
    """Every unit adds its own worth."""
    return moebius_game(len(worth), {(unit,): each for unit, each in enumerate(worth)}, constant=0.5)


def all_of(n_units: int, k: int) -> KnownGame:
    """Worth 1 where the first k units are all there."""
    return moebius_game(n_units, {tuple(range(k)): 1.0})


def any_of(n_units: int, k: int) -> KnownGame:
    """Worth 1 where one of the first k units is there: inclusion and exclusion."""
    terms = {units: (-1.0) ** (size + 1) for size in range(1, k + 1) for units in combinations(range(k), size)}
    return moebius_game(n_units, terms)


def majority_game(n_units: int) -> KnownGame:
    """Worth 1 where more than half of an odd number of units is there; a unit decides where the rest is divided."""
    count = (np.arange(2**n_units)[:, None] >> np.arange(n_units) & 1).sum(1)
    decides = comb(n_units - 1, n_units // 2) / 2 ** (n_units - 1)
    table = (count > n_units / 2).astype(float)[:, None]
    return KnownGame(table, np.full((1, n_units), 1 / n_units), np.full((1, n_units), decides))


def together(*games: KnownGame) -> KnownGame:
    """Games of the same units as the targets of one."""
    return KnownGame(
        np.concatenate([game.table for game in games], axis=1),
        np.concatenate([game.shapley for game in games]),
        np.concatenate([game.banzhaf for game in games]),
    )
