"""Methods that sample coalitions, on games whose answers are known: their scores, and how honest their errors are."""

from __future__ import annotations

import json
import sys
from itertools import permutations

import numpy as np
import pytest
import torch

from attribution.errors import BudgetError, CapabilityError, InputError, MissingExtraError
from attribution.method import Method
from attribution.methods.banzhaf import Banzhaf
from attribution.methods.context_cite import ContextCite, log_odds
from attribution.methods.exact_shapley import ExactShapley
from attribution.methods.kernel_shap import KernelSHAP
from attribution.methods.lime import LIME
from attribution.methods.shapley_sampling import ShapleySampling
from attribution.problem import Problem
from tests.games import (
    Game,
    KnownGame,
    additive_game,
    all_of,
    any_of,
    linear_game,
    majority_game,
    moebius_game,
    random_game,
    together,
)

SAMPLING = [KernelSHAP(), Banzhaf(), ShapleySampling(), LIME(), ContextCite()]
each_sampling = pytest.mark.parametrize("method", SAMPLING, ids=lambda method: method.name)


def attribute(method: Method, problem: Problem, seed: int = 0) -> np.ndarray:
    method.check(problem)
    return method.attribute(problem, np.random.default_rng(seed)).numpy()


def errors_of(problem: Problem) -> np.ndarray:
    assert problem.errors is not None
    return problem.errors.numpy()


def truth(method: Method, game: KnownGame) -> np.ndarray:
    return game.banzhaf if isinstance(method, Banzhaf) else game.shapley


def many_games(n_units: int = 11) -> KnownGame:
    """Of each kind one, as the targets of one game; odd, for the majority."""
    return together(
        random_game(n_units, 3, seed=0),
        random_game(n_units, 6, seed=1),
        majority_game(n_units),
        any_of(n_units, 3),
        all_of(n_units, 4),
    )


# Exact values


GAMES = {
    "one unit": additive_game([2.0]),
    "additive": additive_game([1.0, -2.0, 0.0, 0.25]),
    "all of three": all_of(5, 3),
    "any of three": any_of(5, 3),
    "majority": majority_game(7),
    "pairs": random_game(6, 2, seed=0),
    "order five": random_game(9, 5, seed=1),
    "many": many_games(),
    "twelve units": random_game(12, 12, seed=2),
}


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES.keys())
@pytest.mark.parametrize("method", [ExactShapley(), KernelSHAP(4094), Banzhaf(4096)], ids=lambda method: method.name)
def test_every_coalition_gives_the_closed_form(method: Method, game: KnownGame) -> None:
    game = game.again()
    assert attribute(method, game) == pytest.approx(truth(method, game), abs=1e-10)
    assert game.notes == {"evaluations": 2**game.n_units, "exact": True}
    assert game.cost == method.cost(game.n_units, game.n_targets)
    assert game.cost.forwards == 2**game.n_units
    assert game.errors is None if method == ExactShapley() else not errors_of(game).any()


def test_the_closed_forms_are_the_definitions() -> None:
    """Every order of the units, every set of the others, one at a time; the slow and obvious way."""
    game = random_game(5, 4, seed=3)

    def value(units) -> float:
        return game.table[sum(1 << unit for unit in units), 0]

    orders = list(permutations(range(5)))
    for unit in range(5):
        adds = [value(order[: (k := order.index(unit)) + 1]) - value(order[:k]) for order in orders]
        assert game.shapley[0, unit] == pytest.approx(np.mean(adds))
        others = [[other for other in range(5) if other != unit and bits >> other & 1] for bits in range(32)]
        adds = [value([unit, *some]) - value(some) for some in others]
        assert game.banzhaf[0, unit] == pytest.approx(np.mean(adds))


def test_exact_shapley_takes_twelve_units() -> None:
    with pytest.raises(CapabilityError, match="at most 12 units, got 13"):
        attribute(ExactShapley(), additive_game([1.0] * 13))


def test_kernel_shap_agrees_with_another_library() -> None:
    shapiq = pytest.importorskip("shapiq")
    game = random_game(7, 7, seed=4)
    bits = 1 << np.arange(7)
    oracle = shapiq.ExactComputer(n_players=7, game=lambda masks: game.table[masks.astype(int) @ bits, 0])
    values = oracle("SV", order=1)
    expected = [values[(unit,)] for unit in range(7)]
    assert attribute(KernelSHAP(), game)[0] == pytest.approx(expected, abs=1e-10)


