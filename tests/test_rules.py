"""Backward rules: what they give against relevance handed down by hand, and that no part is left out in silence."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.activations import ACT2FN
from transformers.models.llama import modeling_llama
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from attribution.engine.rules import ATTN_LRP, CP_LRP, PLAIN, Rules, gim
from attribution.engine.rules_mode import RulesMode
from attribution.errors import CapabilityError, InputError
from attribution.explainer import explain
from tests import relevance
from tests.tiny import ARCHITECTURES, InFloat64, tiny_model, tiny_tokenizer

SETS = (CP_LRP, ATTN_LRP, gim())
IDS = list(range(5, 22))
# Gemma 2 caps its attention scores, which only eager attention can.
ATTENTIONS = [(f, a) for f in ARCHITECTURES for a in ("sdpa", "eager") if (f, a) != ("gemma2", "sdpa")]
every_family = pytest.mark.parametrize("family", ARCHITECTURES)
every_attention = pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
every_set = pytest.mark.parametrize("rules", SETS, ids=lambda rules: rules.name)


@cache
def model_of(family: str, attention: str, dtype: torch.dtype = torch.float64):
    model = copy.deepcopy(tiny_model(family)).to(dtype).requires_grad_(False)
    model.set_attn_implementation(attention)
    if family == "mixtral" and dtype == torch.float64:
        model.set_experts_implementation("eager")  # there is no grouped_mm of float64
    if family == "gpt2":  # position embeddings are constants and would take their part of the relevance
        model.transformer.wpe.weight.zero_()
    return model


def forward(model, rules: Rules | None, ids=IDS, around=nullcontext, **options):
    """Logits [token, vocabulary], the embeddings they depend on [1, token, embed], and the mode."""
    layer = model.get_input_embeddings()
    embeddings = layer(torch.tensor([ids])).detach().requires_grad_(True)
    handle = layer.register_forward_hook(lambda *_: embeddings)
    try:
        with around(), nullcontext() if rules is None else RulesMode(rules) as mode:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False, **options).logits[0]
    finally:
        handle.remove()
    return logits, embeddings, mode


def relevances(model, rules: Rules | None, target: int, **options) -> Tensor:
    """Input x gradient of the last token's logit: [token, embed]."""
    logits, embeddings, _ = forward(model, rules, **options)
    (gradient,) = torch.autograd.grad(logits[-1, target], embeddings)
    return (gradient * embeddings).detach()[0]


