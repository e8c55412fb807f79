"""Metrics of faithfulness against numbers computed by hand, and at their limits, on games whose values are known."""

from __future__ import annotations

import math
import re
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from scipy import stats

from attribution.errors import BudgetError, InputError
from attribution.faithfulness.metric import Metric, build_metric, list_metrics
from attribution.faithfulness.metrics._masks import held_out_masks
from attribution.faithfulness.metrics._orders import orders_of
from attribution.faithfulness.metrics._subject import subject_of
from attribution.faithfulness.metrics.correlations import LeaveOneOutCorrelation, ShapleyCorrelation
from attribution.faithfulness.metrics.curves import (
    Deletion,
    Insertion,
    Lerf,
    Morf,
    MorfLerfDifference,
    insertion_curve,
    removal_curve,
)
from attribution.faithfulness.metrics.fit import CompletenessError, Infidelity, LinearDatamodelingScore
from attribution.faithfulness.metrics.normalised import NormalisedAopc, area_bound
from attribution.faithfulness.metrics.randomisation import Randomisation
from attribution.faithfulness.metrics.sensitivity import MaxSensitivity
from attribution.faithfulness.metrics.soft import SoftComprehensiveness, SoftSufficiency, probabilities
from attribution.faithfulness.metrics.strongest import (
    AopcComprehensiveness,
    AopcSufficiency,
    Comprehensiveness,
    Sufficiency,
    TopKDrop,
)
from attribution.ranking import average_ranks, correlate, settled
from tests.games import Game, KnownGame, LinearGame, additive_game, linear_game, random_game
from tests.scored import scored

NAMES = [
    "aopc_comprehensiveness",
    "aopc_sufficiency",
    "completeness_error",
    "comprehensiveness",
    "deletion",
    "infidelity",
    "insertion",
    "leave_one_out_correlation",
    "lerf",
    "linear_datamodeling_score",
    "max_sensitivity",
    "morf",
    "morf_lerf_difference",
    "normalised_aopc",
    "randomisation",
    "shapley_correlation",
    "soft_comprehensiveness",
    "soft_sufficiency",
    "sufficiency",
    "top_k_drop",
]
OF_ORDERS = [
    Comprehensiveness(share=0.4),
    Sufficiency(share=0.4),
    AopcComprehensiveness(),
    AopcSufficiency(),
    Morf(),
    Lerf(),
    MorfLerfDifference(),
    Insertion(),
    Deletion(),
    NormalisedAopc(beam=10),
    TopKDrop(k=2),
]
"""Metrics that look at nothing but the order of the scores."""
OF_VALUES = [metric for metric in list_metrics() if metric.needs == {"value"} and not metric.is_asked_anew]
"""Metrics that a game without embeddings or a model can be asked."""

WORTH = [4.0, 2.0, 1.0, 0.0]
LENGTHS = [2, 1, 1, 4]


def by_name(metrics):
    return pytest.mark.parametrize("metric", metrics, ids=lambda metric: metric.name)


# Finding them


def test_every_metric_is_found_by_its_name() -> None:
    assert [metric.name for metric in list_metrics()] == NAMES
    for name in NAMES:
        assert build_metric(name).name == name
    assert build_metric(TopKDrop(k=2)).options == {"k": 2, "tie_orders": 10}


def test_what_is_no_metric_is_refused(untyped) -> None:
    with pytest.raises(InputError, match=r"out of aopc_comprehensiveness, .*top_k_drop, got 'mrof'"):
        build_metric("mrof")
    with pytest.raises(InputError, match=r"Type Morf\(\) instead"):
        build_metric(Morf)
    with pytest.raises(InputError, match="got int"):
        build_metric(3)


@by_name(list_metrics())
def test_each_says_what_it_is(metric: Metric) -> None:
    assert metric.summary.endswith(".")
    assert metric.better in ("higher", "lower")
    assert metric.low is None or metric.high is None or metric.low < metric.high
    text = " ".join((type(metric).__doc__ or "").split())
    assert re.search(r"\(\d{4}\)|, \d{4}\)", text), "its source, with the year"
    if {"masks", "draws"} & set(metric.options):
        assert re.search(r"`(masks|draws)", text)


