"""evaluate: many methods on many prompts, beside baselines, with intervals, a journal, and views of the table."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import attribution
from attribution.absence import Replace
from attribution.errors import InputError, MissingExtraError, ResultFileError, UnknownMethodError
from attribution.explainer import explain
from attribution.faithfulness import contenders
from attribution.faithfulness.bootstrap import paired_difference
from attribution.faithfulness.contenders import Scorer
from attribution.faithfulness.evaluation import QUICK, evaluate
from attribution.faithfulness.metric import build_metric, list_metrics
from attribution.faithfulness.samples import Sample, check_prompts
from attribution.faithfulness.table import Evaluation, Row, Spending
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.models.local import LocalModel
from attribution.planted.confirmation import confirm
from attribution.planted.families import draw
from attribution.planted.scores import SCORES, score
from attribution.recorded import recorded_problem
from attribution.result import Attribution
from attribution.target import Semantic
from tests.browser import violations
from tests.hostile import CORPUS, LONG, hidden
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow

PROMPTS = ["one two three four", "six seven nine"]
QUICKLY = {"max_new_tokens": 2}
BASELINES = ("random", "position", "leave_one_out")


def by_cell(found: Evaluation) -> dict[tuple[int, str, str, str], float | None]:
    return {(row.prompt, row.method, row.metric, row.absent): row.value for row in found.rows}


def mine(_model, result: Attribution) -> np.ndarray:
    return np.arange(result.scores.size, dtype=float).reshape(result.scores.shape)


@pytest.fixture(scope="module")
def found(llama) -> Evaluation:
    return evaluate(llama, PROMPTS, ["saliency", Scorer("mine", mine)], ["morf", "infidelity"], **QUICKLY)


# What is measured


def test_the_public_names() -> None:
    assert attribution.evaluate is evaluate
    assert attribution.Sample is Sample
    assert attribution.Scorer is Scorer
    known = {metric.name for metric in attribution.list_metrics()}
    assert set(QUICK) <= known
    assert not set(QUICK) & {"max_sensitivity", "randomisation", "normalised_aopc", "shapley_correlation"}


def test_every_method_by_every_metric_under_every_meaning_of_absent(found: Evaluation) -> None:
    methods = (*BASELINES, "saliency", "mine")
    expected = {
        (p, m, k, a) for p in range(2) for m in methods for k in ("morf", "infidelity") for a in ("delete", "mask")
    }
    assert set(by_cell(found)) == expected
    assert [method["label"] for method in found.settings["methods"]] == list(methods)
    assert all(value is not None for value in by_cell(found).values())
    # What a meaning of absent changes is there to be seen.
    assert by_cell(found)[0, "saliency", "morf", "delete"] != by_cell(found)[0, "saliency", "morf", "mask"]


def test_a_number_is_that_of_the_metric_asked_by_hand(llama, found: Evaluation) -> None:
    result = explain(llama, PROMPTS[0], method="saliency", **QUICKLY)
    for absent in ("delete", "mask"):
        problem = recorded_problem(llama, dataclasses.replace(result, question={**result.question, "ablation": absent}))
        expected = build_metric("morf")(result, problem)
        assert by_cell(found)[0, "saliency", "morf", absent] == pytest.approx(expected, abs=1e-4)


def test_the_exact_baseline_is_leave_one_out_by_the_first_meaning(llama) -> None:
    found = evaluate(llama, PROMPTS[:1], ["leave_one_out"], ["leave_one_out_correlation"], **QUICKLY)
    assert by_cell(found)[0, "leave_one_out", "leave_one_out_correlation", "delete"] == pytest.approx(1)
    assert [method["label"] for method in found.settings["methods"]] == list(BASELINES)  # not twice


def test_position_scores_later_units_higher_and_random_is_the_mean_over_orders(llama) -> None:
    def later(_model, result: Attribution) -> np.ndarray:
        return np.tile(np.arange(len(result.units), dtype=float), (len(result.scores), 1))

    def earlier(model, result: Attribution) -> np.ndarray:
        return -later(model, result)

    scorers = [Scorer("later", later), Scorer("earlier", earlier)]
    found = by_cell(evaluate(llama, PROMPTS, scorers, ["morf", "morf_lerf_difference"], **QUICKLY))
    for prompt in range(2):
        for absent in ("delete", "mask"):
            assert found[prompt, "position", "morf", absent] == pytest.approx(found[prompt, "later", "morf", absent])
            assert found[prompt, "position", "morf", absent] != found[prompt, "earlier", "morf", absent]
            # An order and its reverse have opposite differences, so that in expectation there is none.
            assert found[prompt, "random", "morf_lerf_difference", absent] == pytest.approx(0, abs=1e-5)


def test_random_orders_are_seeded_and_of_each_prompt(llama) -> None:
    def random(seed: int) -> list[float | None]:
        found = evaluate(llama, PROMPTS[:1], [], ["infidelity"], seed=seed, **QUICKLY)
        return [row.value for row in found.rows if row.method == "random"]

    assert random(0) == random(0)
    assert random(0) != random(1)


def test_at_least_two_meanings_of_absent(llama) -> None:
    with pytest.raises(InputError, match='two meanings of "absent" for morf, got delete alone'):
        evaluate(llama, PROMPTS, ["saliency"], ["morf"], ablations=["delete"])
    with pytest.raises(InputError, match="two meanings"):
        evaluate(llama, PROMPTS, ["saliency"], ["morf"], ablations=["delete", "delete"])
    with pytest.raises(InputError, match="Type ablations="):
        evaluate(llama, PROMPTS, ["saliency"], ["morf"], ablations="delete")
    # Where nothing is removed one will do.
    found = evaluate(llama, PROMPTS[:1], [], ["soft_sufficiency"], ablations=["delete"], **QUICKLY)
    assert {row.absent for row in found.rows} == {""}
    other = evaluate(llama, PROMPTS[:1], [], ["morf"], ablations=["mask", Replace("five")], **QUICKLY)
    assert {row.absent for row in other.rows} == {"mask", "Replace('five')"}


def test_metrics_that_explain_again_are_of_methods_only(llama) -> None:
    found = evaluate(llama, PROMPTS[:1], ["saliency", Scorer("mine", mine)], ["max_sensitivity"], **QUICKLY)
    values = {row.method: row for row in found.rows}
    assert values["saliency"].value is not None
    assert values["saliency"].absent == ""
    for name in ("random", "position", "mine"):
        assert values[name].value is None
        assert "takes a method of ours" in values[name].reason


def test_methods_and_metrics_with_options_are_told_apart(llama) -> None:
    methods = [IntegratedGradients(steps=2), IntegratedGradients(steps=4, max_steps=4)]
    morf = build_metric("morf")
    metrics = [morf, dataclasses.replace(morf, by="unit")]
    found = evaluate(llama, PROMPTS[:1], methods, metrics, **QUICKLY)
    labels = [method["label"] for method in found.settings["methods"]][3:]
    assert labels == ["integrated_gradients(steps=2)", "integrated_gradients(steps=4, max_steps=4)"]
    assert {row.metric for row in found.rows} == {"morf", "morf(by='unit')"}


def test_costs_are_of_explaining(found: Evaluation) -> None:
    costs = {(cost.prompt, cost.method): cost for cost in found.costs}
    assert len(costs) == len(found.costs) == 10
    assert costs[0, "leave_one_out"].forwards == 5  # four words, and none of them
    assert (costs[0, "saliency"].forwards, costs[0, "saliency"].backwards) == (1, 2)
    assert (costs[0, "random"].forwards, costs[0, "mine"].forwards) == (0, None)


@pytest.mark.slow
def test_every_method_and_the_quick_metrics_by_default(llama) -> None:
    found = evaluate(llama, ["one two three"], **QUICKLY)
    measured = {method["label"] for method in found.settings["methods"]} - set(BASELINES)
    assert {"saliency", "exact_shapley", "lime", "attention_rollout"} <= measured
    assert {row.metric for row in found.rows} == set(QUICK)
    assert any(row.value is not None for row in found.rows if row.method == "exact_shapley")


@pytest.mark.slow
def test_a_target_leaves_out_the_methods_that_cannot_explain_it(llama) -> None:
    ablations = ("delete", Replace("five"))
    target = Semantic("exact")
    found = evaluate(llama, ["one two"], None, ["morf"], target=target, ablations=ablations, max_new_tokens=2)
    labels = {method["label"] for method in found.settings["methods"]}
    assert "saliency" not in labels
    assert "exact_shapley" in labels
    with pytest.raises(InputError, match="leave no gaps"):
        evaluate(llama, ["one two"], None, ["morf"], target=Semantic("exact"))


# Prompts


def test_samples_chats_and_their_own_units(demo) -> None:
    text = "Sam has 3 apples. How many apples does Sam have?"
    samples = [
        Sample(text, output="\n\nThe answer is 3.", outputs="3", units="sentence"),
        Sample(text),
        [{"role": "user", "content": text}],
    ]
    widths: list[int] = []

    def count(_model, result: Attribution) -> np.ndarray:
        widths.append(sum(not unit.special for unit in result.units))
        return mine(_model, result)

    found = evaluate(demo, samples, [Scorer("count", count)], ["comprehensiveness"])
    assert widths[0] == 2
    assert widths[1] > 2
    assert {row.prompt for row in found.rows if row.value is not None} >= {0, 1}


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ("one", "a list of prompts, got str"),
        ([], "at least one prompt"),
        ([{"role": "user", "content": "one"}], "the messages of one chat"),
        ([3], "prompt 0 as a text"),
        (["one", [{"role": 3}]], "Prompt 1: "),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_prompts_that_are_none(llama, prompts, told: str) -> None:
    with pytest.raises(InputError, match=told):
        evaluate(llama, prompts, ["saliency"])


@pytest.mark.usefixtures("untyped")
def test_arguments_that_are_wrong_are_said_first(llama) -> None:
    for arguments, told in [
        ({"methods": "saliency"}, "a list of methods"),
        ({"methods": [3]}, "a method's name"),
        ({"metrics": "morf"}, "a list of metrics"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": ["mor"]}, "a metric out of"),
        ({"units": "wrd"}, "word"),
        ({"target": "probs"}, "prob"),
        ({"ablations": ["delete", "drop"]}, "an ablation out of"),
        ({"resamples": 0}, "resamples"),
        ({"seed": -1}, "seed"),
        ({"methods": [Scorer("random", mine)]}, "a name of its own"),
        ({"methods": [Scorer("a", mine), Scorer("a", mine)]}, "'a' twice"),
        ({"methods": [Scorer("a", 3)]}, "a function of a model and a result"),
    ]:
        with pytest.raises(InputError, match=told):
            evaluate(llama, PROMPTS, **{"methods": ["saliency"], **arguments})
    with pytest.raises(UnknownMethodError):
        evaluate(llama, PROMPTS, ["salience"])


def test_a_named_method_whose_package_is_missing(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attribution.method.find_spec", lambda _name: None)
    monkeypatch.setattr(contenders, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match="lime needs"):
        evaluate(llama, PROMPTS, ["lime"])
    able = [one.label for one in contenders.suitable(lambda _method: True)]
    assert "saliency" in able
    assert "lime" not in able


def test_a_digest_is_of_all_that_is_asked() -> None:
    samples = [
        "one",
        Sample("one", output="x"),
        Sample("one", outputs="x"),
        Sample("one", outputs=(0, 1)),
        Sample("one", outputs=[0, 1]),
        Sample("one", outputs=re.compile("x")),
        Sample("one", outputs=re.compile("x", re.IGNORECASE)),
        Sample("one", units="token"),
        Sample("one", units={"a": (0, 1)}),
        [{"role": "user", "content": "one"}],
        draw("single"),
        draw("single", seed=1),
    ]
    digests = [asked.digest for asked in check_prompts(samples)]
    assert len(set(digests)) == len(digests)
    assert digests == [asked.digest for asked in check_prompts(samples)]


# Scorers, and what fails


def test_a_scorer_sees_all_but_the_scores(llama) -> None:
    seen: list[Attribution] = []

    def saliency(model, result: Attribution) -> np.ndarray:
        seen.append(result)
        ids = [output.id for output in result.outputs]
        return explain(model, result.prompt, output=ids, method="saliency").scores

    found = by_cell(evaluate(llama, PROMPTS, ["saliency", Scorer("own", saliency)], ["morf", "infidelity"], **QUICKLY))
    assert {cell: value for cell, value in found.items() if cell[1] == "own"} == {
        (cell[0], "own", *cell[2:]): value for cell, value in found.items() if cell[1] == "saliency"
    }
    assert not seen[0].scores.any()
    assert seen[0].prompt == PROMPTS[0]
    assert len(seen[0].prompt_ids) == seen[0].units[-1].last_token
    assert seen[0].method["name"] == "own"


def test_a_scorer_may_say_what_earlier_output_tokens_did(demo) -> None:
    """With its columns behind the units' it finds a cause that was written; without them it cannot."""
    planted = draw("chain_of_thought", seed=1)

    def saliency(model, result: Attribution) -> np.ndarray:
        assert result.output_scores is not None
        ids = [output.id for output in result.outputs]
        own = explain(model, result.prompt, output=ids, units="token", method="saliency")
        assert own.output_scores is not None
        return np.concatenate([own.scores, own.output_scores], axis=1)

    def of_the_prompt(model, result: Attribution) -> np.ndarray:
        return saliency(model, result)[:, : len(result.units)]

    scorers = [Scorer("whole", saliency), Scorer("prompt", of_the_prompt)]
    found = by_cell(evaluate(demo, [planted], ["saliency", *scorers], []))
    auroc = {method: found[0, method, "auroc", ""] for method in ("saliency", "whole", "prompt")}
    assert auroc["whole"] == auroc["saliency"]
    assert auroc["prompt"] < auroc["whole"]