def slope(function: Callable[[Tensor], Tensor], x: Tensor, rules: Rules = CP_LRP) -> tuple[Tensor, Tensor]:
    """Values of the function and its derivative under the rules."""
    x = x.clone().requires_grad_(True)
    with RulesMode(rules):
        y = function(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def no_mode_left() -> bool:
    return not _get_current_function_mode_stack()


# Rule sets


def test_what_rules_need():
    assert PLAIN.changes_nothing
    assert Rules("mine").changes_nothing
    assert not any(rules.changes_nothing for rules in SETS)
    assert not Rules(temperature=2.0).changes_nothing
    assert gim().temperature == 2
    assert gim(1.0).temperature == 1
    assert Rules(gate="half").needed == {"gate", "activation"}
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            gim(temperature)


@every_attention
def test_every_part_is_bound_and_no_value_changes(family, attention):
    model = model_of(family, attention)
    before, _, _ = forward(model, None)
    for rules in SETS:
        after, _, mode = forward(model, rules)
        torch.testing.assert_close(after, before, atol=1e-10, rtol=0)
        mode.check(layers=2, mixture=family == "mixtral")
        gated = family not in ("gpt2", "gpt_neox")
        experts = 4 if family == "mixtral" else 1  # each of them has an activation, a gate and a place in the router
        assert mode.bound["attention"] == 2
        assert mode.unspent == mode.unknown == 0
        assert mode.bound["norm"] >= 5  # two in every block and one after them
        assert mode.bound["activation"] == 2 * experts
        assert mode.bound["gate"] == 2 * experts * gated
        assert mode.bound["router"] == 2 * experts * (family == "mixtral")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_family
def test_no_value_changes_in_other_precisions(family, dtype):
    model = model_of(family, "eager", dtype)
    before, _, _ = forward(model, None)
    for rules in SETS:
        assert torch.equal(forward(model, rules)[0], before)


@every_attention
def test_cp_lrp_conserves(family, attention):
    """The tiny models have no biases other than 0."""
    model = model_of(family, attention)
    logits, _, _ = forward(model, None, around=InFloat64)
    target = int(logits[-1].abs().argmax())
    found = relevances(model, CP_LRP, target, around=InFloat64)
    assert found.sum() / logits[-1, target].item() == pytest.approx(1, abs=1e-6)


@every_attention
def test_both_attentions_and_the_true_gradient(family, attention):
    """Rules that change nothing, applied all the same, give the true gradient; both attentions give the same."""
    model, other = model_of(family, attention), model_of(family, "eager")
    torch.testing.assert_close(relevances(model, PLAIN, 7), relevances(model, None, 7), atol=1e-12, rtol=1e-9)
    for rules in SETS:
        first, second = (relevances(m, rules, 7, around=InFloat64) for m in (model, other))
        torch.testing.assert_close(first, second, atol=1e-10, rtol=1e-7)


# Against relevance that is handed down by hand


def with_biases(model):
    """Random ones, so that what they take is seen, and norms with weights other than 1."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
        if "norm" in name or "ln_" in name:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.double().eval().requires_grad_(False)


def one_llama():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=64, num_hidden_layers=1, initializer_range=0.2, attention_bias=True, mlp_bias=True, **shape
    )
    return with_biases(LlamaForCausalLM(config))


def one_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32, initializer_range=0.2)
    return with_biases(GPT2LMHeadModel(config))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("build", "by_hand"), [(one_llama, relevance.llama), (one_gpt2, relevance.gpt2)])
@pytest.mark.parametrize("rules", [CP_LRP, ATTN_LRP], ids=lambda rules: rules.name)
def test_relevance_is_that_of_the_papers(rules, build, by_hand, attention):
    model = build()
    model.set_attn_implementation(attention)
    expected, logit = by_hand(model, IDS, 7, rules.name)
    logits, _, _ = forward(model, None, around=InFloat64)
    torch.testing.assert_close(logits[-1, 7], logit)  # the model by hand is the model
    found = relevances(model, rules, 7, around=InFloat64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-8)


class Softer(torch.autograd.Function):
    """Softmax with the derivative that Edin et al. 2025 write: the weights in it are those of a softer softmax."""

    @staticmethod
    def forward(ctx, scores, temperature):
        ctx.softer = (scores / temperature).softmax(-1)
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx, grad):
        return ctx.softer * (grad - (ctx.softer * grad).sum(-1, keepdim=True)), None


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
def test_gim_softens_the_derivative_of_attention(monkeypatch, temperature):
    def attend(module, query, key, value, attention_mask, scaling, **_):
        for tensor, share in ((query, 0.25), (key, 0.25), (value, 0.5)):
            tensor.register_hook(partial(torch.mul, share))
        key, value = (t.repeat_interleave(module.num_key_value_groups, 1) for t in (key, value))
        scores = query @ key.mT * scaling + attention_mask
        return (Softer.apply(scores, temperature) @ value).transpose(1, 2), None

    sdpa, eager = (relevances(model_of("llama", a), gim(temperature), 7) for a in ("sdpa", "eager"))
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attend)
    others = Rules(norm="freeze", gate="half")
    expected = relevances(model_of("llama", "eager"), others, 7)
    torch.testing.assert_close(eager, expected, atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(sdpa, expected, atol=1e-8, rtol=1e-5)


def test_temperature_softens_masks_that_are_numbers():
    """A bias of the scores is part of what the softmax softens, also where it comes as a mask."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 5, 8, dtype=torch.float64)
    bias = torch.randn(1, 1, 5, 5, dtype=torch.float64)
    found = []
    for fused in (True, False):
        q = query.clone().requires_grad_(True)
        with RulesMode(Rules(temperature=2.0)) as mode:
            if fused:
                y = functional.scaled_dot_product_attention(q, key, value, bias, scale=0.3)
            else:
                y = torch.softmax(q @ key.mT * 0.3 + bias, -1) @ value
        assert mode.bound["attention"] == 1
        found += [y.detach(), torch.autograd.grad(y.square().sum(), q)[0]]
    torch.testing.assert_close(found[:2], found[2:])


@every_set
@pytest.mark.parametrize("causal", [True, False])
def test_every_way_to_call_fused_attention(rules, causal):
    """Heads that share keys, arguments by name or position, and a mask that depends on the input like the scores."""
    torch.manual_seed(0)
    query, into = torch.randn(2, 1, 4, 6, 8, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, 6, 8, dtype=torch.float64)
    bias = None if causal else torch.randn(1, 1, 6, 6, dtype=torch.float64)
    fused = functional.scaled_dot_product_attention

    def by_name(q, k, v, b):
        return fused(key=k, query=q, value=v, attn_mask=b, is_causal=causal, enable_gqa=True, dropout_p=0.0)

    def by_position(q, k, v, b):
        return fused(q, k, v, b, 0.0, causal, enable_gqa=True)

    def spelled_out(q, k, v, b):
        hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
        scores = q @ k.repeat_interleave(2, 1).mT / 8**0.5
        scores = scores.masked_fill(hidden, -torch.inf) if b is None else scores + b
        return torch.matmul(scores.softmax(-1), v.repeat_interleave(2, 1))

    def gradients(function):
        leaves = [t if t is None else t.clone().requires_grad_(True) for t in (query, key, value, bias)]
        with RulesMode(rules) as mode:
            y = function(*leaves)
        assert mode.bound["attention"] == 1
        wanted = [leaf for leaf in leaves if leaf is not None]
        return [y, *torch.autograd.grad(y, wanted, into, allow_unused=True, materialize_grads=True)]

    expected = gradients(spelled_out)
    torch.testing.assert_close(gradients(by_name), expected)
    torch.testing.assert_close(gradients(by_position), expected)


# Mixtures of experts


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
def test_router(experts):
    block: MixtralSparseMoeBlock = copy.deepcopy(tiny_model("mixtral").model.layers[0].mlp).requires_grad_(False)
    block.experts.config = copy.deepcopy(block.experts.config)
    block.experts.config._experts_implementation = experts
    torch.manual_seed(0)
    x = torch.randn(1, 6, 32)
    into = torch.randn(1, 6, 32)

    def by_hand(x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [token, chosen] of the experts that are chosen, and what they write [token, chosen, embed]."""
        weights, chosen = functional.linear(x[0], block.gate.weight).softmax(-1).topk(2)
        weights = weights / weights.sum(-1, keepdim=True)
        gate, up = torch.einsum("th,eoh->teo", x[0], block.experts.gate_up_proj).chunk(2, -1)
        wrote = torch.einsum("teo,eho->teh", functional.silu(gate) * up, block.experts.down_proj)
        return weights, wrote.take_along_dim(chosen[..., None], 1)

    def gradient(function) -> Tensor:
        leaf = x.clone().requires_grad_(True)
        return torch.autograd.grad(function(leaf), leaf, into)[0]

    def block_under(rules: Rules) -> Callable[[Tensor], Tensor]:
        def compute(x):
            with RulesMode(rules) as mode:
                y = block(x)
            mode.check(layers=1, mixture=True)
            return y

        return compute

    def mixture(constant: str) -> Callable[[Tensor], Tensor]:
        def compute(x):
            weights, wrote = by_hand(x)
            weights, wrote = (
                weights.detach() if constant == "weights" else weights,
                wrote.detach() if constant == "wrote" else wrote,
            )
            return (weights[..., None] * wrote).sum(1)[None]

        return compute

    through_experts, through_router = gradient(mixture("weights")), gradient(mixture("wrote"))
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
    close(gradient(block), through_experts + through_router)
    close(gradient(block_under(Rules(router="detach"))), through_experts)
    close(gradient(block_under(Rules(router="half"))), (through_experts + through_router) / 2)


def test_a_router_by_sigmoids():
    """The weights are gathered and divided by their sum in place, as DeepSeek's are."""
    torch.manual_seed(0)
    logits, wrote = torch.randn(5, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)

    def mixture(logits: Tensor) -> Tensor:
        scores = logits.sigmoid()
        weights = scores.gather(1, scores.topk(2).indices)
        weights /= weights.sum(-1, keepdim=True)
        varying = logits.sum() * 0 + wrote
        return varying[0] * (weights * 2.5)[:, :1] + (weights * 2.5)[:, 1, None] * varying[1]

    _, true = slope(mixture, logits, PLAIN)
    for rules, share in ((CP_LRP, 0), (ATTN_LRP, 0.5)):
        with RulesMode(rules) as mode:
            mixture(logits.clone().requires_grad_(True))
        assert dict(mode.bound) == {"router": 2}
        torch.testing.assert_close(slope(mixture, logits, rules)[1], share * true)


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
def test_every_computation_of_experts_is_bound(experts):
    model = copy.deepcopy(tiny_model("mixtral")).requires_grad_(False)
    model.set_experts_implementation(experts)
    target = int(forward(model, None)[0][-1].abs().argmax())
    for rules in SETS:
        logits, _, mode = forward(model, rules)
        mode.check(layers=2, mixture=True)
    found = relevances(model, CP_LRP, target)
    assert found.sum() / logits[-1, target].item() == pytest.approx(1, abs=1e-4)


# Activations, in every spelling and precision

# Around 0, where a division would fail, and far out, where x^3 is more than float16 holds.
POINTS = torch.tensor([0.0, -0.0, 1e-30, -1e-7, 6e-8, 1e-4, -1e-3, 0.02, 0.5, -1.0, 2.0, -3.0, 8.0, 60.0, -60.0, 3e3])
SQUASHED = {
    "silu": (functional.silu, torch.sigmoid),
    "gelu": (functional.gelu, lambda x: torch.special.ndtr(x)),
    "gelu_tanh": (
        partial(functional.gelu, approximate="tanh"),
        lambda x: torch.sigmoid(1.5957691216057308 * (x + 0.044715 * x**3)),
    ),
    "mish": (functional.mish, lambda x: functional.softplus(x).tanh()),
    "relu": (functional.relu, lambda x: (x > 0).to(x)),
}
SPELLED_OUT = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "silu by hand": "silu",
    "silu by hand in float32": "silu",
}


def by_name(name: str) -> Callable[[Tensor], Tensor]:
    by_hand = {
        "silu by hand": lambda x: x * torch.sigmoid(x),
        "silu by hand in float32": lambda x: torch.sigmoid(x.float()).type_as(x) * x,
        "mish by hand": lambda x: x * functional.softplus(x).tanh(),
    }
    return by_hand[name] if name in by_hand else SQUASHED[name][0] if name in SQUASHED else ACT2FN[name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*SQUASHED, *SPELLED_OUT, "mish by hand"])
