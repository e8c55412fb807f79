"""Metrics of faithfulness on models: what they read there, and that the model is as it was."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from attribution.errors import CapabilityError, UnknownMethodError
from attribution.explainer import explain
from attribution.faithfulness.metric import Metric, list_metrics
from attribution.faithfulness.metrics.curves import Morf, removal_curve
from attribution.faithfulness.metrics.randomisation import Randomisation, blocks_of, correlations_by_block, shuffle
from attribution.faithfulness.metrics.sensitivity import MaxSensitivity, moved_embeddings
from attribution.faithfulness.metrics.soft import SoftComprehensiveness, SoftSufficiency, probabilities
from attribution.methods.lime import LIME
from attribution.models.local import LocalModel
from attribution.ranking import correlate
from attribution.recorded import recorded_problem
from tests.games import additive_game
from tests.scored import scored
from tests.state import differences, snapshot
from tests.tiny import ARCHITECTURES, local

pytestmark = pytest.mark.slow

PROMPT = "Sam has 3 apples and Tom has 5 oranges."


def explained(model: LocalModel, method: object = "leave_one_out", prompt: str = PROMPT, **options):
    result = explain(model, prompt, output=" The answer", method=method, **options)
    return result, recorded_problem(model, result)


def logprob(model: LocalModel, result, embeddings: torch.Tensor) -> torch.Tensor:
    """The log-probability of every output token where the model reads these embeddings."""
    output = [each.id for each in result.outputs]
    logits = model.model(inputs_embeds=embeddings[None]).logits[0, len(result.prompt_ids) - 1 :]
    return logits.log_softmax(-1)[torch.arange(len(output)), output]


# Every metric on a real problem


@pytest.mark.parametrize("metric", list_metrics(), ids=lambda metric: metric.name)
@pytest.mark.parametrize("units", ["word", "token"])
def test_it_gives_a_number_and_the_same_again(metric: Metric, units: str, llama: LocalModel) -> None:
    method = "input_x_gradient" if metric.is_asked_anew else "leave_one_out"
    result, problem = explained(llama, method, "Sam has 3 apples.", units=units)
    found = metric(result, problem, outputs=[0], seed=3)
    assert math.isfinite(found) or metric.name.startswith("soft")
    assert math.isnan(found) or metric.low is None or found >= metric.low - 1e-9
    assert math.isnan(found) or metric.high is None or found <= metric.high + 1e-9
    again = metric(result, recorded_problem(llama, result), outputs=[0], seed=3)
    assert again == pytest.approx(found, abs=1e-5, nan_ok=True)


@pytest.mark.usefixtures("untyped")  # the type checker draws random numbers
@pytest.mark.parametrize("metric", list_metrics(), ids=lambda metric: metric.name)
def test_the_model_is_as_it_was(metric: Metric, llama: LocalModel) -> None:
    result, problem = explained(llama, "input_x_gradient", "Sam has 3 apples.")
    before = snapshot(llama.model, llama.tokenizer)
    metric(result, problem)
    assert not differences(before, snapshot(llama.model, llama.tokenizer))


def test_the_problem_says_what_absent_means(llama: LocalModel) -> None:
    deleted, masked = (explained(llama, ablation=ablation) for ablation in ("delete", "mask"))
    one, other = (Morf()(deleted[0], problem) for _, problem in (deleted, masked))
    assert one != pytest.approx(other, abs=1e-3)


def test_a_curve_is_of_prompts_without_units(llama: LocalModel) -> None:
    result, problem = explained(llama)
    shares, values = removal_curve(result, problem, outputs=[1])
    order = np.argsort(-result.total([1])[1:], kind="stable") + 1  # BOS stays
    lengths = np.array([unit.last_token - unit.first_token for unit in result.units])
    np.testing.assert_allclose(shares, np.append(0, lengths[order].cumsum()) / lengths[1:].sum(), atol=1e-9)
    for gone, value in enumerate(values):
        left = sorted(set(range(1, len(result.units))) - set(order[:gone].tolist()))
        ids = [result.prompt_ids[0]]
        for unit in left:
            ids += result.prompt_ids[result.units[unit].first_token : result.units[unit].last_token]
        whole = torch.tensor([[*ids, result.outputs[0].id]])
        with torch.no_grad():
            expected = llama.model(whole).logits[0, -1].log_softmax(-1)[result.outputs[1].id]
        assert value == pytest.approx(float(expected), abs=1e-4)


# Soft removal


@pytest.mark.parametrize("mapping", ["range", "rank"])
@pytest.mark.parametrize("units", ["word", "token"])
@torch.no_grad()
def test_soft_metrics_are_those_of_a_plain_loop(mapping: str, units: str, llama: LocalModel) -> None:
    result, problem = explained(llama, "input_x_gradient", units=units)
    for seed in range(3):
        ids = [*result.prompt_ids, *(each.id for each in result.outputs)][:-1]
        embeddings = llama.model.get_input_embeddings()(torch.tensor(ids))
        kept = probabilities(result.total()[1:].astype(float), mapping)
        full = logprob(llama, result, embeddings).sum()
        empty = embeddings.clone()
        empty[1 : len(result.prompt_ids)] = 0  # BOS and the output stay
        whole = full - logprob(llama, result, empty).sum()
        lost = {True: [], False: []}
        for removes in lost:
            for draw in range(3):
                chance = np.random.default_rng([seed, draw]).random(tuple(embeddings.shape), dtype=np.float32)
                thin = embeddings.clone()
                for unit, share in zip(result.units[1:], 1 - kept if removes else kept, strict=True):
                    for token in range(unit.first_token, unit.last_token):
                        thin[token] *= torch.from_numpy(chance[token] < share)
                lost[removes].append(max(0.0, float((full - logprob(llama, result, thin).sum()) / whole)))
        metrics = SoftSufficiency(draws=3, mapping=mapping), SoftComprehensiveness(draws=3, mapping=mapping)
        found = [metric(result, problem, seed=seed) for metric in metrics]
        assert whole > 0.5
        assert found == pytest.approx([1 - np.mean(lost[False]), np.mean(lost[True])], abs=1e-4)


def test_soft_metrics_need_a_prompt_that_does_something(llama: LocalModel) -> None:
    result, problem = explained(llama, prompt="Tom has 5 oranges.")  # likelier without any of it
    assert math.isnan(SoftSufficiency()(result, problem))
    assert math.isnan(SoftComprehensiveness()(result, problem))


# Sensitivity


@pytest.mark.parametrize("method", ["input_x_gradient", "leave_one_out", LIME(samples=40)], ids=str)
def test_scores_move_with_the_embeddings(method: object, llama: LocalModel) -> None:
    result, problem = explained(llama, method)
    small, some, large = (MaxSensitivity(radius=r, draws=2)(result, problem) for r in (1e-7, 1e-2, 0.5))
    assert 0 <= small < 1e-3
    assert small < some < large


def test_sensitivity_is_the_largest_relative_change(llama: LocalModel) -> None:
    result, problem = explained(llama, "input_x_gradient")
    ids = sorted(set(result.prompt_ids[1:]))
    own = result.total()[1:]
    changes = []
    for draw in range(3):
        with moved_embeddings(llama, ids, 0.1, seed=[7, draw]):
            moved = explain(llama, PROMPT, output=" The answer", method="input_x_gradient").total()[1:]
        changes.append(np.linalg.norm(moved - own) / np.linalg.norm(own))
    assert len(set(changes)) == 3
    assert MaxSensitivity(radius=0.1, draws=3)(result, problem, seed=7) == pytest.approx(max(changes), rel=1e-4)


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_embeddings_move_by_the_radius_and_only_those(family: str) -> None:
    model = local(family)
    known, other = [5, 9, 70], [6, 2]
    before = model.embed(known + other)
    with moved_embeddings(model, known, 0.25, seed=[1, 0]):
        after = model.embed(known + other)
        with ThreadPoolExecutor() as pool:  # who uses the model in another thread does not notice
            assert torch.equal(pool.submit(model.embed, known + other).result(), before)
        torch.testing.assert_close(model.embed(known[::-1]), after[:3].flip(0))
    lengths = (after - before).norm(dim=1) / before.norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([0.25, 0.25, 0.25, 0.0, 0.0]))
    assert torch.equal(model.embed(known + other), before)


def test_no_hook_stays_behind_after_an_error(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    result, problem = explained(llama)

    def broken(*_: object) -> np.ndarray:
        if llama.embedding_layer._forward_hooks:
            raise ZeroDivisionError
        return np.ones(len(result.units) - 1)

    monkeypatch.setattr("attribution.faithfulness.metrics.sensitivity.explain_again", broken)
    with pytest.raises(ZeroDivisionError):
        MaxSensitivity()(result, problem)
    assert not llama.embedding_layer._forward_hooks


# Randomisation


def test_shuffled_weights_destroy_a_ranking_block_by_block(llama: LocalModel) -> None:
    result, problem = explained(llama, "input_x_gradient")
    found = correlations_by_block(result, problem, seed=1)
    assert len(found) == 2
    assert all(0 <= each < 1 for each in found)
    assert Randomisation()(result, problem, seed=1) == pytest.approx(np.mean(found))
    assert correlations_by_block(result, problem, seed=2) != found
    # By hand: the last block's weights in a random order, and then the first one's too.
    own = result.total()[1:].astype(float)
    weights = {name: value.clone() for name, value in llama.model.state_dict().items()}
    by_hand = []
    try:
        for step, block in enumerate(reversed(llama.model.model.layers)):
            shuffle(block, seed=[1, step])
            moved = explain(llama, PROMPT, output=" The answer", method="input_x_gradient").total()[1:]
            by_hand.append(abs(correlate(moved.astype(float), own)))
    finally:
        llama.model.load_state_dict(weights)
    assert found == pytest.approx(by_hand, abs=0.05)
    assert correlate(own, own) == pytest.approx(1)


def test_what_looks_at_no_weights_survives(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    result, problem = explained(llama, "input_x_gradient")
    monkeypatch.setattr("attribution.faithfulness.metrics.randomisation.shuffle", lambda block, seed: None)
    assert Randomisation()(result, problem) == pytest.approx(1)


def test_shuffling_keeps_the_numbers() -> None:
    block = torch.nn.Linear(7, 5)
    before = [p.detach().clone() for p in block.parameters()]
    shuffle(block, seed=[0, 0])
    for was, now in zip(before, block.parameters(), strict=True):
        assert not torch.equal(was, now)
        assert torch.equal(was.flatten().sort().values, now.detach().flatten().sort().values)
        assert now.requires_grad


def test_constant_scores_have_no_ranking(llama: LocalModel) -> None:
    result, problem = explained(llama, "leave_one_out", units="paragraph")  # a single unit
    assert np.isnan(correlations_by_block(result, problem)).all()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_has_blocks(family: str) -> None:
    assert len(blocks_of(local(family))) == 2


@pytest.mark.parametrize("metric", [MaxSensitivity(), Randomisation()], ids=lambda metric: metric.name)
def test_explaining_again_needs_a_model_and_a_method(metric: Metric, llama: LocalModel) -> None:
    with pytest.raises(CapabilityError, match=f"{metric.name} explains again"):
        metric(scored([1.0, 2.0]), additive_game([1.0, 2.0]))
    result, problem = explained(llama)
    object.__setattr__(result, "method", {**result.method, "name": "by_hand"})
    with pytest.raises(UnknownMethodError, match="by_hand"):
        metric(result, problem)