def test_of_planted_prompts_no_metric_need_be_named(demo, tmp_path) -> None:
    planted = [draw("single", seed=seed) for seed in range(2)]
    found = evaluate(demo, planted, ["saliency"], [], journal=tmp_path / "run.jsonl")
    assert {row.metric for row in found.rows} == set(SCORES)
    assert evaluate(demo, planted, ["saliency"], [], journal=tmp_path / "run.jsonl").rows == found.rows
    assert "auroc" in found.to_markdown()
    assert "auroc" in str(found)
    assert "auroc" in found.html_view().page()
    with pytest.raises(InputError, match="at least one metric"):
        evaluate(demo, [*planted, "Sam has 3 apples."], ["saliency"], [])


@pytest.mark.parametrize(
    ("given", "told"), [([1.0], "shape"), ("no", "str"), (None, "float|shape|NoneType"), (float("nan"), "shape")]
)
def test_a_scorer_that_gives_no_scores_ends_the_run(llama, given, told: str) -> None:
    with pytest.raises(InputError, match="Expected finite scores of shape") as raised:
        evaluate(llama, PROMPTS, [Scorer("bad", lambda _model, _result: given)], ["morf"], **QUICKLY)
    assert re.search(told, str(raised.value))


def test_a_method_that_fails_leaves_the_reason(llama) -> None:
    long = "one two three four five six seven eight nine ten one two three four"
    found = evaluate(llama, ["one two three", long], ["exact_shapley"], ["morf"], **QUICKLY)
    rows = {(row.prompt, row.absent): row for row in found.rows if row.method == "exact_shapley"}
    assert rows[0, "delete"].value is not None
    assert rows[1, "delete"].value is None
    assert rows[1, "mask"].reason.startswith("exact_shapley takes at most 12 units, got 14")
    standing = next(s for s in found.summary() if (s.method, s.absent) == ("exact_shapley", "delete"))
    assert (standing.n, standing.of) == (1, 2)
    assert standing.mean == rows[0, "delete"].value
    assert standing.to_random is not None
    assert standing.to_random.n == 1
    assert standing.to_random.low is None
    assert [cost.prompt for cost in found.costs if cost.method == "exact_shapley"] == [0]
    assert "(1/2)" in str(found)
    assert "exact_shapley takes at most 12 units" in found.to_markdown()


