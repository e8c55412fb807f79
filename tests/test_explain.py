"""explain on tiny models: outputs, targets, records and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attribution
from attribution.errors import InputError
from attribution.explainer import explain
from attribution.methods.saliency import Saliency
from attribution.models.local import LocalModel

PROMPT = "Sam has 3 apples."


def test_the_model_writes_where_no_output_is_given(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, max_new_tokens=5)
    ids = llama.encode(PROMPT).ids
    assert tuple(output.id for output in result.outputs) == llama.generate(ids, 5)
    assert result.output == llama.decode([output.id for output in result.outputs])
    again = explain(llama, PROMPT, output=[output.id for output in result.outputs])
    assert np.array_equal(again.scores, result.scores)


def test_units_reproduce_the_prompt(llama: LocalModel) -> None:
    words = explain(llama, PROMPT, output=" The")
    assert [unit.text for unit in words.units] == ["<bos>", "Sam", "has", "3", "apples", "."]
    assert [unit.role for unit in words.units] == ["special", *["prompt"] * 5]
    for unit in words.units[1:]:
        assert PROMPT[unit.start : unit.end] == unit.text
    tokens = explain(llama, PROMPT, output=" The", units="token")
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
    n = len(llama.encode(PROMPT).ids) + len(result.outputs) - 1
    assert result.cost == {"forwards": 1, "backwards": len(result.outputs), "tokens": n}
    assert result.outputs[0].logprob == pytest.approx(
        explain(llama, PROMPT, output=" The").outputs[0].logprob, abs=1e-5
    )
    assert explain(llama, PROMPT, output=" The").ablation == "delete"


def test_cost_of_leave_one_out_counts_each_prompt_once(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The")
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
    expected = explain(llama, PROMPT, output=[5, 6])
    for ids in (np.array([5, 6]), torch.tensor([5, 6]), (np.int64(5), 6)):
        assert explain(llama, PROMPT, output=ids) == expected
    assert explain(llama, PROMPT, max_new_tokens=np.int64(2)) == explain(llama, PROMPT, max_new_tokens=2)
