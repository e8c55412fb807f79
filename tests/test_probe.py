"""What is found out about a model once."""

from __future__ import annotations

import copy

import pytest
import torch

from attribution.engine import memory
from attribution.engine.probe import _kept, probe
from attribution.errors import CapabilityError, InputError
from attribution.explainer import explain
from attribution.models.local import LocalModel
from tests.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

PROMPT = "Sam has 3 apples."


def of(model) -> LocalModel:
    return LocalModel(model, tiny_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_true_gradients_are_believed(family: str, dtype: torch.dtype) -> None:
    assert probe(of(tiny_model(family, dtype))).fault == ""


class Scaled(torch.autograd.Function):
    """Gives what it gets, and a wrong gradient."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


@pytest.mark.parametrize("factor", [0.2, 0.8, 1.25, -1.0])
def test_wrong_gradients_are_not(factor: float) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[1].register_forward_hook(lambda _m, _i, output: Scaled.apply(output, factor))
    assert "times as much as the gradient says" in probe(of(model)).fault
    with pytest.raises(
        CapabilityError, match=r"saliency needs gradients, which .* Use attention_rollout, .*leave_one_out"
    ):
        explain(of(model), PROMPT, output=" The", method="saliency")
    assert explain(of(model), PROMPT, output=" The", method="leave_one_out").scores.any()


def test_a_model_that_cannot_be_differentiated() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[1].register_forward_hook(lambda _m, _i, output: output.detach())
    assert "cannot be differentiated" in probe(of(model)).fault


def test_a_model_is_probed_once_and_again_when_it_was_changed() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    first = probe(of(model))
    assert probe(of(model)) is first  # whoever wraps it
    model.bfloat16()
    assert probe(of(model)) is not first


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_estimate_of_memory_holds_for_longer_texts(family: str) -> None:
    """For eager attention too, which keeps something for every pair of tokens."""
    for attention in ("sdpa", "eager"):
        model = copy.deepcopy(tiny_model(family))
        model.set_attn_implementation("eager" if family == "gemma2" else attention)
        local = of(model)
        with local.borrowed():
            kept = _kept(local, torch.arange(3, 83)[None])
        assert probe(local).bytes_kept(1, 80) == pytest.approx(kept, rel=0.1)


@pytest.mark.usefixtures("untyped")
def test_the_budget() -> None:
    model = of(tiny_model("llama"))
    assert 0 < memory.budget(model) < 2**50
    assert memory.budget(LocalModel(tiny_model("llama"), tiny_tokenizer(), memory_budget=12345)) == 12345
    for wrong in (0, -5, 1.5, "much"):
        with pytest.raises(InputError, match="memory_budget"):
            LocalModel(tiny_model("llama"), tiny_tokenizer(), memory_budget=wrong)


def test_errors_of_memory() -> None:
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert memory.is_out_of_memory(raised.value)
    for said in ("MPS backend out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "not enough memory: you tried"):
        assert memory.is_out_of_memory(RuntimeError(said))
    assert not memory.is_out_of_memory(RuntimeError("shape"))