def test_a_prompt_that_cannot_be_asked_leaves_the_reason(llama) -> None:
    samples = [Sample("one two", outputs="not there"), Sample("one two three"), Sample("one " * 200)]
    found = evaluate(llama, samples, ["saliency"], ["morf"], **QUICKLY)
    missing = {row.prompt: row.reason for row in found.rows if row.value is None}
    assert set(missing) == {0, 2}
    assert "a part of the output" in missing[0]
    with pytest.raises(InputError, match=r"can be explained, got none\. The first: Expected a part"):
        evaluate(llama, samples[:1], ["saliency"], ["morf"], **QUICKLY)
    with pytest.raises(InputError, match="prompts that can be explained, got none"):
        evaluate(llama, [Sample("  ")], None, ["morf"], **QUICKLY)


# Planted prompts


def test_planted_prompts_are_held_against_their_causes(demo) -> None:
    planted = draw("single")
    found = evaluate(demo, [planted, "Tom has 5 pears."], ["saliency"], ["comprehensiveness"])
    assert {row.family for row in found.rows if row.prompt == 0} == {"single"}
    rows = {(row.method, row.metric): row for row in found.rows if row.prompt == 0 and row.absent == ""}
    result = explain(demo, planted.prompt, output=planted.output, method="saliency", units=planted.units)
    expected = score(result, planted, confirm(demo, planted).effects)
    for name, value in expected.items():
        own = rows["saliency", name].value
        assert own == (pytest.approx(value, abs=1e-5) if np.isfinite(value) else None)
    assert rows["random", "auroc"].value == pytest.approx(0.5, abs=0.35)
    assert not [row for row in found.rows if row.prompt == 1 and row.metric == "auroc"]
    better = {standing.metric: standing.better for standing in found.summary()}
    assert (better["auroc"], better["template_share"], better["irrelevant_share"]) == ("higher", "lower", "lower")
    standings = found.summary("single")
    assert {standing.of for standing in standings} == {1}
    with pytest.raises(InputError, match="Expected a family out of single, got 'x'"):
        found.summary("x")


