"""Leave-one-out from coarse to fine: on prompts whose causes are planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from attribution.errors import BudgetError, InputError
from attribution.explainer import explain
from attribution.methods.hierarchical import Hierarchical
from attribution.methods.leave_one_out import LeaveOneOut
from attribution.models.local import LocalModel
from attribution.planted.families import FAMILIES, draw
from attribution.planted.needles import needle
from attribution.problem import Problem
from tests.games import Game, and_game, linear_game, or_game


def attribute(problem: Problem, **options) -> Tensor:
    scores = Hierarchical(**options).attribute(problem, np.random.default_rng(0))
    assert json.loads(json.dumps(problem.notes)) == problem.notes
    assert problem.notes["evaluations"] <= problem.cost.forwards
    assert problem.cost.forwards <= Hierarchical(**options).cost(problem.n_units, problem.n_targets).forwards
    return scores


def leave_one_out(problem: Problem) -> Tensor:
    return LeaveOneOut().attribute(problem, np.random.default_rng(0)).double()


def additive(worth: dict[int, float], n_units: int, **options) -> Game:
    weights = torch.zeros(n_units, 1)
    weights[list(worth), 0] = torch.tensor(list(worth.values()))
    return Game(n_units, 1, lambda keep: keep.float() @ weights, **options)


def random_game(n_units: int, n_targets: int, seed: int) -> Game:
    """Products of random sets of units with random worths, and a unit that undoes half of everything."""
    generator = torch.Generator().manual_seed(seed)
    sets = torch.rand(40, n_units, generator=generator) < 2.5 / n_units
    worth = torch.randn(40, n_targets, generator=generator)

    def value(keep: Tensor) -> Tensor:
        whole = (keep[:, None] | ~sets).all(-1).float()
        return whole @ worth * (1 - 0.5 * keep[:, :1].float())

    return Game(n_units, n_targets, value)


def nested(*sizes: int, n_units: int) -> tuple[Tensor, ...]:
    """Levels of groups of these many units."""
    return tuple(torch.arange(n_units) // size for size in sizes)


def either(n_units: int, *pairs: tuple[int, int]) -> Game:
    """Worth 1 for each pair of which a unit is there."""
    return Game(
        n_units, 1, lambda keep: torch.stack([keep[:, a] | keep[:, b] for a, b in pairs]).float().sum(0)[:, None]
    )


# The same as leave-one-out


@pytest.mark.parametrize("branching", [2, 3, 8])
@pytest.mark.parametrize("sizes", [(), (20,), (12, 4), (18, 6, 3, 1), (1,), (99,)])
@pytest.mark.parametrize("seed", range(3))
def test_without_a_threshold_it_is_leave_one_out(branching: int, sizes: Sequence[int], seed: int) -> None:
    game = random_game(37, 3, seed)
    game.removable[[0, 5, 6, 30]] = False
    game.levels = nested(*sizes, n_units=37)
    scores = attribute(game, threshold=0.0, branching=branching)
    assert torch.allclose(scores, leave_one_out(game), atol=1e-6)
    assert scores.any()
    assert game.notes["joint"] == game.notes["not_looked_into"] == []


def test_a_sum_of_worths_is_told_exactly() -> None:
    game = linear_game()
    assert torch.allclose(attribute(game).float(), game.worth.T, atol=1e-6)


@pytest.mark.parametrize("levels", [(), nested(500, 100, 10, n_units=1000)])
@pytest.mark.parametrize("seed", range(5))
def test_causes_among_a_thousand_units(levels: tuple[Tensor, ...], seed: int) -> None:
    """The same five as leave-one-out, with the same scores, at an eighth of the evaluations."""
    generator = np.random.default_rng(seed)
    causes = generator.choice(1000, 5, replace=False).tolist()
    game = additive(dict(zip(causes, [5.0, -4.0, 3.0, 2.0, 1.0], strict=True)), 1000)
    game.levels = levels
    scores = attribute(game)
    spent = game.cost.forwards
    assert spent <= 1001 / 8
    assert scores[0].abs().topk(5).indices.tolist() == causes
    reference = leave_one_out(game)
    assert torch.allclose(scores, reference, atol=1e-5)


def test_one_cause_costs_a_logarithm() -> None:
    game = additive({617: 1.0}, 1000)
    attribute(game)
    assert game.cost.forwards <= 30
    assert all(entry["why"] == "weak" for entry in game.notes["not_looked_into"])


def test_weak_units_do_not_stop_the_search() -> None:
    """Each unit does a little, five do much."""
    causes = {3: 2.0, 250: 2.5, 251: 3.0, 700: 2.2, 999: 2.7}
    game = additive(dict.fromkeys(range(1000), 0.001) | causes, 1000)
    scores = attribute(game)
    assert game.cost.forwards <= 1001 / 8
    assert set(scores[0].topk(5).indices.tolist()) == set(causes)
    assert scores[0, 250].item() == pytest.approx(2.5, abs=1e-4)


def test_levels_are_followed() -> None:
    """A message of two paragraphs, the second of two sentences; the cause is the last word but one."""
    game = additive({9: 1.0}, 11)
    message, paragraph = [0] * 4 + [1] * 7, [0] * 4 + [1] * 2 + [2] * 5
    sentence = [0] * 4 + [1] * 2 + [2] * 2 + [3] * 3
    game.levels = tuple(map(torch.tensor, (message, paragraph, sentence)))
    asked = []
    value = game.value
    game.value = lambda keep: asked.append((~keep).int().tolist()) or value(keep)
    scores = attribute(game, branching=3)
    assert scores.tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]]
    spans = [[(row.index(1), 11 - row[::-1].index(1)) for row in batch if 1 in row] for batch in asked]
    assert spans == [[(0, 11)], [(0, 4), (4, 11)], [(4, 6), (6, 11)], [(6, 8), (8, 11)], [(8, 9), (9, 10), (10, 11)]]
    assert [entry["units"] for entry in game.notes["not_looked_into"]] == [[0, 4], [4, 6], [6, 8]]


def test_all_of_a_round_is_asked_at_once() -> None:
    game = additive({10: 1.0, 500: 1.0, 900: 1.0}, 1000)
    batches = []
    value = game.value
    game.value = lambda keep: batches.append(len(keep)) or value(keep)
    attribute(game)
    assert len(batches) == 5  # the ends, and then 8, 64, 512 and all
    assert batches[:3] == [2, 8, 24]


# Redundancy


def test_said_twice_within_a_part() -> None:
    """The part carries what is lost without it, and the flag names it; nothing else is coloured."""
    game = either(64, (17, 22))
    scores = attribute(game)
    assert game.notes["joint"] == [{"units": [16, 24], "drop": [1.0], "scored": True}]
    assert scores[0, 16:24].tolist() == [1.0] * 8
    assert not scores[0, :16].any()
    assert not scores[0, 24:].any()


def test_said_twice_in_two_parts() -> None:
    """No part alone matters, so none is coloured; that the whole does is told."""
    game = either(64, (3, 60))
    scores = attribute(game)
    assert not scores.any()
    assert game.notes["joint"] == [{"units": [0, 64], "drop": [1.0], "scored": False}]
    assert len(game.notes["not_looked_into"]) == 8
    assert attribute(or_game()).tolist() == [[0, 0]]


def test_said_twice_next_to_a_plain_cause() -> None:
    game = Game(64, 1, lambda keep: ((keep[:, 17] | keep[:, 22]).float() + 2 * keep[:, 50].float())[:, None])
    scores = attribute(game)
    assert [entry["units"] for entry in game.notes["joint"]] == [[16, 24]]
    assert scores[0, 50] == 2
    assert scores[0, 17] == scores[0, 22] == 1
    assert not scores[0, 51:].any()


def test_many_small_causes_are_not_taken_for_redundancy() -> None:
    """Each of 40 is below the threshold, and yet they add up: each keeps its own."""
    game = additive(dict.fromkeys(range(40), 0.025), 40)
    scores = attribute(game, branching=40)
    assert torch.allclose(scores, torch.full_like(scores, 0.025), atol=1e-6)
    assert game.notes["joint"] == []


def test_units_that_only_work_together() -> None:
    assert attribute(and_game()).tolist() == [[1, 1, 0]]
    game = Game(512, 1, lambda keep: (keep[:, 5] & keep[:, 400]).float()[:, None])
    scores = attribute(game)
    assert scores[0].nonzero()[:, 0].tolist() == [5, 400]
    assert game.notes["joint"] == []


# Special units, targets, small prompts


def test_what_cannot_be_removed_is_no_part() -> None:
    game = either(10, (1, 2))
    game.removable[[0, 9]] = False
    scores = attribute(game, branching=2)
    assert not scores[0, [0, 9]].any()
    assert game.notes["joint"] == [{"units": [1, 3], "drop": [1.0], "scored": True}]
    assert scores[0, 1] == scores[0, 2] == 1
    hidden = additive({4: 1.0}, 6)
    hidden.removable[4] = False  # it is always there, so it changes nothing
    assert not attribute(hidden).any()


def test_each_target_finds_its_causes() -> None:
    game = Game(200, 2, lambda keep: torch.stack([keep[:, 20], 0.5 * keep[:, 150]], 1).float())
    scores = attribute(game)
    assert scores[0].nonzero()[:, 0].tolist() == [20]
    assert scores[1].nonzero()[:, 0].tolist() == [150]
    assert scores[:, [20, 150]].tolist() == [[1, 0], [0, 0.5]]


@pytest.mark.parametrize("n_units", [0, 1, 2])
def test_small_prompts(n_units: int) -> None:
    game = Game(n_units, 1, lambda keep: 3.0 * keep.float().sum(1, keepdim=True))
    assert attribute(game).tolist() == [[3.0] * n_units]
    assert game.notes["evaluations"] == game.cost.forwards
    assert game.notes["not_looked_into"] == []


def test_where_nothing_matters_little_is_asked() -> None:
    game = Game(1000, 1, lambda keep: torch.ones(len(keep), 1))
    assert not attribute(game).any()
    assert game.cost.forwards == 10
    assert game.notes["joint"] == []


# Never more than leave-one-out


@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.05])
@pytest.mark.parametrize("branching", [2, 8])
@pytest.mark.parametrize("levels", [(), (9, 4), (40, 16, 2)])
def test_never_more_prompts_than_leave_one_out(threshold: float, branching: int, levels: tuple[int, ...]) -> None:
    """Neither where little matters nor where everything does."""
    plain = {"threshold": threshold, "branching": branching}
    for n_units in (1, 2, 3, 7, 16, 17, 24, 100):
        for options in (plain, plain | {"max_evaluations": 10_000}):
            for game in (random_game(n_units, 2, 1), additive(dict.fromkeys(range(n_units), 1.0), n_units)):
                game.levels = nested(*levels, n_units=n_units)
                attribute(game, **options)
                assert game.notes["evaluations"] == game.cost.forwards <= n_units + 1


@pytest.mark.parametrize(("n_units", "most"), [(1, 2), (16, 17), (49, 50), (50, 50), (199, 50), (200, 50), (1000, 250)])
def test_a_long_prompt_takes_a_quarter_at_most(n_units: int, most: int) -> None:
    """However many units matter; unless more is asked for."""
    assert Hierarchical().cost(n_units, 3).forwards == most
    assert Hierarchical(max_evaluations=20).cost(n_units, 3).forwards == min(n_units + 1, 20)
    for every in ({"threshold": 0.0}, {"max_evaluations": 2000}):
        assert Hierarchical(**every).cost(n_units, 3).forwards == n_units + 1
    game = additive({unit: 2.0 - unit / n_units for unit in range(n_units)} | {n_units // 2: 50.0}, n_units)
    scores = attribute(game)
    assert scores[0].argmax() == n_units // 2


def test_the_strongest_is_found_where_much_else_matters() -> None:
    """Room is kept to come down to it: what is weaker is left as it is."""
    worth = dict.fromkeys(range(0, 400, 5), 1.0) | {77: 30.0, 333: 20.0}
    game = additive(
        worth,
        400,
    )
    scores = attribute(game)
    assert game.cost.forwards <= 100
    assert scores[0].topk(2).indices.tolist() == [77, 333]
    tight = additive(worth, 400)
    assert attribute(tight, max_evaluations=30)[0, 77] == 30
    assert tight.cost.forwards <= 30


@pytest.mark.parametrize(("n_units", "branching"), [(1, 8), (5, 8), (16, 8), (6, 3), (4, 2)])
def test_of_a_short_prompt_it_is_leave_one_out(n_units: int, branching: int) -> None:
    """Mask by mask: the empty prompt, which is not asked for, would be one more."""
    ours, theirs = (random_game(n_units, 3, 4) for _ in range(2))
    ours.levels = nested(3, n_units=n_units)
    masks: list[list[Tensor]] = []
    for game in (ours, theirs):
        asked: list[Tensor] = []
        value = game.value
        game.value = lambda keep, asked=asked, value=value: asked.append(keep) or value(keep)
        masks.append(asked)
    assert torch.equal(attribute(ours, branching=branching), leave_one_out(theirs))
    assert len(masks[0]) == len(masks[1]) == 1
    assert torch.equal(masks[0][0], masks[1][0])
    assert ours.cost.forwards == n_units + 1
    assert ours.notes["joint"] == ours.notes["not_looked_into"] == []


def test_one_unit_more_is_looked_into_by_parts() -> None:
    game = additive({3: 1.0}, 17)
    assert attribute(game)[0, 3] == 1
    assert game.cost.forwards == 2 + 8 + 2


def test_where_every_unit_matters_they_are_deleted_one_at_a_time() -> None:
    """All of 8 parts of 25 matter: more groups would only cost. The last part has what leave-one-out leaves for it."""
    worth = {unit: 2.0 - unit / 200 for unit in range(200)}
    game = additive(worth, 200)
    batches = []
    value = game.value
    game.value = lambda keep: batches.append(len(keep)) or value(keep)
    scores = attribute(game, max_evaluations=201)
    assert batches[:3] == [2, 8, 7 * 25 + 8]
    assert sum(batches) <= 201
    assert torch.allclose(scores[0, :175], torch.tensor(list(worth.values()))[:175].double(), atol=1e-3)
    assert all(entry["units"][0] >= 175 for entry in game.notes["not_looked_into"])


def test_a_limit_on_a_short_prompt_is_for_its_parts() -> None:
    """Where leave-one-out would not come to its end, the strongest parts are looked into, and no more is asked."""
    game = additive({3: 1.0}, 16)
    assert attribute(game, max_evaluations=12)[0, 3] == 1
    assert game.cost.forwards == 2 + 8 + 2
    short = additive({3: 1.0}, 16, allowed=9)
    assert attribute(short)[0].nonzero()[:, 0].tolist() == [3]
    assert [entry["units"] for entry in short.notes["not_looked_into"]] == [[unit, unit + 1] for unit in range(8, 16)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 15])  # of the latter small effects are all over the prompt
def test_a_needle_among_200_sentences_costs_a_quarter(seed: int, demo: LocalModel) -> None:
    """`python -m benchmarks.hierarchy` measures the same on 40 prompts, of which 95 in 100 must do."""
    planted = needle(Random(f"needle {seed}"), True, 200)
    ours, theirs = (
        explain(demo, planted.prompt, output=planted.output, units="sentence", method=name)
        for name in ("hierarchical", "leave_one_out")
    )
    assert ours.evaluations is not None
    assert theirs.evaluations is not None
    assert len(theirs.evaluations) >= 201
    assert len(ours.evaluations) <= len(theirs.evaluations) / 4
    assert ours.total().argmax() == theirs.total().argmax()


@pytest.mark.slow
@pytest.mark.parametrize("units", ["word", "sentence"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_short_prompt_of_any_family_costs_more(family: str, units: str, demo: LocalModel) -> None:
    for seed in range(2):
        planted = draw(family, seed=seed) if family != "needle" else needle(Random(f"needle {seed}"), True, 6)
        result = explain(demo, planted.prompt, output=planted.output, units=units, method="hierarchical")
        assert result.evaluations is not None
        count = sum(not unit.special for unit in result.units)
        assert count <= 60
        assert len(result.evaluations) <= count + 1


# Limits


def test_the_strongest_first_where_evaluations_are_few() -> None:
    game = additive({10: 1.0, 300: 3.0, 900: 2.0}, 1000)
    scores = attribute(game, max_evaluations=2 + 8 + 8 + 8)
    assert game.cost.forwards == 26
    assert scores[0, 300] == 3
    assert scores[0, 900] == 2
    cut = [entry["units"] for entry in game.notes["not_looked_into"] if entry["why"] == "budget"]
    assert [0, 125] in cut  # the weakest of the three parts is told as a whole
    assert scores[0, :125].tolist() == [1.0] * 125
    assert len(cut) == 3
    for limit in range(26, 40):
        assert torch.equal(attribute(additive({300: 3.0}, 1000), max_evaluations=limit)[0, 300], scores[0, 300])


def test_a_limit_that_allows_no_part() -> None:
    with pytest.raises(BudgetError, match="Allow more"):
        attribute(additive({10: 1.0}, 100), max_evaluations=9)


@pytest.mark.parametrize("allowed", [*range(12), 18, 33, 34, 35, 57, 58, 63, 64, 100])
def test_a_budget_that_ends(allowed: int) -> None:
    """Whatever is known is told, with the drop of the smallest known part; what is not is named."""
    game = additive({10: 1.0, 300: 3.0, 900: 2.0}, 1000, allowed=allowed)
    if allowed < 3:
        with pytest.raises(BudgetError, match="Allow more"):
            attribute(game)
        return
    scores = attribute(game)
    assert game.cost.forwards <= allowed
    assert torch.isfinite(scores).all()
    budget = [entry["units"] for entry in game.notes["not_looked_into"] if entry["why"] == "budget"]
    assert bool(budget) == (allowed < 64)
    for unit, worth in {10: 1.0, 300: 3.0, 900: 2.0}.items():
        known = not any(start <= unit < stop for start, stop in budget)
        assert scores[0, unit] == worth or not known


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branching": 1}, "branching as a whole number from 2 on, got 1"),
        ({"threshold": -0.1}, "threshold above 0 and at most 1, got -0.1"),
        ({"threshold": 2}, "at most 1, got 2"),
        ({"threshold": True}, "got True"),
        ({"max_evaluations": 1}, "max_evaluations as a whole number from 2 on, got 1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Hierarchical(**options)


@pytest.mark.usefixtures("untyped")
def test_options_of_other_libraries_become_numbers() -> None:
    method = Hierarchical(branching=np.int64(3), threshold=np.float32(0), max_evaluations=np.int32(9))
    assert json.loads(json.dumps(method.options)) == {"branching": 3, "threshold": 0.0, "max_evaluations": 9}