# Samples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("few", "many"),
    [(KernelSHAP(200), KernelSHAP(800)), (Banzhaf(200), Banzhaf(800)), (ShapleySampling(20), ShapleySampling(80))],
    ids=lambda method: method.name,
)
def test_four_times_the_samples_halve_the_error(few: Method, many: Method) -> None:
    game, off = many_games(), []
    for method in (few, many):
        runs = [attribute(method, game.again(), seed) - truth(method, game) for seed in range(60)]
        off.append(np.sqrt(np.mean(np.square(runs), axis=(0, 2))))
    assert (off[0] > 1e-3).all()
    ratio = off[1] / off[0]
    assert ((ratio > 0.35) & (ratio < 0.65)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [KernelSHAP(300), Banzhaf(200), ShapleySampling(200)], ids=lambda method: method.name
)
def test_errors_are_honest(method: Method) -> None:
    """Of 500 runs on each game about 95% are within 1.96 standard errors of the truth: no fewer, and not many more."""
    game = many_games()
    within = []
    for seed in range(500):
        run = game.again()
        off = np.abs(attribute(method, run, seed) - truth(method, game))
        assert not run.notes.get("exact", False)
        # Where a pair of orders leaves no doubt the error is 0, and scores are right up to rounding.
        exact = (off < 1e-9) & (errors_of(run) < 1e-9)
        within.append(np.where(exact, np.nan, off <= 1.96 * errors_of(run)))
    share = np.nanmean(within, axis=(0, 2))
    assert ((share >= 0.93) & (share <= 0.98)).all(), share


@pytest.mark.slow
@pytest.mark.parametrize("method", [LIME(samples=200), ContextCite(resamples=50)], ids=lambda method: method.name)
def test_errors_are_the_spread_over_seeds(method: Method) -> None:
    """Where a penalty takes scores from the truth: how far they are from what they are on average."""
    random = random_game(11, 3, seed=0)
    game = KnownGame(np.minimum(-0.1, random.table / 4 - 4), random.shapley, random.banzhaf)
    runs = [(attribute(method, run := game.again(), seed), errors_of(run)) for seed in range(60)]
    spread = np.std([scores for scores, _ in runs], axis=0, ddof=1)
    mean = np.mean([errors for _, errors in runs], axis=0)
    assert np.median(mean / spread) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("few", "many"),
    [
        (KernelSHAP(60), KernelSHAP(200)),
        (KernelSHAP(60), KernelSHAP(4000)),
        (Banzhaf(60), Banzhaf(200)),
        (Banzhaf(60), Banzhaf(4000)),
        (ShapleySampling(4), ShapleySampling(16)),
        (LIME(60), LIME(200)),
        (ContextCite(60, resamples=3), ContextCite(200, resamples=2)),
        (ShapleySampling(400, error=0.3), ShapleySampling(400)),
    ],
    ids=lambda method: method.name,
)
def test_more_samples_begin_with_those_of_fewer(few: Method, many: Method) -> None:
    game = KnownGame(-1 - np.abs(many_games().table), many_games().shapley, many_games().banzhaf)
    small, large, both = game.again(), game.again(), game.again()
    attribute(few, small, seed=5)
    attribute(many, large, seed=5)
    assert small.computed < large.computed
    attribute(few, both, seed=5)
    attribute(many, both, seed=5)
    assert both.cost.forwards == large.cost.forwards > small.cost.forwards
    assert small.cost.forwards <= few.cost(11, 5).forwards
    assert large.cost.forwards <= many.cost(11, 5).forwards
    assert torch.equal(errors_and_notes(both)[0], errors_and_notes(large)[0])


def errors_and_notes(problem: Problem) -> tuple[torch.Tensor, dict]:
    assert problem.errors is not None
    return problem.errors, problem.notes


def test_scores_add_up_whatever_is_drawn() -> None:
    game = many_games()
    rise = game.table[-1] - game.table[0]
    for method in (KernelSHAP(100), ShapleySampling(2)):
        assert attribute(method, game.again(), seed=8).sum(1) == pytest.approx(rise)


@each_sampling
def test_evaluations_are_the_masks_that_scores_rest_on(method: Method) -> None:
    game = KnownGame(-1 - np.abs(many_games().table), many_games().shapley, many_games().banzhaf)
    attribute(method, game)
    unused = method.name in ("banzhaf", "context_cite")  # the whole prompt is asked first, and is no part of the sample
    assert game.cost.forwards - game.notes["evaluations"] in ((0, 1) if unused else (0,))
    json.dumps(game.notes)


