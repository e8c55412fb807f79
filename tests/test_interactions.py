"""Interactions of pairs: on games whose pairs are planted, and against an independent package."""

from __future__ import annotations

import json
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from attribution.errors import BudgetError, InputError
from attribution.methods._trees import boosted_spectrum
from attribution.methods.interactions import Interactions
from attribution.problem import Problem
from tests.games import Game, and_game, linear_game, or_game


def attribute(problem: Problem, seed: int = 0, **options) -> Tensor:
    method = Interactions(**options)
    scores = method.attribute(problem, np.random.default_rng(seed))
    assert json.loads(json.dumps(problem.notes)) == problem.notes
    assert problem.notes["evaluations"] <= problem.cost.forwards
    assert problem.cost.forwards <= method.cost(int(problem.removable.sum()), problem.n_targets).forwards
    assert all(i < j for i, j in problem.interactions)
    return scores


def random_game(n_units: int, n_targets: int, seed: int) -> Game:
    """A value of its own for every coalition."""
    table = torch.randn(2**n_units, n_targets, generator=torch.Generator().manual_seed(seed))
    return Game(n_units, n_targets, lambda keep: table[(keep.long() * 2 ** torch.arange(n_units)).sum(1)])


def planted(n_units: int, seed: int, **options) -> tuple[Game, dict[tuple[int, int], float], Tensor]:
    """Eight worths, and an AND, an OR and an XOR; the game, what each pair is, and the Banzhaf values."""
    order = np.random.default_rng(seed).permutation(n_units).tolist()
    worth = torch.zeros(n_units)
    worth[order[6:14]] = torch.linspace(-2, 2, 8)
    a, b, c, d, e, f = order[:6]

    def value(keep: Tensor) -> Tensor:
        both, one, either = keep[:, a] & keep[:, b], keep[:, c] | keep[:, d], keep[:, e] ^ keep[:, f]
        return (keep.float() @ worth + 2.0 * both + 1.5 * one + 1.0 * either)[:, None]

    pairs = {(min(a, b), max(a, b)): 2.0, (min(c, d), max(c, d)): -1.5, (min(e, f), max(e, f)): -2.0}
    worth_of_each = worth.clone()
    worth_of_each[[a, b]], worth_of_each[[c, d]] = 1.0, 0.75
    return Game(n_units, 1, value, **options), pairs, worth_of_each


# Exact


def banzhaf(game: Game, units: tuple[int, ...]) -> float:
    """By its definition: the mean over all other coalitions of the signed sum over those of the units."""
    found = []
    for rest in product([False, True], repeat=game.n_units - len(units)):
        for inside in product([False, True], repeat=len(units)):
            keep = np.zeros(game.n_units, bool)
            keep[[unit for unit in range(game.n_units) if unit not in units]] = rest
            keep[list(units)] = inside
            sign = (-1) ** (len(units) - sum(inside))
            found.append(sign * game.value(torch.from_numpy(keep)[None])[0, 0].item())
    return sum(found) / 2 ** (game.n_units - len(units))


def test_few_units_are_exact() -> None:
    game = random_game(5, 1, 0)
    scores = attribute(game)
    assert game.cost.forwards == game.notes["evaluations"] == 32
    assert game.notes["exact"]
    assert game.errors is not None
    assert not game.errors.any()
    for unit in range(5):
        assert scores[0, unit].item() == pytest.approx(banzhaf(game, (unit,)), abs=1e-6)
    assert set(game.interactions) == set(combinations(range(5), 2))
    for pair, found in game.interactions.items():
        assert found.item() == pytest.approx(banzhaf(game, pair), abs=1e-6)


def test_the_sign_tells_and_from_or() -> None:
    game = and_game()
    assert torch.allclose(attribute(game).float(), torch.tensor([[0.5, 0.5, 0]]))
    assert {pair: found.tolist() for pair, found in game.interactions.items()} == {(0, 1): [1.0]}
    game = or_game()
    attribute(game)
    assert {pair: found.tolist() for pair, found in game.interactions.items()} == {(0, 1): [-1.0]}


@pytest.mark.slow
def test_where_worths_add_up_there_are_no_pairs() -> None:
    game = linear_game()
    assert torch.allclose(attribute(game).float(), game.worth.T, atol=1e-5)
    assert game.interactions == {}
    worth = torch.randn(25, 2, generator=torch.Generator().manual_seed(1))
    for seed in range(5):
        game = Game(25, 2, lambda keep: keep.float() @ worth)
        assert torch.allclose(attribute(game, seed).float(), worth.T, atol=1e-4)
        assert game.interactions == {}
        assert min(game.notes["fit"]) > 0.999