def test_costly_ones_are_marked() -> None:
    assert {m.name for m in list_metrics() if m.is_asked_anew} == {"max_sensitivity", "randomisation"}
    assert {m.name for m in list_metrics() if "gradients" in m.needs} == {"soft_comprehensiveness", "soft_sufficiency"}
    assert (MaxSensitivity.perturbs, Randomisation.perturbs, Morf.perturbs) == ("embeddings", "weights", "prompt")


# Numbers computed by hand


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # Without the units from the most relevant on: 7.5, 3.5, 1.5, 0.5, 0.5 at 0, 0.25, 0.375, 0.5 and 1.
        (Deletion(), 0.25 * 5.5 + 0.125 * 2.5 + 0.125 * 1 + 0.5 * 0.5),
        (Morf(), 7.5 - 2.0625),
        (Deletion(by="unit"), (5.5 + 2.5 + 1 + 0.5) / 4),
        (Morf(by="unit"), 7.5 - 2.375),
        # From the least relevant on: 7.5, 7.5, 6.5, 4.5, 0.5 at 0, 0.5, 0.625, 0.75 and 1.
        (Insertion(), 0.5 * 7.5 + 0.125 * 7 + 0.125 * 5.5 + 0.25 * 2.5),
        (Lerf(), 7.5 - 5.9375),
        (Insertion(by="unit"), (7.5 + 7 + 5.5 + 2.5) / 4),
        (Lerf(by="unit"), 7.5 - 5.625),
        (MorfLerfDifference(), 5.9375 - 2.0625),
        (MorfLerfDifference(by="unit"), 5.625 - 2.375),
        # A fifth of 8 tokens are fewer than the first unit has, which is taken all the same; half are units 0, 1 and 2.
        (Comprehensiveness(), 4.0),
        (Comprehensiveness(share=0.5), 7.0),
        (Comprehensiveness(share=0.5, by="unit"), 6.0),
        (Comprehensiveness(share=1.0), 7.0),
        (Sufficiency(), 3.0),
        (Sufficiency(share=0.5), 0.0),
        (Sufficiency(share=0.5, by="unit"), 1.0),
        (AopcComprehensiveness(), (4 * 4 + 7) / 5),
        (AopcSufficiency(), (4 * 3 + 0) / 5),
        (AopcComprehensiveness(by="unit"), (4 * 4 + 6) / 5),
        (AopcComprehensiveness(shares=(0.5, 1.0)), 7.0),
        (TopKDrop(), 7.0),
        (TopKDrop(k=1), 4.0),
        (TopKDrop(k=2), 6.0),
        (TopKDrop(k=99), 7.0),
    ],
    ids=str,
)
def test_of_a_known_order(metric: Metric, expected: float) -> None:
    found = metric(scored([9.0, 5.0, 2.0, -1.0], LENGTHS), additive_game(WORTH))
    assert isinstance(found, float)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_share_ends_before_the_first_unit_that_is_too_long() -> None:
    game, result = additive_game([1.0, 20.0, 300.0]), scored([3, 2, 1], [1, 8, 1])
    assert Comprehensiveness(share=0.5)(result, game) == 1.0  # not the last unit, which would still fit
    assert Comprehensiveness(share=0.9)(result, game) == 21.0


def test_curves() -> None:
    result, game = scored(WORTH, LENGTHS), additive_game(WORTH)
    shares, values = removal_curve(result, game)
    np.testing.assert_allclose(shares, [0, 0.25, 0.375, 0.5, 1])
    np.testing.assert_allclose(values, [7.5, 3.5, 1.5, 0.5, 0.5])
    shares, values = removal_curve(result, game, first="least", by="unit")
    np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(values, [7.5, 7.5, 6.5, 4.5, 0.5])
    curve = insertion_curve(result, game)
    np.testing.assert_allclose(curve.shares, [0, 0.25, 0.375, 0.5, 1])
    np.testing.assert_allclose(curve.values, [0.5, 4.5, 6.5, 7.5, 7.5])
    assert curve.area == pytest.approx(Insertion()(result, game))


def test_a_curve_asks_each_mask_once() -> None:
    game = additive_game(WORTH)
    removal_curve(scored(WORTH), game)
    assert game.cost.forwards == 5
    removal_curve(scored(WORTH), game, first="least")
    assert game.cost.forwards == 5 + 3  # the ends are known