# When to stop


def test_shapley_sampling_stops_when_errors_are_small_enough() -> None:
    game = many_games()
    ends = {}
    for error in (0.3, 0.1):
        run = game.again()
        scores = attribute(ShapleySampling(2000, error=error), run)
        assert errors_of(run).max() <= error
        assert run.notes["error_reached"] is True
        assert np.abs(scores - game.shapley).max() < 5 * error
        ends[error] = run.notes["permutations"]
        shorter = game.again()  # no sooner could it have been much shorter
        attribute(ShapleySampling(ends[error] // 4 * 2), shorter)
        assert errors_of(shorter).max() > error or ends[error] == 16
    assert 16 <= ends[0.3] < ends[0.1] < 2000
    run = game.again()
    attribute(ShapleySampling(20, error=1e-6), run)
    assert run.notes["error_reached"] is False
    assert run.notes["permutations"] == 20
    linear = additive_game([1.0, 2.0, 3.0, 4.0, 5.0])
    attribute(ShapleySampling(1000, error=0.01), linear)
    assert linear.notes["permutations"] == 16


def test_one_pair_of_orders_tells_no_error() -> None:
    game = random_game(6, 3, seed=0)
    assert np.isfinite(attribute(ShapleySampling(2), game)).all()
    assert game.errors is None


# Budgets


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (ExactShapley(), 9),
        (KernelSHAP(), 20),
        (Banzhaf(), 11),
        (ShapleySampling(), 16),
        (LIME(), 2),
        (ContextCite(resamples=10), 3),
    ],
    ids=lambda method: method.name if isinstance(method, Method) else "",
)
def test_a_budget_leaves_what_is_known(method: Method, least: int) -> None:
    random = random_game(8, 3, seed=0)
    table = np.minimum(-0.1, random.table / 4 - 4)
    told, refused, messages = [], [], []
    for allowed in [*range(1, 40), 69, 100, 200]:
        run = KnownGame(table, random.shapley, random.banzhaf, allowed)
        try:
            scores = attribute(method, run, seed=1)
        except BudgetError as error:
            refused.append(allowed)
            messages.append(str(error))
            continue
        assert np.isfinite(scores).all()
        assert run.errors is None or np.isfinite(run.errors.numpy()).all()
        assert run.cost.forwards <= allowed
        assert run.notes["evaluations"] <= allowed
        assert not run.notes.get("exact", False)
        told.append(allowed)
    assert min(told) >= least
    assert max(refused) < least + 20  # a sample may be unlucky
    assert all("Allow" in message for message in messages)


def test_what_is_left_of_a_sample_is_an_honest_sample() -> None:
    """A budget cuts it where it ends: masks drawn again later are known, and would be counted too often."""
    game = many_games()
    for method in (KernelSHAP(4000), Banzhaf(4000), ShapleySampling(2000)):
        runs = [
            (attribute(method, run := game.again(allowed=300), s) - truth(method, game), errors_of(run))
            for s in range(80)
        ]
        within = [np.where((np.abs(off) < 1e-9) & (e < 1e-9), np.nan, np.abs(off) <= 1.96 * e) for off, e in runs]
        assert 0.9 < np.nanmean(within) < 0.98


def test_exact_shapley_weighs_what_is_known() -> None:
    """Of three units, without those of two: the first and the last step of every order are known."""
    game = random_game(3, 3, seed=6)
    values = game.table[:, 0]
    scores = attribute(ExactShapley(), game.again(allowed=5))[0]
    for unit in range(3):
        last = values[7] - values[7 - 2**unit]
        assert scores[unit] == pytest.approx(last)
    scores = attribute(ExactShapley(), run := game.again(allowed=7))[0]
    assert run.notes == {"evaluations": 7, "exact": False}
    # All but the smallest coalition that was asked last, {2}: weights 1/3 at the ends and 1/6 in the middle.
    ends = [(values[7] - values[7 - 2**unit]) / 3 for unit in range(3)]
    begins = [(values[2**unit] - values[0]) / 3 for unit in range(3)]
    middle = [values[3] - values[2], values[3] - values[1], values[5] - values[1]]
    assert scores[2] == pytest.approx((ends[2] + (values[5] - values[1] + values[6] - values[2]) / 6) / (2 / 3))
    assert scores[0] == pytest.approx((ends[0] + begins[0] + middle[0] / 6) / (5 / 6))


