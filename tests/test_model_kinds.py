"""Models that are not simply a module on one device in one precision: offloaded, adapted, quantised."""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from attribution.engine import backward, roads
from attribution.engine.probe import probe
from attribution.errors import CapabilityError
from attribution.explainer import explain
from attribution.local_attribution import LocalLLMAttributor
from attribution.method import list_methods
from attribution.models.local import LocalModel
from attribution.target import named_target, read_output
from tests.reference import logprobs
from tests.state import differences, snapshot
from tests.tiny import close, tiny_model, tiny_tokenizer

PROMPT = "Sam has 3 apples."
IDS, OUTPUT = [2, 40, 41, 60, 41, 77, 90], (70, 41, 200)


def table(model) -> torch.Tensor:
    reading = read_output(OUTPUT, named_target("logprob"))
    local = LocalModel(model, tiny_tokenizer())
    return backward.gradients(local, IDS, reading, lambda g, e: (g * e).sum(-1))[0]


# Offloaded and sharded by accelerate


def offloaded(folder: Path) -> list[torch.nn.Module]:
    from accelerate import cpu_offload, disk_offload

    blocks = ["model.layers.0", "model.layers.1"]
    spread = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", blocks[0]], "cpu")
    whole = [copy.deepcopy(tiny_model("llama")) for _ in range(3)]
    from accelerate import dispatch_model

    return [
        cpu_offload(whole[0], torch.device("cpu")),
        disk_offload(whole[1], str(folder / "whole"), torch.device("cpu")),
        dispatch_model(
            whole[2],
            spread | {blocks[1]: "disk"},
            main_device="cpu",
            offload_dir=str(folder / "part"),
            force_hooks=True,
        ),
    ]


@pytest.mark.filterwarnings("ignore:.*does not seem to be.*")
def test_offloaded_models(tmp_path: Path) -> None:
    """Accelerate keeps weights elsewhere and brings those of a layer for its turn only."""
    expected = table(tiny_model("llama"))
    for model in offloaded(tmp_path):
        assert any(parameter.is_meta for parameter in model.parameters())
        before = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        assert close(table(model), expected, 1e-6)
        local = LocalModel(model, tiny_tokenizer(), memory_budget=1000)  # the blocks are computed twice
        reading = read_output(OUTPUT, named_target("logprob"))
        assert close(backward.gradients(local, IDS, reading, lambda g, e: (g * e).sum(-1))[0], expected, 1e-5)
        assert [name for name, parameter in model.named_parameters() if parameter.is_meta] == before


def assert_ablations(model) -> None:
    """Leave-one-out, packed, is what the model itself says of prompts without a word."""
    local = LocalModel(model, tiny_tokenizer())
    roads._known[model] = (local.state, roads.Road(works=True, ratio=0.0, measured=10**6, checked=10**6))
    result = explain(local, PROMPT, output=" The answer", method="leave_one_out")
    ids, output = list(local.codec.encode(PROMPT).ids), [token.id for token in result.outputs]
    whole = np.array(logprobs(model, ids, output))
    for index, unit in enumerate(result.units):
        if not unit.special:
            without = logprobs(model, ids[: unit.first_token] + ids[unit.last_token :], output)
            assert result.scores[:, index] == pytest.approx(whole - np.array(without), abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not seem to be.*")
def test_ablations_on_offloaded_models(tmp_path: Path) -> None:
    for model in offloaded(tmp_path):
        assert_ablations(model)


@pytest.mark.slow
def test_every_method_on_an_offloaded_model() -> None:
    from accelerate import cpu_offload

    model = cpu_offload(copy.deepcopy(tiny_model("llama")), torch.device("cpu"))
    assert model.get_input_embeddings().weight.is_meta
    for method in list_methods():
        found, plain = (
            explain((each, tiny_tokenizer()), PROMPT, max_new_tokens=3, method=method)
            for each in (model, tiny_model("llama"))
        )
        # What is tried out on a model that was not known yet counts too.
        assert {**found.cost, "tokens": 0} == {**plain.cost, "tokens": 0}
        assert np.allclose(found.scores, plain.scores, atol=1e-5)
    door = LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight)
    assert door.compute_attributions(PROMPT, 2)[0].any()


