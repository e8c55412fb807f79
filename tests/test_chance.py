"""Where there is nothing to find, nothing is found: a random model, and scores that were shuffled, are at chance."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from random import Random

import numpy as np
import pytest
import torch

from attribution.explainer import explain
from attribution.faithfulness.metrics._subject import subject_of
from attribution.faithfulness.metrics.curves import MorfLerfDifference
from attribution.faithfulness.metrics.fit import LinearDatamodelingScore
from attribution.models.local import LocalModel
from attribution.planted.families import FAMILIES, SHORTCUTS, draw
from attribution.planted.needles import needle
from attribution.planted.prompt import Planted
from attribution.planted.scores import rated, score
from attribution.recorded import recorded_problem
from attribution.result import Attribution

pytestmark = pytest.mark.slow

SHORT = [family for family in FAMILIES if family != "needle"]


@pytest.fixture(scope="module")
def untrained(demo: LocalModel) -> LocalModel:
    """The architecture of the embedded model with random weights."""
    torch.manual_seed(0)
    model = type(demo.model)(demo.model.config).eval()
    return LocalModel(model, demo.tokenizer, name="untrained")


def shuffled(result: Attribution, rng: np.random.Generator) -> Attribution:
    """The same scores, each of another unit."""
    order = rng.permutation([index for index, unit in enumerate(result.units) if not unit.special])
    scores = result.scores.copy()
    scores[:, np.sort(order)] = result.scores[:, order]
    earlier = None if result.output_scores is None else rng.permuted(result.output_scores, axis=1)
    return replace(result, scores=scores, output_scores=earlier)


def of_constant(result: Attribution) -> Attribution:
    """The same score for every unit, and every earlier token."""
    earlier = None if result.output_scores is None else np.tril(np.ones_like(result.output_scores), -1)
    return replace(result, scores=np.ones_like(result.scores), output_scores=earlier)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_that_are_all_the_same_are_at_chance(family: str, demo: LocalModel) -> None:
    """Whatever the lengths of parts are, and exactly so, since ties are in expectation."""
    planted = FAMILIES[family](Random(1), True) if family != "needle" else needle(Random(1), True, 20)
    units = "token" if family != "needle" else "sentence"
    result = explain(demo, planted.prompt, output=planted.output, units=units, method="saliency")
    numbers = score(of_constant(result), planted)
    units_rated = [unit for unit in rated(of_constant(result), planted) if unit.kind != "open"]
    share = sum(unit.kind == "cause" for unit in units_rated) / len(units_rated)
    assert numbers["auroc"] == 0.5
    assert numbers["recovery"] == pytest.approx(share)


@pytest.mark.parametrize("family", [*FAMILIES, *SHORTCUTS])
def test_random_scores_are_at_chance_in_every_family_and_score(family: str, demo: LocalModel) -> None:
    rng = np.random.default_rng(0)
    planted = needle(Random(1), True, 20) if family == "needle" else draw(family, seed=1)
    units = "token" if any(part.written for part in planted.parts) else planted.units
    result = explain(demo, planted.prompt, output=planted.output, units=units, method="saliency")
    result = replace(result, method=dict(result.method) | {"signed": True})
    decided = [unit for unit in rated(result, planted) if unit.kind != "open"]
    n, causes = len(decided), sum(unit.kind == "cause" for unit in decided)
    # A cause at place k has the others among the k - 1 before it as often as anywhere.
    before = [(1 + (k - 1) * (causes - 1) / (n - 1)) / k for k in range(1, n + 1)]
    chance = {"auroc": 0.5, "magnitude_auroc": 0.5, "average_precision": np.mean(before), "recovery": causes / n}
    chance |= {"effect_correlation": 0.0, "sign_accuracy": 0.5}
    found: dict[str, list[float]] = {name: [] for name in chance}
    for _ in range(300):
        earlier = None if result.output_scores is None else np.tril(rng.standard_normal(result.output_scores.shape), -1)
        scores = rng.standard_normal(result.scores.shape)
        drawn = replace(
            result,
            scores=scores.astype(np.float32),
            output_scores=None if earlier is None else earlier.astype(np.float32),
        )
        numbers = score(drawn, planted, rng.standard_normal(len(planted.parts)).tolist())
        for name, values in found.items():
            values.append(numbers[name])
    for name, values in found.items():
        error = np.std(values) / np.sqrt(len(values))
        assert error < 0.03, name  # a bias of an eighth would be seen
        assert abs(np.mean(values) - chance[name]) < 4 * error, (name, np.mean(values), chance[name])


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient"])
@pytest.mark.parametrize("family", [family for family in SHORT if family != "chain_of_thought"])
def test_shuffled_scores_are_at_chance(family: str, method: str, demo: LocalModel) -> None:
    rng = np.random.default_rng(0)
    found: list[float] = []
    for seed in range(2):
        planted = draw(family, seed=seed)
        result = explain(demo, planted.prompt, output=planted.output, units=planted.units, method=method)
        found += [score(shuffled(result, rng), planted)["auroc"] for _ in range(50)]
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize("seed", range(2))
def test_shuffled_scores_predict_nothing(seed: int, demo: LocalModel) -> None:
    rng, planted = np.random.default_rng(seed), draw("conjunction", seed=seed)
    result = explain(demo, planted.prompt, output=planted.output, method="shapley_sampling")
    problem = recorded_problem(demo, result)
    for metric in (LinearDatamodelingScore(), MorfLerfDifference()):
        true = metric(result, problem, outputs=planted.answer)
        by_chance = spread(metric, result, problem, planted, rng)
        assert abs(np.mean(by_chance)) < 3.5 * np.std(by_chance) / np.sqrt(len(by_chance))
        assert true > np.quantile(by_chance, 0.95)
    assert subject_of(result, problem).n_players > 10


def spread(metric, result, problem, planted, rng) -> list[float]:
    return [metric(shuffled(result, rng), problem, outputs=planted.answer) for _ in range(40)]


@pytest.mark.parametrize("method", ["leave_one_out", "input_x_gradient", "attn_lrp", "saliency"])
def test_a_random_model_gives_no_method_anything_to_find(method: str, untrained: LocalModel) -> None:
    """A cause scores as its likes do: numbers as other numbers, names as other names, which stand anywhere as well.

    Parts of different kinds are not held against each other: what a random model's scores go by is where a word
    stands, and how it is spelled. The cause of `chain_of_thought`, which is written, has no like.
    """
    everything: list[float] = []
    for family in (*(family for family in SHORT if family != "chain_of_thought"), *SHORTCUTS):
        found: list[float] = []
        for index in count():
            planted = draw(family, Random(f"chance {index}"))
            result = explain(
                untrained, planted.prompt, output=planted.output, method=method, units=planted.units, per_output=False
            )
            found += ahead_of_their_likes(result, planted)
            if len(found) >= 24:
                break
        assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(len(found)), (family, np.mean(found))
        everything += found
    error = np.std(everything) / np.sqrt(len(everything))
    assert error < 0.03  # a bias of an eighth would be seen
    assert abs(np.mean(everything) - 0.5) < 4 * error, np.mean(everything)


def ahead_of_their_likes(result: Attribution, planted: Planted) -> list[float]:
    """For every cause in the prompt that has likes, the share of these that score lower, ties counting half."""
    scores: dict[int, float] = {}
    for unit in rated(result, planted):
        if unit.part is not None:
            scores[unit.part] = scores.get(unit.part, 0.0) + unit.score
    kinds = {part: re.sub(r"\b(other|second|ordered)\b ?", "", planted.parts[part].name).strip() for part in scores}
    found: list[float] = []
    for cause in scores:
        likes = [
            part
            for part in scores
            if kinds[part] == kinds[cause]
            and planted.parts[part].kind == "irrelevant"
            and not planted.parts[part].written
        ]
        if planted.parts[cause].kind == "cause" and likes and not planted.parts[cause].written:
            found.append(float(np.mean([(np.sign(scores[cause] - scores[part]) + 1) / 2 for part in likes])))
    return found