# Intervals


def test_the_interval_is_that_of_an_obvious_bootstrap() -> None:
    rng = np.random.default_rng(1)
    own = dict(enumerate(rng.normal(size=9).tolist()))
    other = dict(enumerate(rng.normal(size=9).tolist()))
    found = paired_difference(own, other, resamples=500, seed=3)
    assert found is not None
    differences = [own[i] - other[i] for i in range(9)]
    drawn = np.random.default_rng(3)
    means = []
    for _ in range(500):
        means.append(sum(differences[i] for i in drawn.integers(9, size=9)) / 9)
    means.sort()

    def quantile(share: float) -> float:
        place = share * (len(means) - 1)
        below = int(place)
        return means[below] + (place - below) * (means[below + 1] - means[below])

    assert found.mean == pytest.approx(sum(differences) / 9)
    assert found.low == pytest.approx(quantile(0.025))
    assert found.high == pytest.approx(quantile(0.975))


def test_intervals_cover_what_is_true_and_pairing_makes_them_narrow() -> None:
    rng = np.random.default_rng(0)
    covered, widths, unpaired = 0, [], []
    for trial in range(300):
        hardness = rng.normal(scale=5.0, size=40)
        own = dict(enumerate((hardness + 0.5 + rng.normal(size=40)).tolist()))
        other = dict(enumerate((hardness + rng.normal(size=40)).tolist()))
        found = paired_difference(own, other, resamples=400, seed=trial)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
        widths.append(found.high - found.low)
        unpaired.append(2 * 1.96 * np.sqrt(2 * (25 + 1) / 40))
    assert 0.89 <= covered / 300 <= 0.99
    # The standard error of a mean of 40 differences with variance 2.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(2 / 40), rel=0.1)
    assert np.mean(widths) < np.mean(unpaired) / 3