# Adapted by peft


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.usefixtures("untyped")
def test_lora() -> None:
    """An adapter gives what the model with the adapter merged into it gives, and is left as it was."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(4)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(tiny_model("llama")), config).eval()
    before = snapshot(adapted, tiny_tokenizer())
    shapes: list[tuple[int, ...]] = []
    handle = adapted.get_output_embeddings().register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    found = table(adapted)
    handle.remove()
    assert shapes[-1][1] == len(OUTPUT)  # the head reads what predicts an output, through the adapter too
    assert differences(before, snapshot(adapted, tiny_tokenizer())) == []
    expected = table(copy.deepcopy(adapted).merge_and_unload())
    assert close(found, expected)
    assert not close(found, table(tiny_model("llama")), 1e-2)
    for method in list_methods():
        assert explain((adapted, tiny_tokenizer()), PROMPT, output=" The", method=method).scores.any()


def test_a_model_that_knows_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where forward takes no logits_to_keep, the head is given nothing but the rows that are asked."""
    model = copy.deepcopy(tiny_model("llama"))
    expected = table(model)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda input_ids, use_cache: forward(input_ids, use_cache=use_cache))
    shapes: list[tuple[int, ...]] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    assert close(table(model), expected)
    handle.remove()
    assert shapes[-1] == (1, len(OUTPUT), 320)
    for name in ("leave_one_out", "integrated_gradients"):
        found = explain((model, tiny_tokenizer()), PROMPT, output=" The", method=name)
        whole = explain((tiny_model("llama"), tiny_tokenizer()), PROMPT, output=" The", method=name)
        assert np.allclose(found.scores, whole.scores, atol=1e-4)


# Quantised by torchao


@pytest.fixture
def torchao():
    """Torchao's quantisation, which `make` keeps aside from what transformers would find."""
    folder = Path(sys.prefix) / "quantized"
    assert folder.is_dir(), "make test installs torchao there"
    sys.path.append(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield importlib.import_module("torchao.quantization")
    finally:
        sys.path.remove(str(folder))


def test_int8_weights(torchao) -> None:
    """Gradients are those of a plain model with the weights that the quantised one stands for."""
    quantised = copy.deepcopy(tiny_model("llama"))
    torchao.quantize_(quantised, torchao.Int8WeightOnlyConfig())
    plain = copy.deepcopy(tiny_model("llama"))
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = quantised.get_submodule(name).weight.dequantize()
    found = table(quantised)
    assert close(found, table(plain), 1e-4)
    assert not torch.equal(found, table(tiny_model("llama")))
    kinds = {name: type(parameter) for name, parameter in quantised.named_parameters()}
    assert explain((quantised, tiny_tokenizer()), PROMPT, output=" The", method="attn_lrp").scores.any()
    assert {name: type(parameter) for name, parameter in quantised.named_parameters()} == kinds


def test_ablations_on_quantised_weights(torchao) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert_ablations(model)


def test_int8_activations_are_refused(torchao) -> None:
    """Their gradients are wrong without an error: finite differences tell, and methods that do not need them go on."""
    model = copy.deepcopy(tiny_model("llama"))
    assert not probe(LocalModel(model, tiny_tokenizer())).fault
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())  # it is probed again
    for method in list_methods():
        if "gradients" in method.needs:
            with pytest.raises(CapabilityError, match=rf"{method.name} needs gradients, which .* Use .*leave_one_out"):
                explain((model, tiny_tokenizer()), PROMPT, output=" The", method=method)
        else:
            assert explain((model, tiny_tokenizer()), PROMPT, output=" The", method=method).scores.any()
    with pytest.raises(CapabilityError):
        LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight).compute_attributions(PROMPT)
