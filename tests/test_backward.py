"""Gradients against the slow references, on every architecture family, in float64 where numbers can be exact."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor

from attribution.engine import backward, forward
from attribution.engine.forward import here
from attribution.engine.rules import ATTN_LRP, CP_LRP, PLAIN, gim
from attribution.errors import ModelError
from attribution.models.local import LocalModel
from attribution.target import TARGETS, Reading, named_target, read_contrast, read_output, read_runner_up
from tests import reference
from tests.state import differences, snapshot
from tests.tiny import ARCHITECTURES, InFloat64, close, local, tiny_model, tiny_tokenizer

PROMPT = [2, 40, 41, 60, 41, 77, 90, 120, 33, 50]
OUTPUT = [70, 41, 200, 5]


def norm(gradient: Tensor, embeddings: Tensor) -> Tensor:
    return gradient.norm(dim=-1)


def signed(gradient: Tensor, embeddings: Tensor) -> Tensor:
    return (gradient * embeddings).sum(-1)


def gradients(model, prompt, output, target, reduce, **options) -> torch.Tensor:
    return backward.gradients(model, prompt, read_output(tuple(output), target), reduce, **options)[0]


def slow_gradients(model, name: str, reduce) -> torch.Tensor:
    """One forward and one backward per output, the whole text read each time."""
    rows = []
    for t, token in enumerate(OUTPUT):
        ids = [*PROMPT, *OUTPUT[:t]]
        score = named_target(name).score
        found, embeddings = reference.gradient(
            model, ids, lambda logits, token=token, score=score: score(logits[-1:], torch.tensor([token]))[0]
        )
        row = torch.zeros(len(PROMPT) + len(OUTPUT))
        row[: len(ids)] = reduce(found, embeddings)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_gradients_on_every_architecture(family: str) -> None:
    model = local(family)
    for name, reduce in (("logprob", signed), ("entropy", norm)):
        found = gradients(model, PROMPT, OUTPUT, named_target(name), reduce)
        assert close(found, slow_gradients(model.model, name, reduce))
    _, logprobs = backward.gradients(model, PROMPT, read_output(tuple(OUTPUT), named_target(name)), reduce)
    assert close(logprobs, torch.tensor(reference.logprobs(model.model, PROMPT, OUTPUT)))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_gradients_in_bfloat16(family: str) -> None:
    """Rows agree with one at a time to what bfloat16 can say, and are reduced in float32."""
    model = local(family, torch.bfloat16)

    def reduce(gradient: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        assert gradient.dtype == embeddings.dtype == torch.float32
        return gradient.norm(dim=-1)

    found = gradients(model, PROMPT, OUTPUT, named_target("logprob"), reduce)
    assert found.dtype == torch.float32
    alone = torch.cat(
        [
            gradients(model, PROMPT, OUTPUT, named_target("logprob"), reduce, rows=row[None])
            for row in torch.eye(len(OUTPUT))
        ]
    )
    assert close(found, alone, 2e-2)


def test_float16_carries_the_gradient_of_a_probability_near_zero() -> None:
    """Unscaled, these gradients are below what float16 has numbers for, and every score would be 0."""
    sure = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        sure.model.norm.weight *= 3
    exact = LocalModel(sure, tiny_tokenizer())
    half = LocalModel(copy.deepcopy(sure).half(), tiny_tokenizer())
    unlikely = [int(i) for i in half.logits(torch.tensor([PROMPT]))[0, -1].argsort()[:1]]
    found, logprobs = backward.gradients(half, PROMPT, read_output(tuple(unlikely), named_target("prob")), norm)
    assert logprobs.exp() < 1e-6
    expected = gradients(exact, PROMPT, unlikely, named_target("prob"), norm)
    assert torch.cosine_similarity(found, expected) > 0.99


def test_weights_mix_the_outputs_before_the_reduction() -> None:
    model = local("llama")
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, -1.0]])
    single = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed)
    mixed = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, rows=weights)
    assert close(mixed, weights @ single)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing(chunk: int) -> None:
    model = local("gemma")
    whole = gradients(model, PROMPT, OUTPUT, named_target("prob"), norm)
    assert close(
        gradients(
            model, PROMPT, OUTPUT, named_target("prob"), norm, tokens_at_once=chunk * (len(PROMPT) + len(OUTPUT) - 1)
        ),
        whole,
    )


def test_an_operation_without_a_batching_rule(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Falls back to single products, gives the same numbers, and says so once at debug level."""
    model = local("llama")
    expected = gradients(model, PROMPT, OUTPUT, named_target("prob"), norm)

    class Unbatched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float(grad.sum() == grad.sum())  # depends on a value: vmap refuses it

    handle = model.model.model.norm.register_forward_hook(lambda _m, _i, output: Unbatched.apply(output))
    try:
        with caplog.at_level(logging.DEBUG, logger="attribution"):
            found = gradients(model, PROMPT, OUTPUT, named_target("prob"), norm, tokens_at_once=26)
    finally:
        handle.remove()
    assert close(found, expected)
    assert sum("no batched" in record.message for record in caplog.records) == 1