def test_differences_are_of_the_same_prompts() -> None:
    found = paired_difference({0: 1.0, 2: 5.0, 3: 7.0}, {0: 0.0, 1: 100.0, 3: 5.0}, resamples=50, seed=0)
    assert found is not None
    assert (found.n, found.mean) == (2, 1.5)
    assert found.side == 0  # both are above 0, but two prompts tell nothing
    six = paired_difference(dict.fromkeys(range(6), 1.0), dict.fromkeys(range(6), 0.0), resamples=50, seed=0)
    assert six is not None
    assert (six.low, six.high, six.side) == (1.0, 1.0, 1)
    assert paired_difference({0: 1.0}, {1: 1.0}, resamples=50, seed=0) is None
    one = paired_difference({0: 1.0}, {0: 0.5}, resamples=50, seed=0)
    assert one is not None
    assert (one.mean, one.low, one.high, one.n) == (0.5, None, None, 1)


def test_many_prompts_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = dict(enumerate(range(50))), dict.fromkeys(range(50), 0)
    monkeypatch.setattr("attribution.faithfulness.bootstrap._AT_ONCE", 100)
    found = paired_difference(
        {i: float(v) for i, v in own.items()}, {i: float(v) for i, v in other.items()}, resamples=401, seed=0
    )
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < 24.5 < found.high


