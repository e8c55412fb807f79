"""explain on tiny models: outputs, targets, records and errors."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import attribution
from attribution.absence import Replace
from attribution.errors import BudgetError, InputError
from attribution.explainer import explain
from attribution.methods.banzhaf import Banzhaf
from attribution.methods.kernel_shap import KernelSHAP
from attribution.methods.saliency import Saliency
from attribution.models.local import LocalModel
from attribution.prompts.chat import Chat
from attribution.result import Attribution
from attribution.target import Contrast, Semantic
from tests.templates import FAMILIES
from tests.tiny import tiny_model
from tests.tokenizers_ import chat_tokenizer

PROMPT = "Sam has 3 apples."


def test_the_model_writes_where_no_output_is_given(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, max_new_tokens=5, method="leave_one_out")
    ids = llama.codec.encode(PROMPT).ids
    assert tuple(output.id for output in result.outputs) == llama.generate(ids, 5)
    assert result.output == llama.codec.decode([output.id for output in result.outputs])
    again = explain(llama, PROMPT, output=[output.id for output in result.outputs], method="leave_one_out")
    assert np.array_equal(again.scores, result.scores)


def test_units_reproduce_the_prompt(llama: LocalModel) -> None:
    words = explain(llama, PROMPT, output=" The", method="leave_one_out")
    assert [unit.text for unit in words.units] == ["<bos>", "Sam", "has", "3", "apples", "."]
    assert [unit.role for unit in words.units] == ["special", *["prompt"] * 5]
    for unit in words.units[1:]:
        assert PROMPT[unit.start : unit.end].strip() == unit.text
        assert (unit.own_start, unit.own_end) == (unit.start, unit.end)
    assert "".join(PROMPT[unit.start : unit.end] for unit in words.units) == PROMPT
    assert [dict(unit.inside) for unit in words.units[:3]] == [
        {},
        {"paragraph": 0, "line": 0, "sentence": 0, "word": 0},
        {"paragraph": 0, "line": 0, "sentence": 0, "word": 1},
    ]
    tokens = explain(llama, PROMPT, output=" The", units="token", method="leave_one_out")
    assert "".join(unit.text for unit in tokens.units if not unit.special) == PROMPT
    assert [unit.last_token for unit in tokens.units] == list(range(1, len(tokens.units) + 1))


@pytest.mark.parametrize("target", ["logprob", "prob", "logit", "entropy"])
@pytest.mark.parametrize("method", ["leave_one_out", "input_x_gradient"])
def test_every_target_with_every_kind_of_method(method: str, target: str, llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The answer", method=method, target=target)
    assert result.target == target
    assert result.scores.any()
    if target != "logprob":
        assert not np.allclose(result.scores, explain(llama, PROMPT, output=" The answer", method=method).scores)


def test_the_record(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The", method=Saliency(norm="l2"), target="prob", seed=5)
    assert result.method == {
        "name": "saliency",
        "options": {"norm": "l2"},
        "signed": False,
        "unit": "probability per unit of embedding",
    }
    assert result.ablation is None
    assert result.seed == 5
    assert result.model["name"] == "tiny llama"
    assert result.model["dtype"] == "float32"
    assert set(result.versions) == {"attribution", "torch", "transformers"}
    assert result.versions["attribution"] == attribution.__version__
    n = len(llama.codec.encode(PROMPT).ids) + len(result.outputs) - 1
    assert result.cost == {"forwards": 1, "backwards": len(result.outputs), "tokens": n}
    assert result.outputs[0].logprob == pytest.approx(
        explain(llama, PROMPT, output=" The", method="leave_one_out").outputs[0].logprob, abs=1e-5
    )
    assert explain(llama, PROMPT, output=" The", method="leave_one_out").ablation == "delete"


def test_cost_of_leave_one_out_counts_each_prompt_once(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The", method="leave_one_out")
    # Five words and the whole prompt; BOS is never removed.
    assert result.cost["forwards"] == 6


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "at least one word"),
        ({"prompt": None}, "as a string, got NoneType"),
        ({"output": ""}, "an output with at least one token"),
        ({"output": []}, "an output with at least one token"),
        ({"output": b"hi"}, "got b'hi'"),
        ({"output": [5.7]}, "got \\[5.7\\]"),
        ({"output": [True]}, "token ids from 0 to 319"),
        ({"output": 5}, "got 5"),
        ({"output": [5, 320]}, "token ids from 0 to 319"),
        ({"output": [-1]}, "token ids from 0 to 319"),
        ({"output": "\ud800"}, "the output as text"),
        ({"seed": -1}, "seed as an int from 0 on, got -1"),
        ({"seed": None}, "got None"),
        ({"target": ["prob"]}, "target out of"),
        ({"max_new_tokens": 0}, "whole number from 1 on, got 0"),
        ({"max_new_tokens": 1.5}, "got 1.5"),
        ({"max_new_tokens": True}, "got True"),
        ({"method": "shap"}, "got 'shap'"),
        ({"method": Saliency}, "got the class Saliency. Type Saliency\\(\\)"),
        ({"units": "letter"}, "got 'letter'"),
        ({"target": "loss"}, "got 'loss'"),
        ({"per_output": 1}, "got 1"),
        ({"ablation": "blur"}, "got 'blur'"),
        ({"model": 3}, "got int"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str, llama: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        explain(**{"model": llama, "prompt": PROMPT} | arguments)


@pytest.mark.usefixtures("untyped")
def test_numbers_of_other_libraries(llama: LocalModel) -> None:
    expected = explain(llama, PROMPT, output=[5, 6], method="leave_one_out")
    for ids in (np.array([5, 6]), torch.tensor([5, 6]), (np.int64(5), 6)):
        assert explain(llama, PROMPT, output=ids, method="leave_one_out") == expected
    assert explain(llama, PROMPT, max_new_tokens=np.int64(2), method="leave_one_out") == explain(
        llama, PROMPT, max_new_tokens=2, method="leave_one_out"
    )


# Budgets, and going on from where one ended

SAMPLING = ("banzhaf", "context_cite", "interactions", "kernel_shap", "lime", "shapley_sampling")
LONG = "Sam has 3 apples and Tom has 5 oranges and Ann has 7 pears."


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SAMPLING, "leave_one_out", "hierarchical"])
def test_a_budget_ends_cleanly_and_a_larger_one_goes_on(name: str, llama: LocalModel, tmp_path: Path) -> None:
    whole = explain(llama, LONG, output=" The", method=name, seed=5)
    limit = 10 if name in ("leave_one_out", "hierarchical") else 60
    part = explain(llama, LONG, output=" The", method=name, seed=5, max_forwards=limit)
    assert part.notes["partial"] is True
    assert part.cost["forwards"] <= limit
    assert np.isfinite(part.scores).all()
    assert "partial: the budget ended first" in str(part)
    assert "partial" not in whole.notes
    part.save(tmp_path / "r.safetensors")
    more = explain(llama, LONG, output=" The", method=name, seed=5, resume=Attribution.load(tmp_path / "r.safetensors"))
    assert np.allclose(more.scores, whole.scores, atol=1e-4)
    assert part.evaluations is not None
    # What is left of two masks may be the same text, which is computed once where both are asked together.
    # One more sees whether the model is the same.
    assert 1 <= more.cost["forwards"] - (whole.cost["forwards"] - len(part.evaluations)) <= 9
    assert "partial" not in more.notes


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_methods_tell_their_errors_seed_and_evaluations(name: str, llama: LocalModel) -> None:
    first = explain(llama, LONG, output=" The end", method=name, seed=1)
    other = explain(llama, LONG, output=" The end", method=name, seed=2)
    assert first.errors is not None
    assert first.errors.shape == first.scores.shape
    assert first.errors.dtype == np.float32
    assert first.errors.any()
    assert (first.seed, other.seed) == (1, 2)
    assert first.evaluations is not None
    assert 1 < first.notes["evaluations"] <= len(first.evaluations)
    assert not np.array_equal(first.scores, other.scores)
    # Two runs differ by about as much as they say.
    assert other.errors is not None
    spread = np.sqrt(first.errors**2 + other.errors**2)
    ordinary = [not unit.special for unit in first.units]
    assert 0.3 < np.sqrt(np.mean(((first.scores - other.scores) / np.maximum(spread, 1e-6))[:, ordinary] ** 2)) < 2.5
    assert "± standard error" in str(first)


def test_a_method_goes_on_from_what_another_asked(llama: LocalModel) -> None:
    exact = explain(llama, PROMPT, output=" The", method="exact_shapley")
    free = explain(llama, PROMPT, output=" The", method="leave_one_out", resume=exact)
    assert free.cost["forwards"] == 1  # the whole prompt, to see that the model is the same
    assert np.allclose(free.scores, explain(llama, PROMPT, output=" The", method="leave_one_out").scores, atol=1e-5)


def test_resuming_from_another_question(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The", method="leave_one_out")
    for other, name in (
        ({"output": " An"}, "output"),
        ({"target": "prob"}, "target"),
        ({"ablation": "mask"}, "ablation"),
        ({"units": "token"}, "granularity"),
        ({"per_output": False}, "per_output"),
    ):
        with pytest.raises(InputError, match=f"same question to resume from, got one with another {name}"):
            explain(llama, PROMPT, **{"output": " The", **other}, resume=result)
    other = LocalModel(copy.deepcopy(llama.model), llama.tokenizer, name=llama.name)
    with torch.no_grad():
        other.model.get_output_embeddings().weight[:40].mul_(1.5)
    with pytest.raises(InputError, match="Expected the model that the result to resume from was computed with"):
        explain(other, PROMPT, output=" The", resume=result, method="leave_one_out")
    with pytest.raises(InputError, match="saliency asks no ablated prompts"):
        explain(llama, PROMPT, output=" The", resume=result, method="saliency")
    with pytest.raises(InputError, match="saliency asks for none"):
        explain(
            llama,
            PROMPT,
            output=" The",
            resume=explain(llama, PROMPT, output=" The", method="saliency"),
            method="leave_one_out",
        )


def test_budgets_that_suffice_for_nothing(llama: LocalModel) -> None:
    with pytest.raises(BudgetError, match="before any unit was deleted"):
        explain(llama, PROMPT, output=" The", max_forwards=1, method="leave_one_out")
    with pytest.raises(BudgetError, match=r"Allow more"):
        explain(llama, PROMPT, output=" The", method="kernel_shap", max_seconds=1e-9)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_forwards": 0}, "max_forwards as a whole number from 1 on, got 0"),
        ({"max_tokens": 1.5}, "max_tokens as a whole number from 1 on, got 1.5"),
        ({"max_seconds": "3"}, "max_seconds as a number above 0, got '3'"),
        ({"max_seconds": float("inf")}, "max_seconds as a number above 0, got inf"),
        ({"ablation": "zero"}, r"'delete', 'mask', or a Replace\(...\), got 'zero'"),
        ({"ablate_special": 1}, "ablate_special=True or ablate_special=False, got 1"),
        ({"dry_run": "yes"}, "dry_run=True or dry_run=False, got 'yes'"),
        ({"resume": {}}, "Expected the result to resume from, got dict"),
        ({"seed": -1}, "the seed as an int from 0 on, got -1"),
        ({"seed": 1.0}, "the seed as an int from 0 on, got 1.0"),
        ({"method": KernelSHAP(samples=4)}, "at least 10 samples for 5 units, got 4"),
        ({"method": Banzhaf(samples=7)}, "at least 10 samples for 5 units, got 7"),
        ({"output": None, "target": Contrast("x"), "dry_run": True}, "Expected an output for a dry run of a Contrast"),
    ],
)
def test_bad_budgets_and_meanings(wrong: dict, message: str, llama: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        explain(llama, PROMPT, **{"output": " The", **wrong})


@pytest.mark.parametrize("meaning", ["delete", "mask", Replace("..."), Replace("...", "?")])
@pytest.mark.parametrize("units", ["word", "token"])
def test_the_meaning_of_absent_stands_in_the_result(meaning, units: str, llama: LocalModel, gpt2: LocalModel) -> None:
    for model in (llama, gpt2):
        result = explain(model, PROMPT, output=" The end", ablation=meaning, units=units, method="leave_one_out")
        assert result.ablation == str(meaning)
        assert result.scores.any()
    assert str(Replace("...", ["a", "b"])) == "Replace('...', ['a', 'b'])"


def test_special_tokens_are_ablated_where_that_is_asked(llama: LocalModel) -> None:
    special = [unit.special for unit in explain(llama, PROMPT, output=" The", method="leave_one_out").units]
    assert any(special)
    assert not explain(llama, PROMPT, output=" The", method="leave_one_out").scores[:, special].any()
    assert explain(llama, PROMPT, output=" The", ablate_special=True, method="leave_one_out").scores[:, special].all()


def test_interactions_in_the_result(llama: LocalModel, tmp_path: Path) -> None:
    result = explain(llama, PROMPT, output=" The end", method="interactions")
    assert result.interactions
    strongest = result.interactions[0]
    assert strongest.first < strongest.second < len(result.units)
    assert len(strongest.values) == len(result.outputs)
    assert strongest.value == pytest.approx(sum(strongest.values))
    result.save(tmp_path / "r.safetensors")
    again = Attribution.load(tmp_path / "r.safetensors")
    assert again.interactions == result.interactions
    assert again == result
    assert "Pairs that only work together (+) or replace one another (-):" in str(result)
    assert str(again) == str(result)


@pytest.mark.parametrize("meaning", ["mask", Replace("...")])
def test_dry_runs_know_the_meaning_of_absent(meaning, llama: LocalModel) -> None:
    explain(llama, PROMPT, output=" The", ablation=meaning, method="leave_one_out")
    said = explain(llama, PROMPT, output=" The", ablation=meaning, dry_run=True, method="leave_one_out")
    result = explain(llama, PROMPT, output=" The", ablation=meaning, method="leave_one_out")
    assert (said.forwards, said.tokens) == (result.cost["forwards"], result.cost["tokens"])


def test_a_chat_is_recorded_whole_and_can_be_gone_on_with(tmp_path) -> None:
    family = next(family for family in FAMILIES if family.name == "qwen3")
    model = LocalModel(tiny_model("llama"), chat_tokenizer(family))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is Tom?"}]
    chat = Chat(messages, options={"enable_thinking": False})
    first = explain(model, chat, max_new_tokens=2, max_forwards=3, method="leave_one_out")
    assert first.question["messages"] == messages
    assert first.question["options"] == {"enable_thinking": False}
    assert first.notes["partial"]
    first.save(tmp_path / "r.safetensors")
    whole = explain(
        model, chat, max_new_tokens=2, resume=Attribution.load(tmp_path / "r.safetensors"), method="leave_one_out"
    )
    assert np.allclose(whole.scores, explain(model, chat, max_new_tokens=2, method="leave_one_out").scores, atol=1e-4)
    with pytest.raises(InputError, match="with another"):
        explain(model, messages, max_new_tokens=2, resume=first, method="leave_one_out")


@pytest.mark.parametrize("options", [{"over_outputs": "mean"}, {"over_outputs": "min", "target": Semantic()}])
def test_a_mean_of_nothing_is_refused(options: dict, llama: LocalModel) -> None:
    with pytest.raises(InputError, match="Type per_output=False with it"):
        explain(llama, PROMPT, output=" The", **options)
    with pytest.raises(InputError, match="Type per_output=False with it"):
        explain(
            llama,
            PROMPT,
            output=" The",
            target=Semantic(),
            per_output=False,
            over_outputs="mean",
            method="leave_one_out",
        )


# What else could have been written


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "saliency"},
        {"method": "integrated_gradients"},
        {"method": "attention_rollout"},
        {"target": "prob"},
        {"target": "prob", "method": "saliency"},
        {"target": Contrast(" x", instead_of=" end")},
        {"target": Contrast()},
        {"target": Semantic()},
        {"ablation": "mask"},
        {"ablation": Replace("...", "?")},
        {"units": "token", "per_output": False},
    ],
    ids=str,
)
def test_alternatives_of_every_output_token(options: dict, llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The end", **options)
    ids = [output.id for output in result.outputs]
    whole = torch.tensor([[*result.prompt_ids, *ids][:-1]])
    with torch.no_grad():
        logprobs = llama.model(whole).logits[0, -len(ids) :].log_softmax(-1)
    for output, own in zip(result.outputs, logprobs, strict=True):
        best = own.topk(5)
        assert [number for _, number in output.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
        written = [number for text, number in output.alternatives if text == output.text]
        assert (output.logprob in written) == (output.id in best.indices.tolist())


def test_alternatives_cost_nothing_and_are_told_again_where_a_run_goes_on(demo: LocalModel) -> None:
    question = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    first = explain(demo, question, max_forwards=8, method="leave_one_out")
    assert first.cost["forwards"] <= 8
    assert [output.alternatives[0][0] for output in first.outputs] == [output.text for output in first.outputs]
    again = explain(demo, question, resume=first, method="leave_one_out")
    for one, other in zip(first.outputs, again.outputs, strict=True):
        assert [text for text, _ in one.alternatives] == [text for text, _ in other.alternatives]
    assert explain(demo, question, method="saliency").cost["forwards"] == 1


def test_parts_of_the_output_that_a_token_is_in(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The end. He is 35.\n\nYes", method="leave_one_out")
    for level in ("word", "sentence", "line", "paragraph"):
        for index, output in enumerate(result.outputs):
            own = [i for i, other in enumerate(result.outputs) if other.inside[level] == output.inside[level]]
            assert result.output_indices(index, level) == own


def test_a_vocabulary_of_two_tokens_has_no_five_alternatives(llama: LocalModel) -> None:
    from attribution.local_problem import LocalProblem

    problem = LocalProblem.__new__(LocalProblem)
    problem._likeliest = None
    problem._notice(torch.tensor([[0.0, -torch.inf], [1.0, 1.0]]))
    problem._logprobs = torch.zeros(2)
    assert problem.likeliest() == [[(0, 0.0)], [(0, pytest.approx(-0.6931472)), (1, pytest.approx(-0.6931472))]]
