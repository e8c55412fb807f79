"""Attention folded layer by layer against products of the matrices that the models report themselves."""

from __future__ import annotations

import copy
import threading
import weakref

import pytest
import torch
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack as modes
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MambaConfig, MambaForCausalLM

from attribution.engine import attention
from attribution.engine.attention import fold_attention
from attribution.errors import CapabilityError, ModelError, NonFiniteError
from attribution.models.local import LocalModel
from tests.state import differences, snapshot
from tests.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

IDS = [2, 40, 41, 60, 41, 77, 90, 120, 33, 50, 70, 41, 200, 5, 99, 41, 7]
ASKED = [len(IDS) - 1, 9, 0, 12]
SDPA = tuple(family for family in ARCHITECTURES if family != "gemma2")


def rollout(relevance: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    return 0.5 * relevance + 0.5 * attended


def start(length: int = len(IDS), asked=tuple(ASKED)) -> torch.Tensor:
    return torch.eye(length)[list(asked)]


def eager(family: str, dtype: torch.dtype = torch.float32):
    model = copy.deepcopy(tiny_model(family, dtype))
    model.set_attn_implementation("eager")
    return model


def reported(family: str, ids=tuple(IDS), dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The attention of every layer, [token, token], as the eager model reports it."""
    with torch.no_grad():
        found = eager(family, dtype)(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    return [layer[0].float().mean(0) for layer in found]


def slow_rollout(layers: list[torch.Tensor]) -> torch.Tensor:
    """All rows, from the first layer to the last: whole matrices, multiplied."""
    product = torch.eye(len(layers[0]))
    for layer in layers:
        product = (0.5 * torch.eye(len(layer)) + 0.5 * layer) @ product
    return product


def test_every_architecture_calls_what_is_expected_of_it() -> None:
    for family in ARCHITECTURES:
        assert tiny_model(family).config._attn_implementation == ("sdpa" if family in SDPA else "eager")


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_rollout_on_every_architecture(family: str) -> None:
    """The text is more than twice as long as the sliding windows."""
    expected = slow_rollout(reported(family))[ASKED]
    model = LocalModel(tiny_model(family), tiny_tokenizer())
    for block in (1, 5, 256):
        found = fold_attention(model, IDS, start(), rollout, block=block)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(len(ASKED)))
    assert not found[1, 10:].any()  # nothing is read before it is written
    torch.testing.assert_close(found[2], torch.eye(len(IDS))[0])  # the first token reads itself


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_rollout_of_eager_attention(family: str) -> None:
    model = LocalModel(eager(family), tiny_tokenizer())
    for block in (1, 5, 256):
        found = fold_attention(model, IDS, start(), rollout, block=block)
        torch.testing.assert_close(found, slow_rollout(reported(family))[ASKED], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_rollout_in_bfloat16(family: str, implementation: str) -> None:
    """Rows sum to 1 as in float32: only queries and keys are rounded."""
    bf16 = torch.bfloat16
    kind = tiny_model(family, bf16) if implementation == "sdpa" else eager(family, bf16)
    found = fold_attention(LocalModel(kind, tiny_tokenizer()), IDS, start(), rollout)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, slow_rollout(reported(family, dtype=bf16))[ASKED], rtol=0, atol=1e-2)
    torch.testing.assert_close(found.sum(1), torch.ones(len(ASKED)))


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_sliding_window_ends_where_it_ends(family: str) -> None:
    """With one layer's step only: what is further away than the window gets nothing at all."""
    seen: list[torch.Tensor] = []

    def step(relevance: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        seen.append(attended)
        return relevance

    fold_attention(LocalModel(tiny_model(family), tiny_tokenizer()), IDS, torch.eye(len(IDS)), step)
    for found, expected in zip(seen[::-1], reported(family), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert any(layer[-1, : len(IDS) - 8].count_nonzero() == 0 for layer in seen)
    assert all(layer[-1, len(IDS) - 8 :].count_nonzero() == 8 for layer in seen)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_step_decides(family: str) -> None:
    """It is called from the last layer to the first, and what it returns goes on, signs and scale included."""
    last, first = reported(family)[::-1]
    relevance = torch.randn(3, len(IDS), generator=torch.Generator().manual_seed(0))
    before = relevance.clone()

    def step(relevance: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        return relevance.mul_(2).sub_(attended)  # in place: what was passed in stays as it is

    found = fold_attention(LocalModel(tiny_model(family), tiny_tokenizer()), IDS, relevance, step)
    expected = 2 * before - before @ last
    torch.testing.assert_close(found, 2 * expected - expected @ first, rtol=1e-4, atol=1e-5)
    assert torch.equal(relevance, before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_no_relevance_and_a_single_token(family: str) -> None:
    model = LocalModel(tiny_model(family), tiny_tokenizer())
    assert not fold_attention(model, IDS, torch.zeros(2, len(IDS)), rollout).any()
    assert fold_attention(model, IDS, torch.zeros(0, len(IDS)), rollout).shape == (0, len(IDS))
    assert torch.equal(fold_attention(model, [2], torch.ones(1, 1), rollout), torch.ones(1, 1))


def test_only_asked_rows_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[list[int]] = []
    rows = attention._Scaled.rows

    def counted(self, asked):
        computed.append(asked.tolist())
        return rows(self, asked)

    monkeypatch.setattr(attention._Scaled, "rows", counted)
    model = LocalModel(tiny_model("llama"), tiny_tokenizer())
    fold_attention(model, IDS, start(asked=(9, 4, 9)), rollout, block=4)
    # The last layer: what was asked. The layer below: what that reads.
    assert computed == [[4, 9], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


# The calls that a model may make


def causal_mask(tokens: int) -> torch.Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


def float_mask(tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(tokens, tokens, dtype=dtype).masked_fill(~causal_mask(tokens), torch.finfo(dtype).min)


SLOPES = torch.tensor([1.0, 0.5, 0.25, 0.125])[:, None, None]

CALLS = {
    "causal": ((), {"is_causal": True}),
    "causal by position": ((None, 0.0, True), {}),
    "causal, scaled": ((), {"is_causal": True, "scale": 0.7}),
    "causal, scaled by 0": ((), {"is_causal": True, "scale": 0.0}),
    "no mask": ((), {}),
    "bool mask": ((), {"attn_mask": causal_mask(6)[None, None]}),
    "bool mask by position": ((causal_mask(6),), {}),
    "bool mask of every head": ((torch.arange(144).reshape(1, 4, 6, 6) % 5 < 3,), {}),
    "float mask": ((), {"attn_mask": float_mask(6)[None, None]}),
    "float mask, 3 axes": ((), {"attn_mask": float_mask(6) - SLOPES}),
    "a bias of the keys alone": ((), {"attn_mask": (SLOPES * torch.arange(6.0))[None]}),
}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("call", CALLS)
def test_calls_of_scaled_dot_product_attention(call: str, groups: int) -> None:
    """Torch's own answer, when the values are the unit matrix, is the attention."""
    options, named = CALLS[call]
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 4, 6, 8, generator=generator), torch.randn(1, groups, 6, 8, generator=generator)
    value = torch.eye(6).expand(1, groups, 6, 6)
    with attention._Watch(6) as watch:
        weights = functional.scaled_dot_product_attention(query, key, value, *options, enable_gqa=True, **named)
    (layer,) = watch.layers
    for asked in ([0, 1, 2, 3, 4, 5], [2], [1, 4]):
        expected = weights[0, :, asked].mean(0)
        torch.testing.assert_close(layer.rows(torch.tensor(asked)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, torch.tensor([[[[True]]]]), torch.zeros(1, 2, 2, 1)])
def test_heads_packed_for_a_single_token(mask: torch.Tensor | None) -> None:
    """As transformers does where heads share keys and a kernel cannot: heads stand where tokens do."""
    query, key = torch.randn(2, 1, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    with attention._Watch(1) as watch:
        functional.scaled_dot_product_attention(query, key[:, :, :1], key[:, :, :1], attn_mask=mask)
    (layer,) = watch.layers
    assert torch.equal(layer.rows(torch.tensor([0])), torch.ones(1, 1))


def test_everything_by_name() -> None:
    query = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    with attention._Watch(6) as watch:
        functional.scaled_dot_product_attention(
            query=query, key=query, value=query, attn_mask=None, dropout_p=0.0, is_causal=True, scale=None
        )
        functional.softmax(input=query @ query.mT, dim=3)
        torch.softmax(input=query @ query.mT, dim=-1)
    assert len(watch.layers) == 3


@pytest.mark.parametrize(
    "softmax",
    [
        lambda scores: functional.softmax(scores, dim=-1),
        lambda scores: functional.softmax(scores, 3, dtype=torch.float32),
        lambda scores: torch.softmax(scores, -1),
        lambda scores: torch.softmax(scores, dim=-1, dtype=torch.float32),
        lambda scores: scores.softmax(-1),
        lambda scores: scores.softmax(dim=3),
        torch.nn.Softmax(dim=-1),
    ],
)
def test_calls_of_softmax(softmax) -> None:
    scores = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with attention._Watch(6) as watch:
        softmax(scores)
    (layer,) = watch.layers
    torch.testing.assert_close(layer.rows(torch.tensor([1, 5])), scores.softmax(-1)[0, :, [1, 5]].mean(0))


def test_what_is_no_attention_over_the_text() -> None:
    """Routers, attention with a sink beside the tokens, cached keys, several texts at once, another axis."""
    query = torch.zeros(1, 4, 6, 8)
    with attention._Watch(6) as watch:
        for shape in ((6, 6), (4, 6, 6), (1, 4, 6, 7), (1, 4, 3, 6), (2, 4, 6, 6)):
            torch.zeros(shape).softmax(-1)
        torch.zeros(1, 4, 6, 6).softmax(-2)
        functional.scaled_dot_product_attention(query, torch.zeros(1, 4, 9, 8), torch.zeros(1, 4, 9, 8))
        functional.scaled_dot_product_attention(query[:, :, :1], query, query)
        functional.scaled_dot_product_attention(*[torch.zeros(2, 4, 6, 8)] * 3)
        functional.scaled_dot_product_attention(*[torch.zeros(4, 6, 8)] * 3)
    assert watch.layers == []


# Memory


@pytest.mark.parametrize("family", SDPA)
def test_what_is_kept(family: str) -> None:
    """Of every layer its queries and keys and nothing behind them; of all layers that share a mask, one mask."""
    with torch.no_grad(), attention._Watch(len(IDS)) as watch:
        tiny_model(family)(torch.tensor([IDS]), use_cache=False)
    for layer in watch.layers:
        assert layer.query.shape == (4, len(IDS), 8)
        assert layer.key.shape[0] == (2 if layer.mask is None and family not in ("gpt2", "gpt_neox") else 4)
        for tensor in (layer.query, layer.key):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    masks = [layer.mask for layer in watch.layers if layer.mask is not None]
    assert bool(masks) == (family in ("mistral", "gemma3"))
    assert all(mask is masks[0] for mask in masks)


@pytest.mark.parametrize("kind", [attention._Scaled, attention._Averaged])
def test_a_layer_is_freed_when_it_is_done(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[weakref.ref] = []
    rows = kind.rows
    monkeypatch.setattr(kind, "rows", lambda self, asked: (done.append(weakref.ref(self)), rows(self, asked))[1])

    def step(relevance: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        assert done
        assert all(layer() is None for layer in done)
        return relevance

    family = "llama" if kind is attention._Scaled else "gemma2"
    fold_attention(LocalModel(tiny_model(family), tiny_tokenizer()), IDS, start(), step)
    assert len(done) == 2


class Largest(TorchDispatchMode):
    """How many bytes the largest tensor takes that any operation gave, views by what is behind them."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        for tensor in answer if isinstance(answer, (tuple, list)) else (answer,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return answer


@pytest.mark.parametrize("family", SDPA)
def test_no_square_of_all_heads_is_built(family: str) -> None:
    ids = (IDS * 6)[:96]
    relevance = torch.eye(len(ids))[-2:]
    with Largest() as largest:
        fold_attention(LocalModel(tiny_model(family), tiny_tokenizer()), ids, relevance, rollout, block=8)
    assert largest.bytes < 4 * len(ids) ** 2 * 4


# Never silently wrong


def test_a_layer_without_attention() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(CapabilityError, match=r"saw it 1 times in 2 layers.*attn_implementation=.*leave_one_out"):
        fold_attention(LocalModel(model, tiny_tokenizer()), IDS, start(), rollout)


def test_a_layer_that_attends_twice() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    once = model.model.layers[1].self_attn.forward
    model.model.layers[1].self_attn.forward = lambda **inputs: (once(**inputs), once(**inputs))[0]
    with pytest.raises(CapabilityError, match="saw it 3 times in 2 layers"):
        fold_attention(LocalModel(model, tiny_tokenizer()), IDS, start(), rollout)


@pytest.mark.parametrize("ids", [IDS, IDS[:1]])
def test_an_architecture_without_attention(ids: list[int]) -> None:
    shape = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 2}
    model = LocalModel(MambaForCausalLM(MambaConfig(**shape)).eval(), tiny_tokenizer())
    with pytest.raises(CapabilityError, match="saw it 0 times in 2 layers"):
        fold_attention(model, ids, torch.eye(len(ids)), rollout)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_attention_that_is_nan_where_the_logits_are_not(family: str) -> None:
    """What goes wrong in the last layer at one token reaches no other."""
    model = copy.deepcopy(tiny_model(family))

    def spoil(_module, _inputs, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(1, torch.tensor([9]), torch.nan)

    model.model.layers[1].self_attn.q_proj.register_forward_hook(spoil)
    local = LocalModel(model, tiny_tokenizer())
    with pytest.raises(NonFiniteError, match="attention"):
        fold_attention(local, IDS, start(), rollout)
    expected = slow_rollout(reported(family))[[12]]
    torch.testing.assert_close(fold_attention(local, IDS, start(asked=[12]), rollout), expected, rtol=1e-5, atol=1e-6)


def test_a_model_in_training_mode() -> None:
    model = copy.deepcopy(tiny_model("llama")).train()
    with pytest.raises(ModelError, match=r"model\.eval"):
        fold_attention(LocalModel(model, tiny_tokenizer()), IDS, start(), rollout)


def broken_hook(*_):
    raise RuntimeError("broken")


def broken_step(*_):
    raise RuntimeError("broken")


@pytest.mark.usefixtures("untyped")  # the type checker of the tests draws random numbers
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("where", ["nowhere", "model", "step"])
def test_nothing_is_left_behind(family: str, where: str) -> None:
    model = copy.deepcopy(tiny_model(family))
    if where == "model":
        model.base_model.get_submodule("h" if family == "gpt2" else "layers")[1].register_forward_hook(broken_hook)
    local = LocalModel(model, tiny_tokenizer())
    before, functions = snapshot(model, tiny_tokenizer()), dict(vars(functional))
    if where == "nowhere":
        fold_attention(local, IDS, start(), rollout)
    else:
        with pytest.raises(RuntimeError, match="broken"):
            fold_attention(local, IDS, start(), broken_step if where == "step" else rollout)
    assert differences(before, snapshot(model, tiny_tokenizer())) == []
    assert dict(vars(functional)) == functions
    assert modes() == []


def test_other_threads_are_not_seen() -> None:
    """A model that another thread asks meanwhile, with a text as long."""
    model = copy.deepcopy(tiny_model("llama"))
    other = tiny_model("qwen2")

    def ask_other(*_) -> None:
        thread = threading.Thread(target=lambda: other(torch.tensor([IDS[::-1]]), use_cache=False))
        thread.start()
        thread.join()

    model.model.layers[1].register_forward_pre_hook(ask_other)
    found = fold_attention(LocalModel(model, tiny_tokenizer()), IDS, start(), rollout)
    torch.testing.assert_close(found, slow_rollout(reported("llama"))[ASKED], rtol=1e-5, atol=1e-6)


def test_under_inference_mode() -> None:
    model = LocalModel(tiny_model("llama"), tiny_tokenizer())
    expected = fold_attention(model, IDS, start(), rollout)
    with torch.inference_mode():
        assert torch.equal(fold_attention(model, IDS, start(), rollout), expected)