@pytest.mark.parametrize("n_units", [2, 4, 6])
def test_only_the_strongest_pairs_are_named(n_units: int) -> None:
    game = random_game(n_units, 1, 5)
    attribute(game)
    every = sorted(game.interactions.values(), key=lambda found: -abs(found.item()))
    few = random_game(n_units, 1, 5)
    attribute(few, pairs=1)
    assert len(few.interactions) == 1
    assert torch.equal(next(iter(few.interactions.values())), every[0])


@pytest.mark.parametrize("n_units", [0, 1])
def test_small_prompts(n_units: int) -> None:
    game = Game(n_units, 1, lambda keep: 3.0 * keep.float().sum(1, keepdim=True))
    assert attribute(game).tolist() == [[3.0] * n_units]
    assert game.interactions == {}


# From samples


def test_the_trees_are_what_their_spectrum_says(monkeypatch) -> None:
    """The sum of products gives what the trees give, for every mask."""
    from sklearn import ensemble

    models = []

    class Watched(ensemble.GradientBoostingRegressor):
        def fit(self, *arguments):
            models.append(self)
            return super().fit(*arguments)

    monkeypatch.setattr(ensemble, "GradientBoostingRegressor", Watched)
    game = random_game(7, 1, 2)
    keep = (np.arange(128)[:, None] >> np.arange(7) & 1).astype(bool)
    spectrum = boosted_spectrum(keep, game.value(torch.from_numpy(keep))[:, 0].double().numpy(), 0)
    signs = 2.0 * keep - 1
    told = sum(coefficient * signs[:, sorted(players)].prod(1) for players, coefficient in spectrum.items())
    expected = models[0].predict(keep.astype(np.float32))
    assert np.allclose(told, expected - expected.mean(), atol=1e-9)
    assert max(map(len, spectrum)) == 4


@pytest.mark.parametrize("n_units", [20, 30])
@pytest.mark.parametrize("seed", range(4))
def test_planted_pairs_are_found(n_units: int, seed: int) -> None:
    game, pairs, worth = planted(n_units, seed)
    scores = attribute(game, seed)
    assert {pair: found.item() for pair, found in game.interactions.items()} == pytest.approx(pairs, abs=1e-3)
    assert scores[0].tolist() == pytest.approx(worth.tolist(), abs=1e-3)
    assert game.notes["fit"][0] > 0.999
    assert not game.notes["exact"]


@pytest.mark.parametrize("seed", range(4))
def test_planted_pairs_are_found_among_noise(seed: int) -> None:
    """Standard errors say how far the scores are off, and no pair is made up."""
    game, pairs, worth = planted(30, seed)
    generator = torch.Generator().manual_seed(seed)
    noisy = Game(30, 1, lambda keep: game.value(keep) + 0.5 * torch.randn(len(keep), 1, generator=generator))
    scores = attribute(noisy, seed)
    assert {pair: found.item() for pair, found in noisy.interactions.items()} == pytest.approx(pairs, abs=0.35)
    assert noisy.errors is not None
    off = (scores[0] - worth) / noisy.errors[0]
    assert 0.6 < off.square().mean().sqrt() < 1.5
    assert 0.7 < noisy.notes["fit"][0] < 0.99


def test_three_that_only_work_together() -> None:
    """Each pair of them shows half of what all three do, since the third is there half of the time."""
    game = Game(24, 1, lambda keep: 4.0 * keep[:, [3, 9, 20]].all(1, keepdim=True).float() + keep[:, :1].float())
    scores = attribute(game)
    found = {pair: value.item() for pair, value in game.interactions.items()}
    assert found == pytest.approx({(3, 9): 2, (3, 20): 2, (9, 20): 2}, abs=1e-3)
    assert scores[0, [0, 3, 9, 20]].tolist() == pytest.approx([1, 1, 1, 1], abs=1e-3)


def test_each_target_has_its_pairs() -> None:
    both = Game(25, 2, lambda keep: torch.stack([keep[:, 1] & keep[:, 2], 0.5 * (keep[:, 8] | keep[:, 3])], 1).float())
    attribute(both)
    assert set(both.interactions) == {(1, 2), (3, 8)}
    assert both.interactions[1, 2].tolist() == pytest.approx([1, 0], abs=1e-3)
    assert both.interactions[3, 8].tolist() == pytest.approx([0, -0.5], abs=1e-3)