def test_an_activation_is_x_times_a_constant(name, dtype):
    x = POINTS.to(dtype)
    function = by_name(name)
    with RulesMode(CP_LRP) as mode:
        function(x.clone().requires_grad_(True) * 1)
    assert mode.bound["activation"] == 1
    assert mode.unknown == 0
    value, found = slope(function, x)
    assert torch.equal(value, function(x))
    _, ratio = SQUASHED[SPELLED_OUT.get(name, name.removesuffix(" by hand"))]
    assert found.isfinite().all()
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    near = partial(torch.testing.assert_close, found.double(), ratio(x.double()))
    if name in SQUASHED:
        near(atol=tiny, rtol=2 * eps if dtype.itemsize == 2 else 64 * eps)  # half precision is rounded once, at the end
    else:  # as exact as the model's own steps and constants
        wide = "float32" in name or dtype.itemsize == 4
        near(atol=1e-7 if wide and dtype.itemsize > 2 else max(10 * eps, 1e-10), rtol=10 * eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_ratios(dtype):
    x = POINTS.to(dtype)
    exact = x.double()
    near = partial(torch.testing.assert_close, atol=4 * torch.finfo(dtype).eps, rtol=4 * torch.finfo(dtype).eps)
    _, cap = slope(lambda x: 30 * torch.tanh(x / 30), x)
    near(cap.double(), torch.where(exact == 0, 1, 30 * torch.tanh(exact / 30) / exact))
    _, quick = slope(ACT2FN["quick_gelu"], x)
    near(quick.double(), torch.sigmoid(1.702 * exact), atol=0.01 if dtype.itemsize == 2 else 1e-12)
    x = x.clamp(max=100)  # whose square float16 holds
    for squared in (ACT2FN["relu2"], lambda x: x.relu() ** 2, lambda x: torch.relu(x).pow(2.0)):
        _, found = slope(squared, x)
        near(found.double(), x.double().relu())


def test_spelled_out_activations_gate_too():
    torch.manual_seed(0)
    x = torch.randn(7, 8, dtype=torch.float64)
    for name in (*SPELLED_OUT, *SQUASHED):
        function = by_name(name)

        def gated(x, function=function):
            gate, up = x.chunk(2, -1)
            return up * function(gate)

        for rules in (CP_LRP, ATTN_LRP):
            with RulesMode(rules) as mode:
                gated(x.clone().requires_grad_(True))
            assert mode.bound["gate"] == mode.bound["activation"] == 1, name
            _, found = slope(gated, x, rules)
            gate, up = x.chunk(2, -1)
            ratio = SQUASHED[SPELLED_OUT.get(name, name)][1](gate)
            expected = torch.cat([up * ratio / 2, gate * ratio / 2], -1)
            expected = torch.cat([0 * up, gate * ratio], -1) if rules is CP_LRP else expected
            torch.testing.assert_close(found, expected)


def test_a_sigmoid_gates_what_has_its_size():
    x = torch.randn(3, 8, dtype=torch.float64)
    _, found = slope(lambda x: x[:, :4] * torch.sigmoid(x[:, 4:]), x)
    torch.testing.assert_close(found, torch.cat([torch.sigmoid(x[:, 4:]), torch.zeros(3, 4)], -1))


# Norms


def test_a_norm_is_no_gate():
    _, _, mode = forward(model_of("qwen3", "sdpa"), Rules("mine", gate="half"))
    mode.check(layers=2, mixture=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_norms_with_a_constant_scale(dtype):
    torch.manual_seed(0)
    x = (20 * torch.randn(5, 8) + 400).to(dtype)  # the square of which is more than float16 holds
    weight, bias, into = torch.randn(3, 8).to(dtype)
    exact, w = x.double(), (weight * into).double()
    rms, std = exact.square().mean(-1, keepdim=True).sqrt(), exact.std(-1, correction=0, keepdim=True)

    def check(function, expected):
        value, found = slope(lambda x: function(x) * into, x)
        assert torch.equal(value, function(x) * into)
        eps = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), expected, rtol=eps, atol=eps * float(expected.abs().max()))

    check(lambda x: functional.rms_norm(x, (8,), weight, 0.0), w / rms)
    check(lambda x: functional.rms_norm(x, (8,)) * weight, w / (rms**2 + torch.finfo(dtype).eps).sqrt())
    check(lambda x: functional.layer_norm(x, (8,), weight, bias, eps=0.0), (w - w.mean()) / std)
    check(nn.LayerNorm(8, eps=0.0, dtype=dtype, elementwise_affine=False), (into - into.mean()).double() / std)
    if dtype == torch.float64:
        for power in (torch.rsqrt, lambda x: torch.pow(x, -0.5), lambda x: x**-0.5):
            check(lambda x, power=power: x * power(x.pow(2).mean(-1, keepdim=True)) * weight, w / rms)