# Against central differences

READINGS = {
    **{name: read_output(tuple(OUTPUT), target) for name, target in TARGETS.items()},
    "runner-up": read_runner_up(tuple(OUTPUT), (9, 8, 7, 6)),
    "another text": read_contrast(tuple(OUTPUT), [(70, 41, 100, 90, 7)], 0, 4),
    "several, shorter and longer": read_contrast(tuple(OUTPUT), [(70, 99), (70, 41, 200, 5, 60, 3), (8,)], 0, 4),
    "in place of a part": read_contrast(tuple(OUTPUT), [(70, 80, 81)], 1, 2),
}


def slopes(model: LocalModel, reading: Reading, step: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Central differences of every output's target as each token of prompt and output moves along a direction.

    Every text is a forward pass of its own, written out; where the texts begin alike, they move alike.
    """
    width = model.model.get_input_embeddings().weight.shape[1]
    directions = torch.randn(len(PROMPT) + len(OUTPUT) - 1, width, generator=torch.Generator().manual_seed(3)).double()
    layer = model.model.get_input_embeddings()

    def number(moved: int, by: float) -> Tensor:
        read: dict[int, Tensor] = {}
        for text, ids in enumerate(reading.texts):
            shared = len(PROMPT) + next(
                (i for i, (a, b) in enumerate(zip(ids, OUTPUT, strict=False)) if a != b), min(len(ids), 4)
            )
            embeddings = layer(torch.tensor([[*PROMPT, *ids]])).clone()
            if moved < shared:
                embeddings[0, moved] += by * directions[moved]
            handle = layer.register_forward_hook(lambda *_, e=embeddings: e)
            try:
                read[text] = model.model(input_ids=torch.tensor([[*PROMPT, *ids]]), use_cache=False).logits[0]
            finally:
                handle.remove()
        items = [
            reading.target.score(read[text][len(PROMPT) - 1 + place][None], torch.tensor([token]))[0]
            for (text, place), token in zip(reading.places, reading.ids, strict=True)
        ]
        return reading.weights.double() @ torch.stack(items).double()

    with torch.no_grad():
        columns = [(number(i, step) - number(i, -step)) / (2 * step) for i in range(len(directions))]
    return torch.nn.functional.pad(torch.stack(columns, 1), (0, 1)), directions


@pytest.fixture
def in_float64():
    with InFloat64():
        yield


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_gradients_are_central_differences_on_every_architecture(family: str) -> None:
    model, reading = local(family, torch.float64), READINGS["logprob"]
    expected, directions = slopes(model, reading)
    found, _ = backward.gradients(model, PROMPT, reading, lambda gradient, _: (gradient * directions).sum(-1))
    assert close(found, expected, 1e-6)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", READINGS)
def test_every_target_is_differentiated(name: str) -> None:
    for family in ("llama", "gemma2"):
        model, reading = local(family, torch.float64), READINGS[name]
        expected, directions = slopes(model, reading)
        found, _ = backward.gradients(model, PROMPT, reading, lambda gradient, _, d=directions: (gradient * d).sum(-1))
        assert close(found, expected, 1e-6)
        batched = backward.gradients(model, PROMPT, reading, norm, tokens_at_once=10**6)[0]
        assert close(backward.gradients(model, PROMPT, reading, norm, tokens_at_once=1)[0], batched, 1e-9)


# A span is one product


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_span_is_the_sum_of_its_rows(family: str) -> None:
    model = local(family, torch.float64)
    for rules in (PLAIN, CP_LRP, ATTN_LRP, gim(2.0)):
        rows = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, rules=rules)
        span = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, rules=rules, rows=torch.ones(1, 4))
        assert close(span, rows.sum(0, keepdim=True), 1e-9)


def test_a_span_takes_one_forward_and_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = local("llama")
    gradients(model, PROMPT, OUTPUT, named_target("logprob"), norm)  # the model is probed, once
    forwards, products = [], []

    def count(_module, _inputs, output: Tensor) -> None:
        forwards.append(1)
        output.register_hook(lambda _gradient: products.append(1))

    handle = model.model.model.layers[0].self_attn.q_proj.register_forward_hook(count)
    try:
        gradients(model, PROMPT, [*OUTPUT] * 5, named_target("logprob"), norm, rows=torch.ones(1, 20))
    finally:
        handle.remove()
    assert (len(forwards), len(products)) == (1, 1)


# Places of embedding space


@pytest.mark.usefixtures("in_float64")
def test_places_add_up_times_their_factors() -> None:
    model = local("llama", torch.float64)
    reading = READINGS["several, shorter and longer"]
    generator = torch.Generator().manual_seed(5)
    width = model.model.get_input_embeddings().weight.shape[1]
    moves = 0.3 * torch.randn(5, len(PROMPT) + 3, width, generator=generator).double()
    factors = torch.randn(5, len(PROMPT) + 3, width, generator=generator).double()
    vary = torch.rand(len(PROMPT) + 4, generator=generator) < 0.7
    places = [lambda e, m=m, f=f: (e + m, f) for m, f in zip(moves, factors, strict=True)]

    def at(place) -> Tensor:
        table, _ = backward.gradients(model, PROMPT, reading, signed, places=[place], vary=vary)
        return table

    expected = sum(at(place) for place in places)
    for tokens_at_once in (None, 1):
        found, logprobs = backward.gradients(
            model, PROMPT, reading, signed, places=places, vary=vary, tokens_at_once=tokens_at_once
        )
        assert close(found, expected, 1e-9)
        assert logprobs is None


def test_places_add_up_where_memory_is_scarce() -> None:
    """A place at a time, a row at a time, the blocks computed twice."""
    model = LocalModel(tiny_model("llama"), tiny_tokenizer())
    places = [lambda e, s=s: (s * e, e / 7) for s in range(7)]
    for reduce in (norm, signed):
        model.memory_budget = None
        expected = gradients(model, PROMPT, OUTPUT, named_target("prob"), reduce, places=places)
        model.memory_budget = 1
        assert close(gradients(model, PROMPT, OUTPUT, named_target("prob"), reduce, places=places), expected)


def test_values_at_places() -> None:
    model, reading = local("llama", torch.float64), READINGS["another text"]
    still = torch.zeros(len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    away = lambda e: (torch.zeros_like(e), e.new_ones(()))  # noqa: E731
    found, logprobs = forward.values(model, PROMPT, reading, [here, away], vary=still)
    assert torch.equal(found[0], found[1])  # nothing may move
    own = torch.tensor(reference.logprobs(model.model, PROMPT, OUTPUT))
    other = torch.tensor(reference.logprobs(model.model, PROMPT, list(reading.texts[1])))
    assert torch.allclose(found[0].sum(), own.sum() - other.sum(), atol=1e-5)
    assert torch.allclose(logprobs, own, atol=1e-5)
    found, _ = forward.values(model, PROMPT, reading, [here, away, here], vary=~still)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


# Memory


class Memory:
    """Stands in for a device: products of more than so many rows, or graphs of more than so many texts, do not fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rows: int = 10**6, texts: int = 10**6) -> None:
        self.refused = 0
        product, read = torch.autograd.grad, LocalModel.logits_at

        def grad(outputs, inputs, grad_outputs=None, *args, is_grads_batched=False, **kwargs):
            if is_grads_batched and len(grad_outputs) > rows:
                self.refuse()
            return product(outputs, inputs, grad_outputs, *args, is_grads_batched=is_grads_batched, **kwargs)

        def logits_at(model, ids, *args, **kwargs):
            if len(ids) > texts:
                self.refuse()
            return read(model, ids, *args, **kwargs)

        monkeypatch.setattr(torch.autograd, "grad", grad)
        monkeypatch.setattr(LocalModel, "logits_at", logits_at)

    def refuse(self) -> None:
        self.refused += 1
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_fewer_rows_at_once_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = local("llama")
    expected = gradients(model, PROMPT, OUTPUT, named_target("prob"), norm)
    memory = Memory(monkeypatch, rows=1)
    assert close(gradients(model, PROMPT, OUTPUT, named_target("prob"), norm), expected)
    assert memory.refused == 2  # four rows, then two