def test_two_that_do_nothing_alone() -> None:
    """Trees see nothing in either; what they leave shows the pair all the same."""
    game = Game(60, 1, lambda keep: (keep[:, 7] ^ keep[:, 33]).float()[:, None])
    attribute(game)
    assert {pair: found.item() for pair, found in game.interactions.items()} == pytest.approx({(7, 33): -2}, abs=1e-3)


def test_more_units_than_masks() -> None:
    game, pairs, _ = planted(600, 0)
    attribute(game, samples=512)
    assert {pair: found.item() for pair, found in game.interactions.items()} == pytest.approx(pairs, abs=1e-3)
    assert game.errors is not None
    assert (game.errors > 0).all()


@pytest.mark.slow
def test_noise_alone_has_no_pairs() -> None:
    named = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        game = Game(40, 1, lambda keep, g=generator: torch.randn(len(keep), 1, generator=g))
        attribute(game, samples=256)
        named += len(game.interactions)
        assert game.notes["fit"][0] < 0.2
    assert named <= 2


def test_where_nothing_changes_there_is_nothing() -> None:
    game = Game(25, 1, lambda keep: torch.ones(len(keep), 1))
    assert not attribute(game).any()
    assert game.interactions == {}
    assert game.notes["fit"] == [None]


def test_what_cannot_be_removed_is_in_no_pair() -> None:
    for n_units in (8, 26):
        game = Game(n_units, 1, lambda keep: (keep[:, 0] & keep[:, 3] & keep[:, 6]).float()[:, None])
        game.removable[0] = False  # always there
        scores = attribute(game)
        assert scores[0, 0] == 0
        assert {pair: found.item() for pair, found in game.interactions.items()} == pytest.approx({(3, 6): 1}, abs=1e-3)


@pytest.mark.parametrize("n_units", [12, 30])
def test_more_samples_begin_with_the_same_masks(n_units: int) -> None:
    game = planted(n_units, 0)[0] if n_units > 12 else random_game(12, 1, 0)
    attribute(game, samples=256)
    attribute(game, samples=512)
    assert game.cost.forwards == 513
    if n_units == 12:
        attribute(game, samples=4096)  # all of them, the known ones for nothing
        assert game.notes["exact"]
        assert game.cost.forwards == 4096


def test_a_budget_that_ends() -> None:
    """With fewer masks the answer is that of fewer samples; with too few there is none."""
    cut, _, _ = planted(25, 1, allowed=601)
    game, pairs, _ = planted(25, 1)
    assert torch.allclose(attribute(cut, samples=1024), attribute(game, samples=600), atol=1e-6)
    assert cut.notes["evaluations"] == 600
    assert set(cut.interactions) == set(pairs)
    for allowed in (0, 1, 32):
        with pytest.raises(BudgetError, match="Allow more"):
            attribute(planted(25, 1, allowed=allowed)[0])
    few = Game(6, 1, lambda keep: (keep[:, 1] & keep[:, 4]).float()[:, None], allowed=50)
    attribute(few)
    assert not few.notes["exact"]
    assert few.interactions[1, 4].item() == pytest.approx(1, abs=0.1)


# The oracle


@pytest.mark.parametrize("n_units", [1, 3, 8])
def test_agrees_with_shapiq(n_units: int) -> None:
    own, other = random_game(n_units, 2, 3), random_game(n_units, 2, 3)
    scores = attribute(own, pairs=100)
    reference = attribute(other, pairs=100, by="shapiq")
    assert torch.allclose(scores, reference, atol=1e-6)
    assert own.interactions.keys() == other.interactions.keys()
    for pair, found in own.interactions.items():
        assert torch.allclose(found, other.interactions[pair], atol=1e-6)
    assert own.notes == other.notes


def test_shapiq_on_more_units() -> None:
    game, pairs, _ = planted(14, 0)
    attribute(game, by="shapiq")
    strongest = sorted(game.interactions, key=lambda pair: -abs(game.interactions[pair].item()))[:3]
    assert set(strongest) == set(pairs)
    assert game.errors is None
    with pytest.raises(BudgetError, match="Allow more"):
        attribute(planted(14, 0, allowed=300)[0], by="shapiq")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 31}, "samples as a whole number from 32 on, got 31"),
        ({"pairs": 0}, "pairs as a whole number from 1 on, got 0"),
        ({"by": "trees"}, "by as proxy or shapiq, got 'trees'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Interactions(**options)