# The journal


def same(one: Evaluation, other: Evaluation) -> None:
    """Both have the same numbers to the last digit, whatever time it took."""
    assert one.rows == other.rows
    assert one.summary() == other.summary()
    assert [dataclasses.replace(cost, seconds=0.0) for cost in one.costs] == [
        dataclasses.replace(cost, seconds=0.0) for cost in other.costs
    ]
    assert one.settings == other.settings


class Killer:
    """Scores, until a number of calls is reached."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, model, result: Attribution) -> np.ndarray:
        if not self.left:
            raise RuntimeError("killed")
        self.left -= 1
        return mine(model, result)


def run(model, journal: Path | None, calls: int = 99, prompts=PROMPTS, **options) -> Evaluation:
    methods = ["saliency", Scorer("own", Killer(calls)), "input_x_gradient"]
    return evaluate(model, prompts, methods, ["morf", "infidelity"], journal=journal, **QUICKLY, **options)


@pytest.mark.parametrize("calls", [0, 1])
def test_a_run_that_was_killed_goes_on(llama, tmp_path: Path, calls: int) -> None:
    run(llama, None)  # what is tried once on a model is known
    journal, whole = tmp_path / "killed.jsonl", run(llama, None)
    with pytest.raises(RuntimeError, match="killed"):
        run(llama, journal, calls)
    lines = journal.read_text().splitlines()
    assert len(lines) == 1 + 4 + 6 * calls  # the settings, then what was measured before
    found = run(llama, journal, 2 - calls)  # what is in the journal is not asked again
    same(found, whole)
    assert journal.read_text().splitlines()[: len(lines)] == lines
    again = run(llama, journal, 0)
    assert again == found  # to the last second, which is in the journal


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_torn_line_is_measured_again(llama, tmp_path: Path, cut: int) -> None:
    journal = tmp_path / "torn.jsonl"
    whole = run(llama, journal)
    content = journal.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    journal.write_bytes(content[: max(len(content) - cut, last + 1)])
    same(run(llama, journal), whole)
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(records) == 1 + 2 * 6
    first = tmp_path / "first.jsonl"
    first.write_bytes(content[:50])  # the settings themselves were torn
    same(run(llama, first), whole)


def test_a_journal_takes_more_prompts_and_methods(llama, tmp_path: Path) -> None:
    journal = tmp_path / "more.jsonl"
    evaluate(llama, PROMPTS[1:], ["saliency"], ["morf", "infidelity"], journal=journal, **QUICKLY)
    same(run(llama, journal), run(llama, None))


def test_a_journal_of_other_settings_is_refused(llama, tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    run(llama, journal)
    content = journal.read_bytes()
    with pytest.raises(InputError, match=r"got another seed \(seed 0, now 1\)"):
        run(llama, journal, seed=1)
    with pytest.raises(InputError, match=r"ablations 'delete', 'mask', now 'mask', 'delete'"):
        run(llama, journal, ablations=("mask", "delete"))
    with pytest.raises(InputError, match="another metrics"):
        evaluate(llama, PROMPTS, [], ["morf"], journal=journal, **QUICKLY)
    other = attribution.load((tiny_model("gpt2"), tiny_tokenizer(bos=False)))
    with pytest.raises(InputError, match="another model"):
        run(other, journal)
    weights = copy.deepcopy(llama.model)
    with torch.no_grad():
        weights.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    trained_on = LocalModel(weights, llama.tokenizer, name=llama.name)
    with pytest.raises(InputError, match="got another weights"):
        run(trained_on, journal)
    assert journal.read_bytes() == content


def test_what_is_no_journal_is_left_alone(llama, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    for content in (b"important", b"important\n", b'{"prompt": "one"}\n', b'{"prompt": "one"}', b"[]\n\n"):
        file.write_bytes(content)
        with pytest.raises(ResultFileError, match="Expected a journal that evaluate wrote"):
            run(llama, file)
        assert file.read_bytes() == content
    run(llama, tmp_path / "j.jsonl")
    lines = (tmp_path / "j.jsonl").read_bytes().split(b"\n")
    for damage in (b"{}", b"x", lines[2][:-9], b'{"prompt": 1, "method": 2, "values": [[1, 2]], "cost": null}'):
        file.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
        with pytest.raises(ResultFileError, match="Line 2 of the journal"):
            run(llama, file)
    file.write_bytes(lines[0].replace(b'"schema": 1', b'"schema": 2') + b"\n")
    with pytest.raises(ResultFileError, match="another version"):
        run(llama, file)
    with pytest.raises(InputError, match="a folder that exists"):
        run(llama, tmp_path / "missing" / "j.jsonl")


# Surfaces


def test_the_table_as_a_frame_json_and_csv(found: Evaluation, tmp_path: Path) -> None:
    frame = found.to_frame()
    assert list(frame.columns) == ["prompt", "family", "method", "metric", "absent", "value", "reason"]
    assert len(frame) == len(found.rows)
    found.to_json(tmp_path / "e.json")
    content = json.loads((tmp_path / "e.json").read_text())
    assert content == json.loads(json.dumps(found.to_dict()))
    assert {"method", "metric", "absent", "n", "of", "mean", "better", "to_random", "to_leave_one_out"} == set(
        content["summary"][0]
    )
    found.to_csv(tmp_path / "e.csv")
    with (tmp_path / "e.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [row.value for row in found.rows]


def board(values: dict[str, list[float | None]], better: str = "higher", n_prompts: int = 8) -> Evaluation:
    """An evaluation by one metric whose numbers are given."""
    rows = [
        Row(prompt, "", method, "metric", "delete", value, "" if value is not None else "why not")
        for method, numbers in values.items()
        for prompt, value in enumerate(numbers)
    ]
    settings = {
        "methods": [{"label": name, "name": name, "options": {}, "baseline": False} for name in values],
        "metrics": [{"label": "metric", "name": "metric", "options": {}, "better": better, "summary": ""}],
        **{"ablations": ["delete"], "units": "word", "target": "logprob", "max_new_tokens": 20, "seed": 0},
        **{"resamples": 100, "n_prompts": n_prompts},
    }
    return Evaluation(tuple(rows), (), settings, {"name": "m", "architecture": "", "dtype": "", "revision": None})


def test_the_best_is_bold_and_marks_say_what_differs_from_random() -> None:
    values = {
        "random": [0.5] * 8,
        "good": [0.9] * 8,
        "bad": [0.1] * 8,
        "lucky": [5.0, *[None] * 7],  # of one prompt only: no rival
        "failed": [None] * 8,
    }
    text = board(values).to_markdown()
    assert "| method | metric ↑ |" in text
    assert "| good | **0.900**\\* |" in text
    assert "| bad | 0.100† |" in text
    assert "| lucky | 5.000 (1/8) |" in text
    assert "| failed | – (0/8) |" in text
    assert "| random | 0.500 |" in text
    assert "| failed | 8 | why not |" in text
    turned = board(values, "lower").to_markdown()
    assert "| bad | **0.100**\\* |" in turned
    assert "| good | 0.900† |" in turned
    shown = str(board(values))
    assert re.search(r"^good +0.900\*", shown, re.MULTILINE)
    assert "8 prompts" in shown


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_shows_every_number_at_any_width(found: Evaluation, width: int) -> None:
    from attribution.views.terminal.console import plain

    shown = plain(found.text_view(), width)
    for standing in found.summary():
        assert standing.mean is not None
        assert f"{standing.mean:.3f}" in shown or f"{standing.mean:.2e}" in shown
    assert all(len(line) <= width for line in shown.split("\n"))


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile(text: str) -> Evaluation:
    """An evaluation with this text wherever a text can be."""
    rows = [
        Row(prompt, text, method, text, text, value, "" if value is not None else text)
        for method, value in (("random", 0.5), ("leave_one_out", 0.25), (text, 1.0), ("other", None))
        for prompt in range(7)
    ]
    settings = {
        "methods": [
            {"label": name, "name": name, "options": {text: text}, "baseline": False}
            for name in ("random", "leave_one_out", text, "other")
        ],
        "metrics": [{"label": text, "name": text, "options": {}, "better": "higher", "summary": text}],
        **{"ablations": [text], "units": text, "target": text, "max_new_tokens": 20, "seed": 0},
        **{"resamples": 100, "n_prompts": 7},
    }
    costs = (Spending(0, text, 1, 2, 3, 0.5),)
    return Evaluation(tuple(rows), costs, settings, dict.fromkeys(("name", "architecture", "dtype", "revision"), text))


TAME_PAGE = Page(hostile("word").html_view().page())
SHORT = {name: text for name, text in CORPUS.items() if text != LONG}


@pytest.mark.parametrize("text", SHORT.values(), ids=SHORT.keys())
def test_hostile_texts_stay_texts(text: str, tmp_path: Path) -> None:
    made = hostile(text)
    page = Page(made.html_view().page())
    assert page.tags == TAME_PAGE.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in TAME_PAGE.attributes]
    assert not hidden("".join(page.text).replace("\n", ""))
    shown = str(made)
    assert not hidden(shown.replace("\n", ""))
    markdown = made.to_markdown()
    assert not hidden(markdown.replace("\n", ""))
    tame = hostile("word").to_markdown()
    assert [line.count(" | ") for line in cells(markdown)] == [line.count(" | ") for line in cells(tame)]
    assert "<" not in markdown
    assert not re.search(r"(?<!\\)[`\[]", markdown)
    for write in (made.to_html, made.to_json, made.to_csv):
        write(tmp_path / "file")
    made.to_frame()


def cells(markdown: str) -> list[str]:
    """The lines of tables, without what is escaped."""
    return [re.sub(r"\\[^\w\s]", "", line) for line in markdown.split("\n") if line.startswith("|")]


def test_the_page_loads_nothing_and_runs_nothing(found: Evaluation) -> None:
    markup = found.html_view().page()
    page = Page(markup)
    assert not {"script", "img", "link", "iframe", "noscript"} & set(page.tags)
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert page.tags.count("caption") == page.tags.count("table") > 3
    scopes = [value for name, value in page.attributes if name == "scope"]
    assert page.tags.count("th") == len(scopes)
    assert set(scopes) == {"col", "row"}
    notebook = found.html_view().notebook()
    assert "srcdoc=" in notebook
    assert "<table>" in notebook


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(show, new_page, tmp_path: Path, scheme: str) -> None:
    made = hostile("</script><b>x</b>")
    made.to_html(tmp_path / "page.html")
    page = new_page(color_scheme=scheme)
    show(tmp_path / "page.html", page)
    page.click("summary >> nth=0")
    assert page.locator("b").count() == 0
    assert page.locator("table >> nth=0 >> tbody th").all_inner_texts()[2] == "</script><b>x</b>"
    assert not violations(page)


def test_metrics_are_listed() -> None:
    assert [metric.name for metric in attribution.list_metrics()] == [metric.name for metric in list_metrics()]