def test_fewer_places_at_once_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = local("llama")
    places = [lambda e, s=s: (s * e, e / 7) for s in range(7)]
    for reduce in (norm, signed):
        expected = gradients(model, PROMPT, OUTPUT, named_target("prob"), reduce, places=places)
        with monkeypatch.context() as patch:
            memory = Memory(patch, texts=2)
            found = gradients(model, PROMPT, OUTPUT, named_target("prob"), reduce, places=places)
        assert close(found, expected)
        assert memory.refused == 2  # seven places, then three


def test_fewer_values_at_once_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, reading = local("llama"), READINGS["logprob"]
    places = [here, *(lambda e, s=s: (s * e, e.new_ones(())) for s in range(6))]
    everything = torch.ones(len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    expected, _ = forward.values(model, PROMPT, reading, places, vary=everything)
    memory = Memory(monkeypatch, texts=2)
    assert close(forward.values(model, PROMPT, reading, places, vary=everything)[0], expected)
    assert memory.refused == 2


@pytest.mark.usefixtures("untyped")  # the type checker draws random numbers
def test_not_even_one_row_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = local("llama")
    gradients(model, PROMPT, OUTPUT, named_target("prob"), norm)
    before = snapshot(model.model, model.tokenizer)
    Memory(monkeypatch, texts=0)
    with pytest.raises(ModelError, match=r"Memory does not suffice.*bfloat16"):
        gradients(model, PROMPT, OUTPUT, named_target("prob"), norm)
    assert differences(before, snapshot(model.model, model.tokenizer)) == []


@pytest.mark.usefixtures("untyped")  # the type checker draws random numbers
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_blocks_are_computed_twice_where_they_would_not_fit(family: str) -> None:
    """Gradient checkpointing comes with a small budget, changes no number, and goes again."""
    model = LocalModel(tiny_model(family), tiny_tokenizer())
    computed = []
    handle = model.model.get_submodule(
        "transformer.h.0.mlp" if family == "gpt2" else FIRST_MLP[family]
    ).register_forward_pre_hook(lambda *_: computed.append(1))
    try:
        for rules in (PLAIN, CP_LRP, ATTN_LRP, gim(2.0)):
            model.memory_budget = None
            kept = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, rules=rules)
            del computed[:]
            gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, rules=rules)
            once = len(computed)
            before = snapshot(model.model, model.tokenizer)
            model.memory_budget = 1000
            found = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, rules=rules)
            assert close(found, kept)
            assert len(computed) > 2 * once
            assert differences(before, snapshot(model.model, model.tokenizer)) == []
    finally:
        handle.remove()