# How the engine differentiates


@every_family
def test_batched_products_are_single_ones(family):
    model = model_of(family, "eager" if family == "gemma2" else "sdpa", torch.float32)
    for rules in SETS:
        logits, embeddings, _ = forward(model, rules)
        rows = torch.eye(320)[[7, 100, 300]][:, None] * torch.eye(17)[[-1, 3, 9]][..., None]
        (batched,) = torch.autograd.grad(logits, embeddings, rows, retain_graph=True, is_grads_batched=True)
        single = [torch.autograd.grad(logits, embeddings, row, retain_graph=True)[0] for row in rows]
        torch.testing.assert_close(batched, torch.stack(single), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
@every_set
def test_checkpointed_layers_keep_the_rules(family, rules):
    model = copy.deepcopy(model_of(family, "eager"))
    expected = relevances(model, rules, 7)
    layers = model.transformer.h if family == "gpt2" else model.model.layers
    entered = []

    def contexts():
        entered.append(RulesMode(rules))
        return nullcontext(), entered[-1]

    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    torch.testing.assert_close(relevances(model, rules, 7), expected, atol=1e-12, rtol=1e-9)
    assert len(entered) == 2
    assert all(mode.bound["attention"] == 1 for mode in entered)


def test_nothing_is_kept_alive():
    x = torch.randn(4, 4, requires_grad=True)
    with RulesMode(ATTN_LRP) as mode:
        activated = functional.silu(x)
        known = weakref.ref(activated)
        assert len(mode.marks) == 1
        del activated
    assert known() is None
    assert len(mode.marks) == 0


# What is not recognised


class Unseen(nn.Module):
    def forward(self, x):
        return x / (1 + torch.exp(-x))


class UnseenNorm(nn.Module):
    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


class UnseenGate(nn.Module):
    """One factor is no activation, the other none either."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return functional.silu(self.mlp.down_proj(functional.softplus(self.mlp.gate_proj(x)) * self.mlp.up_proj(x)))


def softmax_by_hand(module, query, key, value, attention_mask, scaling, **_):
    key, value = (t.repeat_interleave(module.num_key_value_groups, 1) for t in (key, value))
    shares = torch.exp(query @ key.mT * scaling + attention_mask)
    return (shares @ value / shares.sum(-1, keepdim=True)).transpose(1, 2), None


def one_attention_of_two(module, query, key, value, attention_mask, scaling, **_):
    """Recognised once per layer, as it should be, and not in the other half of it."""
    found, _ = product_by_einsum(module, query, key, value, attention_mask, scaling)
    key, value = (t.repeat_interleave(module.num_key_value_groups, 1) for t in (key, value))
    return found + functional.scaled_dot_product_attention(query, key, value, attention_mask).transpose(1, 2), None


def product_by_einsum(module, query, key, value, attention_mask, scaling, **_):
    key, value = (t.repeat_interleave(module.num_key_value_groups, 1) for t in (key, value))
    weights = torch.softmax(query @ key.mT * scaling + attention_mask, -1)
    return torch.einsum("bhqk,bhkd->bqhd", weights, value), None


@every_set
@pytest.mark.parametrize("attend", [softmax_by_hand, product_by_einsum, one_attention_of_two])
def test_unseen_attention(monkeypatch, attend, rules):
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attend)
    _, _, mode = forward(model_of("llama", "eager"), rules)
    with pytest.raises(CapabilityError, match=rf"^{rules.name} .* attention, in 2 of 2 layers.*sdpa.*leave_one_out"):
        mode.check(layers=2, mixture=False)


@every_set
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("activation, in 1 of 2", lambda layer: setattr(layer.mlp, "act_fn", Unseen())),
        ("norm, in 1 of 2", lambda layer: [setattr(layer, n, UnseenNorm()) for n in NORMS]),
        ("no rule for 1 of the products", lambda layer: setattr(layer, "mlp", UnseenGate(layer.mlp))),
    ],
)
def test_unseen_parts(part, change, rules):
    model = copy.deepcopy(model_of("llama", "sdpa"))
    change(model.model.layers[1])
    if "norm" in part:
        model.model.norm = UnseenNorm()
        model.model.layers[0].post_attention_layernorm = UnseenNorm()
    _, _, mode = forward(model, rules)
    with pytest.raises(CapabilityError, match=f"{part}.*input_x_gradient or leave_one_out"):
        mode.check(layers=2, mixture=False)


NORMS = ("input_layernorm", "post_attention_layernorm")


def test_products_that_are_not_known():
    x = torch.randn(3, 4, requires_grad=True)
    with RulesMode(ATTN_LRP) as mode:
        y = functional.silu(x)
        up = x + 1
        up *= y
        y * 2 * torch.ones(4)  # a constant is no part of the input
        torch.mul(input=x, other=up.exp())
    assert mode.unknown == 2
    with pytest.raises(CapabilityError, match="no rule for 2 of the products"):
        mode.check(layers=0, mixture=False)


def test_what_is_gated_and_routed_at_once_is_routed():
    torch.manual_seed(0)
    x, scores = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    _, found = slope(lambda scores: x.relu() * scores.softmax(-1)[:, :1], scores, ATTN_LRP)
    _, true = slope(lambda scores: x.relu() * scores.softmax(-1)[:, :1], scores, PLAIN)
    torch.testing.assert_close(found, true)  # x is a constant here
    x.requires_grad_(True)
    for rules, share in ((ATTN_LRP, 0.5), (CP_LRP, 0.0)):
        leaf = scores.clone().requires_grad_(True)
        with RulesMode(rules) as mode:
            y = x.relu() * leaf.softmax(-1)[:, :1]
        assert dict(mode.bound) == {"activation": 1, "router": 1}
        (found,) = torch.autograd.grad(y.sum(), leaf, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(found, share * true)


def test_a_mixture_needs_its_router():
    _, _, mode = forward(model_of("llama", "sdpa"), ATTN_LRP)
    with pytest.raises(CapabilityError, match=r"router, in 2 of 2 layers.*experts_implementation"):
        mode.check(layers=2, mixture=True)
    RulesMode(Rules(norm="freeze")).check(layers=0, mixture=True)  # these rules do not change it


def test_parts_that_the_rules_leave_alone_need_not_be_seen(monkeypatch):
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", softmax_by_hand)
    _, _, mode = forward(model_of("llama", "eager"), Rules("mine", norm="freeze"))
    mode.check(layers=2, mixture=False)


# Nothing is left behind


def test_nothing_is_patched():
    watched = [functional.silu, functional.softmax, functional.scaled_dot_product_attention, Tensor.mul, torch.matmul]
    model = model_of("llama", "sdpa")
    before = relevances(model, None, 7)
    forward(model, ATTN_LRP)
    assert no_mode_left()
    now = [functional.silu, functional.softmax, functional.scaled_dot_product_attention, Tensor.mul, torch.matmul]
    assert all(a is b for a, b in zip(watched, now, strict=True))
    assert torch.equal(relevances(model, None, 7), before)


def test_an_error_in_the_model_leaves_no_mode_behind():
    model = copy.deepcopy(model_of("llama", "sdpa"))

    def fail(*_):
        raise RuntimeError("broken")

    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        forward(model, ATTN_LRP)
    assert no_mode_left()


def test_threads_do_not_see_each_others_rules():
    model = model_of("llama", "sdpa")
    jobs = [CP_LRP, None, ATTN_LRP, None]
    expected = [relevances(model, rules, 7) for rules in jobs]
    inside = threading.Barrier(len(jobs))
    copies = [copy.deepcopy(model) for _ in jobs]  # the hook on the embeddings is the model's, not the thread's
    found: dict[int, Tensor] = {}

    def work(index: int) -> None:
        def meet(*_) -> None:
            inside.wait(timeout=10)

        copies[index].model.layers[0].register_forward_hook(meet)
        found[index] = relevances(copies[index], jobs[index], 7)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, one in enumerate(expected):
        assert torch.equal(found[index], one)


def test_a_norm_in_another_spelling_is_not_overlooked() -> None:
    """More norms are recognised than there are layers; the others are not plain in silence."""
    model = copy.deepcopy(tiny_model("llama"))
    for block in model.model.layers:
        norm = block.input_layernorm
        norm.forward = lambda x, w=norm.weight: w * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    with pytest.raises(CapabilityError, match=r"AttnLRP .*norm"):
        explain((model, tiny_tokenizer()), "Sam has 3 apples.", output=" The", method="attn_lrp")


@pytest.mark.parametrize(
    "product",
    [
        lambda gate, up: torch.einsum("btf,btf->btf", gate, up),
        lambda gate, up: torch.addcmul(torch.zeros(()), gate, up),
        lambda gate, up: gate / (1 / up),
        lambda gate, up: torch.stack([gate, up]).prod(0),
    ],
)
def test_a_gate_in_another_spelling_is_not_overlooked(product) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    for block in model.model.layers:
        mlp = block.mlp
        mlp.forward = lambda x, m=mlp: m.down_proj(product(m.act_fn(m.gate_proj(x)), m.up_proj(x)))
    with pytest.raises(CapabilityError, match="no rule for"):
        explain((model, tiny_tokenizer()), "Sam has 3 apples.", output=" The", method="attn_lrp")