def test_tied_units_of_other_lengths_average_their_curves() -> None:
    # Removed first, the long unit takes 4 along 3/4 of the tokens; removed second along the last 3/4.
    shares, values = removal_curve(scored([1, 1], [3, 1]), additive_game([4.0, 0.0]))
    np.testing.assert_allclose(shares, [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(values, [4.5, (4.5 - 4 / 3 + 4.5) / 2, (0.5 + 4.5 - 8 / 3) / 2, 0.5])


# Ties


@by_name(OF_ORDERS)
@pytest.mark.parametrize("scores", [[1, 1, 0, 0], [0, 2, 0, 0], [3, 3, 3, 3]], ids=str)
@pytest.mark.parametrize("lengths", [[1, 1, 1, 1], [1, 3, 2, 5]], ids=str)
def test_ties_are_in_expectation(metric: Metric, scores: list[float], lengths: list[int]) -> None:
    game = random_game(4, order=3, seed=1)
    # Every strict order of the units in which no unit comes before one that scores more.
    orders = [p for p in permutations(range(4)) if all(scores[a] >= scores[b] for a, b in pairwise(p))]
    strict = [scored(-np.argsort(order), lengths) for order in orders]
    expected = np.mean([metric(result, game) for result in strict])
    assert metric(scored(scores, lengths), game) == pytest.approx(expected, abs=1e-9)
    if len(set(scores)) == 1:
        assert len({round(metric(result, game), 6) for result in strict}) > 1


@by_name(OF_ORDERS)
def test_many_ties_are_drawn_by_the_seed(metric: Metric) -> None:
    game = random_game(8, order=3, seed=2)
    result = scored([0, 0, 0, 0, 1, 0, 0, 0])
    found = [metric(result, game, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    if not isinstance(metric, TopKDrop | AopcComprehensiveness | AopcSufficiency):  # these need but few draws
        assert found[0] != found[2]
    many = [metric(result, game, seed=seed) for seed in range(40)]
    if isinstance(metric, Morf):
        rng = np.random.default_rng(0)
        orders = [[4, *rng.permutation([0, 1, 2, 3, 5, 6, 7])] for _ in range(400)]
        chance = [metric(scored(-np.argsort(order)), game) for order in orders]
        assert abs(np.mean(many) - np.mean(chance)) < 4 * np.std(chance) / 20
        assert np.std(many) < np.std(chance) / 2


def test_constant_scores_are_a_random_order() -> None:
    game = additive_game([5.0, -1.0, 2.0, 0.0, 3.0, 1.0, 1.0])
    result = scored([0.3] * 7, [1, 2, 3, 4, 5, 6, 7])
    assert MorfLerfDifference()(result, game) == 0
    # An order and its reverse average to a straight line where units are as long as one another.
    assert Morf()(scored([0.3] * 7), game) == pytest.approx(11 / 2)
    assert Lerf()(scored([0.3] * 7), game) == pytest.approx(11 / 2)
    few = additive_game(WORTH)
    assert NormalisedAopc(beam=6)(scored([0] * 4), few) == pytest.approx(0.5)


def test_orders() -> None:
    assert orders_of(np.array([1.0, 3.0, 2.0]), 10, 0).tolist() == [[1, 2, 0]]
    assert sorted(orders_of(np.array([1.0, 3.0, 1.0]), 10, 0).tolist()) == [[1, 0, 2], [1, 2, 0]]
    drawn = orders_of(np.array([0.0] * 8 + [1.0]), 5, 0)
    assert drawn.shape == (5, 9)
    assert (np.sort(drawn, 1) == np.arange(9)).all()
    assert (drawn[:, 0] == 8).all()
    assert (drawn[0, 1:] == drawn[1, :0:-1]).all()
    assert len(np.unique(drawn, axis=0)) == 5


# Limits


@by_name(OF_VALUES)
def test_the_truth_beats_chance_and_chance_its_opposite(metric: Metric) -> None:
    worth = [4.0, -2.0, 1.0, 0.5, 3.0, -1.0, 0.25, 2.0]
    game, sign = additive_game(worth), 1 if metric.better == "higher" else -1
    rng = np.random.default_rng(3)
    true = sign * metric(scored(worth), game)
    chance = [sign * metric(scored(rng.permutation(worth)), game) for _ in range(30)]
    opposite = sign * metric(scored([-each for each in worth]), game)
    if isinstance(metric, CompletenessError):  # any order of the same scores adds up
        assert true == pytest.approx(0)
        assert opposite == pytest.approx(-2)
        return
    assert true > np.mean(chance) > opposite
    assert true >= max(chance) - 1e-9
    if not isinstance(metric, Infidelity):  # wrong signs are as wrong as can be
        assert opposite <= min(chance) + 1e-9


@by_name(OF_VALUES)
def test_numbers_keep_to_their_range(metric: Metric) -> None:
    rng = np.random.default_rng(4)
    for seed in range(5):
        game = random_game(6, order=3, seed=seed)
        for scores in (rng.normal(size=6), rng.integers(0, 2, 6), np.zeros(6), np.ones(6)):
            found = metric(scored(scores, rng.integers(1, 5, 6).tolist()), game, seed=seed)
            assert math.isnan(found) or (metric.low is None or found >= metric.low)
            assert math.isnan(found) or (metric.high is None or found <= metric.high)


@by_name(OF_VALUES)
def test_a_target_that_never_changes(metric: Metric) -> None:
    found = metric(scored([3.0, 2.0, 1.0]), Game(3, 1, lambda keep: torch.full((len(keep), 1), -2.0)))
    if isinstance(metric, Insertion | Deletion):
        assert found == -2
    elif metric in OF_ORDERS or isinstance(metric, Comprehensiveness | Sufficiency | TopKDrop):
        assert found == 0 or isinstance(metric, NormalisedAopc)
    if metric.high is not None or isinstance(metric, CompletenessError | NormalisedAopc):
        assert math.isnan(found)


@by_name(OF_VALUES)
def test_nothing_can_be_removed(metric: Metric) -> None:
    game = Game(2, 1, lambda keep: keep.float().sum(1, keepdim=True))
    game.removable[:] = False
    assert math.isnan(metric(scored([1.0, 2.0]), game))
    assert len(removal_curve(scored([1.0, 2.0]), game).shares) == 0


# Which scores, which target


@by_name(OF_VALUES)
def test_outputs_are_summed(metric: Metric) -> None:
    game = linear_game()
    result = scored([[0.1, -0.2, 0.3, 0.05], [9.0, 1.0, -8.0, 3.0], [-0.3, 0.5, 0.25, 0.1]])
    chosen = game.worth[:, [0, 2]].sum(1)
    found = metric(result, game, outputs=[0, 2])
    alone = metric(scored([-0.2, 0.3, 0.55, 0.15]), LinearGame(chosen[:, None]))
    shift = 0.5 * isinstance(metric, Insertion | Deletion)  # each target begins at 0.5
    assert found == pytest.approx(alone + shift, abs=1e-6)
    assert found != metric(result, game)


@by_name(OF_VALUES)
def test_one_row_for_the_output_as_a_whole(metric: Metric) -> None:
    game = additive_game(WORTH)
    one, other = (metric(scored(WORTH[::-1], per_output=flag), game) for flag in (True, False))
    assert one == other or (math.isnan(one) and math.isnan(other))


@by_name(OF_VALUES)
def test_units_that_stay_count_for_nothing(metric: Metric) -> None:
    """A special unit with the largest score, and output tokens that are units: only the others are ordered."""
    whole = additive_game([50.0, *WORTH, 70.0])
    whole.removable = torch.tensor([False, True, True, True, True, True])
    asked: list[torch.Tensor] = []
    value = whole.value
    whole.value = lambda keep: asked.append(keep) or value(keep)
    found = metric(scored([99.0, 1.0, 3.0, 0.0, 2.0], [7, *LENGTHS]), whole)
    masks = torch.cat(asked)
    assert masks[:, [0, 5]].all()
    assert not masks[:, 1:5].all()
    alone = metric(scored([1.0, 3.0, 0.0, 2.0], LENGTHS), additive_game(WORTH))
    assert found == pytest.approx(alone + 120 * isinstance(metric, Insertion | Deletion))


def test_unsigned_scores_are_ranked_as_they_are() -> None:
    game = additive_game(WORTH)
    for metric in (Morf(), LinearDatamodelingScore(), LeaveOneOutCorrelation()):
        assert metric(scored(WORTH, signed=False), game) == metric(scored(WORTH), game)


@by_name(OF_VALUES)
def test_another_problem_is_refused(metric: Metric) -> None:
    with pytest.raises(InputError, match="4 units and 1 targets, got one of 3 and 1"):
        metric(scored(WORTH), additive_game([1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="recorded_problem"):
        metric(scored([WORTH, WORTH]), additive_game(WORTH))


@by_name(OF_VALUES)
def test_a_budget_that_ends_is_an_error(metric: Metric) -> None:
    with pytest.raises(BudgetError, match="Allow more"):
        metric(scored(WORTH), additive_game(WORTH).again(allowed=1))


def test_wrong_options_are_refused(untyped) -> None:
    for wrong in (0, 1.5, True, "much", math.nan):
        with pytest.raises(InputError, match="share"):
            Comprehensiveness(share=wrong)
        with pytest.raises(InputError, match="share"):
            AopcSufficiency(shares=(0.1, wrong))
    for kind, options in [
        (AopcComprehensiveness, {"shares": ()}),
        (Morf, {"by": "word"}),
        (Lerf, {"tie_orders": 0}),
        (TopKDrop, {"k": 0}),
        (NormalisedAopc, {"beam": 0}),
        (Infidelity, {"masks": 0}),
        (LinearDatamodelingScore, {"masks": 1.5}),
        (ShapleyCorrelation, {"by": "pearson"}),
        (SoftSufficiency, {"draws": 0}),
        (SoftComprehensiveness, {"mapping": "softmax"}),
        (MaxSensitivity, {"radius": 0}),
    ]:
        with pytest.raises(InputError, match=next(iter(options))):
            kind(**options)
    with pytest.raises(InputError, match="'most', 'least'"):
        removal_curve(scored(WORTH), additive_game(WORTH), first="best")


# Normalised AOPC


def all_areas(game: KnownGame, lengths: list[int], by: str) -> list[float]:
    n = game.n_units
    return [Morf(by=by)(scored(-np.argsort(order), lengths), game) for order in permutations(range(n))]


@pytest.mark.parametrize("by", ["token", "unit"])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_those_of_all_orders(by: str, seed: int) -> None:
    game, lengths = random_game(5, order=3, seed=seed), [1, 4, 2, 1, 3]
    areas = all_areas(game, lengths, by)
    subject = subject_of(scored([0] * 5, lengths), game)
    lower, upper = (area_bound(subject, by, 10, largest=largest) for largest in (False, True))
    assert (lower, upper) == pytest.approx((min(areas), max(areas)))
    narrow = [area_bound(subject, by, 1, largest=largest) for largest in (False, True)]
    for area in narrow:  # what is found is an order's
        assert min(abs(area - each) for each in areas) < 1e-9
    result = scored([0.3, 0.1, 0.5, 0.2, 0.4], lengths)
    expected = (Morf(by=by)(result, game) - lower) / (upper - lower)
    assert NormalisedAopc(beam=10, by=by)(result, game) == pytest.approx(expected)


def test_a_wider_beam_finds_what_a_narrow_one_misses() -> None:
    """Units 0 and 1 do nothing alone and everything together; unit 2 does a little at once."""
    game = KnownGame(
        np.array([[0.0 if k & 3 == 0 else 10.0 + (k & 4) / 4] for k in range(16)]), np.zeros((1, 4)), np.zeros((1, 4))
    )
    subject = subject_of(scored([0] * 4), game)
    areas = all_areas(game, [1] * 4, "unit")
    assert area_bound(subject, "unit", 1, largest=True) < max(areas) - 0.1
    assert area_bound(subject, "unit", 6, largest=True) == pytest.approx(max(areas))


def test_a_beam_is_not_drawn_to_long_units() -> None:
    game, lengths = additive_game([4.0, 3.0, 2.0, 1.0]), [1, 1, 1, 20]
    areas = all_areas(game, lengths, "token")
    subject = subject_of(scored([0] * 4, lengths), game)
    assert area_bound(subject, "token", 1, largest=True) == pytest.approx(max(areas))


def test_the_best_order_is_1_and_the_worst_0() -> None:
    game = additive_game(WORTH)
    assert NormalisedAopc()(scored(WORTH), game) == pytest.approx(1)
    assert NormalisedAopc()(scored([-each for each in WORTH]), game) == pytest.approx(0)
    assert NormalisedAopc()(scored(WORTH), additive_game([100 * each for each in WORTH])) == pytest.approx(1)


# Fit


def test_held_out_masks_come_in_runs() -> None:
    keep = held_out_masks(200, 400, 0)
    assert keep.mean() == pytest.approx(0.5, abs=0.02)
    assert keep[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert (keep[:, 1:] == keep[:, :-1]).mean() == pytest.approx(2 / 3, abs=0.01)
    assert (held_out_masks(9, 5, 0) == held_out_masks(9, 5, 0)).all()
    assert (held_out_masks(9, 5, 0) != held_out_masks(9, 5, 1)).any()


def test_datamodeling_score() -> None:
    metric, worth = LinearDatamodelingScore(), [0.3, 0.1, 0.0, -0.2, 0.1, 0.25, 0.7]
    assert metric(scored(worth), additive_game(worth)) == pytest.approx(1)
    assert metric(scored([7 * each for each in worth]), additive_game(worth)) == pytest.approx(1)
    assert metric(scored([-each for each in worth]), additive_game(worth)) == pytest.approx(-1)
    assert math.isnan(metric(scored([0.0] * 7), additive_game(worth)))
    game = random_game(8, order=3, seed=5)
    found = metric(scored(game.shapley), game, seed=3)
    keep = np.unique(held_out_masks(8, 64, 3), axis=0)
    true = game.value(torch.from_numpy(keep)).numpy()[:, 0]
    assert found == pytest.approx(stats.spearmanr(keep @ game.shapley[0].astype(np.float32), true).statistic)
    assert 0.2 < found < 0.99
    chance = [metric(scored(np.random.default_rng(seed).normal(size=8)), game) for seed in range(60)]
    assert abs(np.mean(chance)) < 0.2


def test_infidelity() -> None:
    metric, worth = Infidelity(), [0.5, 0.25, 0.0, -2.0, 1.0, 4.0]
    game = additive_game(worth)
    assert metric(scored(worth), game) == pytest.approx(0)
    assert metric(scored([100 * each for each in worth]), game) == pytest.approx(0)
    assert metric(scored([0.0] * 6), game) == 1
    assert metric(scored([-each for each in worth]), game) == 1
    mixed = random_game(6, order=3, seed=6)
    scores = np.array([1.0, -0.5, 0.25, 2.0, 0.75, -1.0])
    keep = held_out_masks(6, 64, 9)
    drops = mixed.table[-1, 0] - mixed.value(torch.from_numpy(keep)).numpy()[:, 0]
    predicted = (1 - keep) @ scores
    least = min(((factor * predicted - drops) ** 2).sum() for factor in np.linspace(0, 5, 50_001))
    assert metric(scored(scores), mixed, seed=9) == pytest.approx(least / (drops**2).sum(), abs=1e-6)


def test_completeness_error() -> None:
    metric, game = CompletenessError(), additive_game(WORTH)
    assert metric(scored(WORTH), game) == pytest.approx(0)
    assert metric(scored([0.0] * 4), game) == 1
    assert metric(scored([7.0, 0.0, 0.0, 7.0]), game) == pytest.approx(1)
    assert metric(scored([1.0, 2.0, 3.0, -2.5]), game) == pytest.approx(0.5)
    assert math.isnan(metric(scored(WORTH[:2]), additive_game([1.0, -1.0])))


# Ranks


def test_rank_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 5, 12).astype(float), rng.normal(size=12).round(1)
        assert correlate(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
        assert correlate(one, other, "kendall") == pytest.approx(stats.kendalltau(one, other).statistic)
        np.testing.assert_allclose(average_ranks(one), stats.rankdata(one) - 1)
    constant = np.ones(4)
    for by in ("spearman", "kendall"):
        assert math.isnan(correlate(constant, np.arange(4.0), by))
        assert math.isnan(correlate(np.ones(1), np.ones(1), by))


def test_what_rounding_tells_apart_is_the_same() -> None:
    values = np.array([1.0, 3.0, 1.0 + 1e-9, 2.0, 3.0 - 1e-9])
    assert settled(values, 1e-6).tolist() == [1.0, 3.0 - 1e-9, 1.0, 2.0, 3.0 - 1e-9]
    assert settled(np.empty(0), 0.0).shape == (0,)


def test_leave_one_out_correlation() -> None:
    # Either of units 0 and 1 suffices, so that neither has a drop; unit 2 has one of 2, unit 3 one of 1.
    game = KnownGame(
        np.array([[5.0 * bool(k & 3) + (k & 4) / 2 + (k & 8) / 8] for k in range(16)]),
        np.array([[2.5, 2.5, 2.0, 1.0]]),
        np.zeros((1, 4)),
    )
    assert LeaveOneOutCorrelation()(scored([0, 0, 2, 1]), game) == pytest.approx(1)
    assert LeaveOneOutCorrelation()(scored([0, 0, -2, -1]), game) == pytest.approx(-1)
    shapley = scored(game.shapley)
    assert LeaveOneOutCorrelation()(shapley, game) == pytest.approx(
        stats.spearmanr([2.5, 2.5, 2, 1], [0, 0, 2, 1]).statistic
    )
    assert LeaveOneOutCorrelation(by="kendall")(scored([3, 2, 1, 0]), additive_game([4, 1, 2, 0])) == pytest.approx(
        4 / 6
    )
    assert ShapleyCorrelation()(shapley, game) == pytest.approx(1)
    assert math.isnan(LeaveOneOutCorrelation()(scored([1, 1, 1, 1]), game))


def test_shapley_correlation() -> None:
    game = random_game(7, order=4, seed=8)
    assert ShapleyCorrelation()(scored(game.shapley), game) == pytest.approx(1)
    assert ShapleyCorrelation()(scored(-game.shapley), game) == pytest.approx(-1)
    assert ShapleyCorrelation()(scored(game.banzhaf), game) < 1
    many = Game(13, 1, lambda keep: keep.float().sum(1, keepdim=True))
    assert math.isnan(ShapleyCorrelation()(scored(range(13)), many))
    assert many.cost.forwards == 0


# Soft removal


def test_scores_become_probabilities() -> None:
    scores = np.array([-1.0, 3.0, 0.0, 0.0])
    assert probabilities(scores, "range").tolist() == [0, 1, 0.25, 0.25]
    assert probabilities(scores, "rank").tolist() == [0, 1, 0.5, 0.5]
    for mapping in ("range", "rank"):
        assert probabilities(np.array([2.0, 2.0]), mapping).tolist() == [0.5, 0.5]


def test_soft_metrics_at_their_limits() -> None:
    game = LinearGame(torch.tensor([[3.0], [0.0]]))
    kept, dropped = SoftSufficiency(), SoftComprehensiveness()
    assert kept(scored([1, 0]), game) == pytest.approx(1)
    assert dropped(scored([1, 0]), game) == pytest.approx(1)
    assert kept(scored([0, 1]), game) == pytest.approx(0)
    assert dropped(scored([0, 1]), game) == pytest.approx(0)
    for metric in (kept, dropped):
        assert 0 < metric(scored([1, 1]), game) < 1
        assert metric(scored([1, 1]), game, seed=1) != metric(scored([1, 1]), game)
        assert math.isnan(metric(scored([1, 0]), LinearGame(torch.tensor([[-3.0], [0.0]]))))
        before = game.cost.forwards
        metric(scored([1, 1]), game)
        assert game.cost.forwards == before + 18


def test_soft_removal_spares_units_that_stay() -> None:
    game = LinearGame(torch.tensor([[3.0], [1.0], [2.0]]))
    game.removable[0] = False
    assert SoftSufficiency()(scored([-5, 0, 1]), game) == pytest.approx(2 / 3)
    assert SoftComprehensiveness()(scored([-5, 0, 1]), game) == pytest.approx(2 / 3)