FIRST_MLP = dict.fromkeys(ARCHITECTURES, "model.layers.0.mlp") | {"gpt_neox": "gpt_neox.layers.0.mlp"}


def test_what_is_held_does_not_grow_with_the_outputs() -> None:
    """A reduction sees a few rows at a time, whatever T is."""
    model = local("llama")
    held: list[int] = []

    def reduce(gradient: Tensor, embeddings: Tensor) -> Tensor:
        held.append(gradient.numel())
        return gradient.norm(dim=-1)

    for length in (8, 32):
        gradients(model, PROMPT, [70] * length, named_target("logprob"), reduce, tokens_at_once=4 * (9 + length))
        assert max(held) == 4 * (9 + length) * 32
        del held[:]


def test_the_head_reads_only_what_predicts_an_output() -> None:
    for family in ARCHITECTURES:
        model = local(family)
        gradients(model, PROMPT, OUTPUT, named_target("logprob"), norm)
        shapes: list[tuple[int, ...]] = []
        handle = model.model.get_output_embeddings().register_forward_pre_hook(
            lambda _m, inputs, shapes=shapes: shapes.append(tuple(inputs[0].shape))
        )
        try:
            gradients(model, PROMPT, OUTPUT, named_target("logprob"), norm)
        finally:
            handle.remove()
        assert shapes == [(1, len(OUTPUT), 32)]