@pytest.mark.parametrize("kind", [KernelSHAP, Banzhaf])
def test_too_few_samples_say_so(kind: type[KernelSHAP] | type[Banzhaf]) -> None:
    game = many_games()
    with pytest.raises(InputError, match="Expected at least 22 samples for 11 units, got 10"):
        attribute(kind(samples=10), game)
    assert game.cost.forwards == 0
    with pytest.raises(
        BudgetError, match=r"\d+ masks do not tell the scores of 1[01] units apart\. Allow more samples"
    ):
        attribute(kind(samples=100), random_game(11, 3, seed=6).again(allowed=10))


# Special units


@pytest.mark.parametrize("method", [ExactShapley(), *SAMPLING], ids=lambda method: method.name)
def test_special_units_stay_and_score_nothing(method: Method) -> None:
    asked = []

    def value(keep: torch.Tensor) -> torch.Tensor:
        asked.append(keep)
        return -14 + keep.double() @ torch.tensor([[5.0], [1.0], [3.0], [2.0]], dtype=torch.float64)

    game = Game(4, 1, value)
    game.removable[[0, 2]] = False
    scores = attribute(method, game)[0]
    assert torch.cat(asked)[:, [0, 2]].all()
    assert scores[[0, 2]].tolist() == [0, 0]
    assert (scores[[1, 3]] > 0).all()
    if game.errors is not None:
        assert not errors_of(game)[:, [0, 2]].any()
    if "intervals" in game.notes:
        assert np.array(game.notes["intervals"]["low"]).shape == (1, 4)
        assert not np.array(game.notes["intervals"]["high"])[:, [0, 2]].any()


@pytest.mark.parametrize("method", [ExactShapley(), *SAMPLING[:3]], ids=lambda method: method.name)
def test_no_unit_at_all(method: Method) -> None:
    game = linear_game()
    game.removable[:] = False
    assert attribute(method, game).tolist() == [[0] * 4] * 3


# LIME


def test_lime_is_what_it_says() -> None:
    """The same masks again, by hand; the normal equations, with the intercept free of the penalty."""
    game = random_game(6, 4, seed=0)
    method = LIME(samples=50, kernel_width=20.0, alpha=0.5)
    asked = []
    compute = game.value
    game.value = lambda keep: asked.append(keep) or compute(keep)  # type: ignore[method-assign]
    scores = attribute(method, game)[0]
    masks = torch.cat(asked).numpy()
    assert len(masks) == 50
    assert masks[0].all()
    assert set(masks[1:].sum(1)) == set(range(6))  # from none left to all but one
    gram, right = np.diag([0.5] * 6 + [0.0]), np.zeros(7)
    for mask in masks:
        ones = np.ones(6)
        cosine = mask @ ones / (np.linalg.norm(mask) * np.linalg.norm(ones)) if mask.any() else 0
        weight = np.sqrt(np.exp(-((100 * (1 - cosine)) ** 2) / 20**2))
        row = np.append(mask, 1.0)
        gram += weight * np.outer(row, row)
        right += weight * row * game.table[mask @ (1 << np.arange(6)), 0]
    assert scores == pytest.approx(np.linalg.solve(gram, right)[:6], abs=1e-8)


def test_lime_removes_as_many_units_as_any_other_number() -> None:
    game, asked = random_game(8, 2, seed=0), []
    compute = game.value
    game.value = lambda keep: asked.append(keep) or compute(keep)  # type: ignore[method-assign]
    attribute(LIME(samples=4001), game)
    removed = (~torch.cat(asked)[1:]).sum(1).numpy()
    assert np.bincount(removed, minlength=9)[1:] == pytest.approx(np.full(8, 500), abs=100)
    by_unit = (~torch.cat(asked)[1:]).float().mean(0)
    assert by_unit.numpy() == pytest.approx(np.full(8, 4.5 / 8), abs=0.04)


# ContextCite


def sigmoid_game(weights: np.ndarray, bias: float, noise: np.ndarray | None = None) -> Game:
    """The output's log-odds are the sum of the kept units' weights, and noise of its own for each of few masks."""

    def value(keep: torch.Tensor) -> torch.Tensor:
        odds = bias + keep.double() @ torch.from_numpy(weights)
        if noise is not None:
            odds = odds + torch.from_numpy(noise)[(keep.numpy() @ (1 << np.arange(len(weights)))) % len(noise)]
        return torch.nn.functional.logsigmoid(odds)[:, None]

    return Game(len(weights), 1, value)


def test_context_cite_finds_the_few_that_matter() -> None:
    weights = np.zeros(40)
    weights[[3, 17, 25, 38]] = [4.0, -2.0, 1.0, 0.5]
    scores = attribute(ContextCite(), sigmoid_game(weights, bias=-2.0))[0]
    # The penalty takes up to alpha off a standardised weight: twice that of a mask's.
    assert scores == pytest.approx(weights, abs=0.06)
    assert set(np.abs(scores).argsort()[-4:]) == {3, 17, 25, 38}
    assert (scores == 0).sum() > 20


def test_context_cite_takes_the_mean_over_output_tokens() -> None:
    weights = np.array([2.0, -1.0, 0.0, 0.0, 1.0, 0.0])
    one, three = sigmoid_game(weights, bias=0.5), sigmoid_game(weights, bias=0.5)
    three.n_outputs = 3
    three._value, of_one = lambda keep: 3 * of_one(keep), three._value
    assert attribute(ContextCite(), three) == pytest.approx(attribute(ContextCite(), one))
    one.target = "prob"
    with pytest.raises(CapabilityError, match="explains the target logprob, got prob"):
        attribute(ContextCite(), one)


@pytest.mark.parametrize("near", [0.0, -1e-300, -1e-12, -1e-8, -1e-4])
def test_context_cite_stays_finite_where_the_output_is_certain(near: float) -> None:
    value = torch.tensor([[near], [-3.0]], dtype=torch.float64)
    game = Game(5, 1, lambda keep: value[(~keep[:, 0]).long()])
    scores = attribute(ContextCite(), game)[0]
    assert np.isfinite(scores).all()
    assert np.isfinite(errors_of(game)).all()
    assert scores.argmax() == 0
    assert scores[0] > 5
    certain = Game(5, 1, lambda keep: torch.zeros(len(keep), 1))
    assert not attribute(ContextCite(), certain).any()


def test_log_odds() -> None:
    p = np.array([[1e-30, 0.1, 0.5, 0.9, 1 - 1e-6]])
    assert log_odds(np.log(p)) == pytest.approx(np.log(p) - np.log1p(-p), rel=1e-9, abs=1e-12)
    assert log_odds(np.array([[-1e5]])) == -1e5
    assert log_odds(np.array([[-1e-30]])) == pytest.approx(30 * np.log(10))
    assert 87 < log_odds(np.array([[0.0]])) < 88
    assert log_odds(np.array([[1e-3]])) == log_odds(np.array([[0.0]]))  # rounding may take it above 0


@pytest.mark.slow
def test_context_cite_intervals_cover_the_weights() -> None:
    rng = np.random.default_rng(0)
    within = []
    for seed in range(40):
        weights = rng.normal(size=12)
        game = sigmoid_game(weights, bias=-1.0, noise=rng.normal(size=4096) / 2)
        scores = attribute(ContextCite(), game, seed)[0]
        intervals = game.notes["intervals"]
        low, high = np.array(intervals["low"])[0], np.array(intervals["high"])[0]
        assert intervals["confidence"] == 0.95
        assert (low <= high).all()
        assert ((low <= scores) & (scores <= high)).mean() > 0.7
        within.append((low <= weights) & (weights <= high))
    assert 0.85 < np.mean(within) < 0.99


# Options


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelSHAP(samples=1), "samples as a whole number from 2 on, got 1"),
        (lambda: Banzhaf(samples=0), "samples as a whole number from 1 on, got 0"),
        (lambda: ShapleySampling(permutations=3), "even number of permutations, since they come in pairs: 3"),
        (lambda: ShapleySampling(error=0), "error above 0, got 0"),
        (lambda: LIME(samples=1), "samples as a whole number from 2 on"),
        (lambda: LIME(kernel_width=0), "kernel_width above 0"),
        (lambda: LIME(alpha=-1), "alpha above 0"),
        (lambda: ContextCite(ablations=1), "ablations as a whole number from 2 on"),
        (lambda: ContextCite(alpha="x"), "alpha above 0"),
        (lambda: ContextCite(resamples=1), "resamples as a whole number from 2 on"),
    ],
)
def test_bad_options(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("method", [KernelSHAP(16), LIME(), ContextCite()], ids=lambda method: method.name)
def test_without_scikit_learn(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llm-attribution\[sklearn\]"'):
        attribute(method, moebius_game(3, {(0,): 1.0, (1, 2): 2.0}))
