"""The engines against the slow references, on every architecture family."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from attribution.engine import backward
from attribution.engine.ablation import ablated_scores
from attribution.errors import ModelError, NonFiniteError
from attribution.models.local import LocalModel
from attribution.target import named_target
from tests import reference
from tests.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

PROMPT = [2, 40, 41, 60, 41, 77, 90, 120, 33, 50]
OUTPUT = [70, 41, 200, 5]


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Largest difference relative to the largest entry."""
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def gradients(*arguments, **options) -> torch.Tensor:
    return backward.gradients(*arguments, **options)[0]


def local(family: str, dtype: torch.dtype = torch.float32) -> LocalModel:
    return LocalModel(tiny_model(family, dtype), tiny_tokenizer())


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
    for name, reduce in (("logprob", lambda g, e: (g * e).sum(-1)), ("entropy", lambda g, _: g.norm(dim=-1))):
        found = gradients(model, PROMPT, OUTPUT, named_target(name), reduce)
        assert close(found, slow_gradients(model.model, name, reduce))
    _, logprobs = backward.gradients(model, PROMPT, OUTPUT, named_target(name), reduce)
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
            gradients(model, PROMPT, OUTPUT, named_target("logprob"), reduce, weights=row[None])
            for row in torch.eye(len(OUTPUT))
        ]
    )
    assert close(found, alone, 2e-2)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_ablated_prompts_in_bfloat16(family: str) -> None:
    keep = torch.rand(8, len(PROMPT) + len(OUTPUT), generator=torch.Generator().manual_seed(1)) < 0.7
    keep[:, len(PROMPT) :] = True
    found = ablated(local(family, torch.bfloat16), keep)
    assert found.dtype == torch.float32
    for mask, row in zip(keep, found, strict=True):
        kept = [token for token, there in zip(PROMPT, mask, strict=False) if there]
        alone = torch.tensor(reference.logprobs(tiny_model(family, torch.bfloat16), kept, OUTPUT))
        assert close(row, alone, 5e-2)


def test_float16_carries_the_gradient_of_a_probability_near_zero() -> None:
    """Unscaled, these gradients are below what float16 has numbers for, and every score would be 0."""
    sure = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        sure.model.norm.weight *= 3
    exact = LocalModel(sure, tiny_tokenizer())
    half = LocalModel(copy.deepcopy(sure).half(), tiny_tokenizer())
    unlikely = [int(i) for i in half.logits(torch.tensor([PROMPT]))[0, -1].argsort()[:1]]
    norm = lambda g, _: g.norm(dim=-1)  # noqa: E731
    found, logprobs = backward.gradients(half, PROMPT, unlikely, named_target("prob"), norm)
    assert logprobs.exp() < 1e-6
    expected = gradients(exact, PROMPT, unlikely, named_target("prob"), norm)
    assert torch.cosine_similarity(found, expected) > 0.99


def test_weights_mix_the_outputs_before_the_reduction() -> None:
    model = local("llama")
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, -1.0]])
    signed = lambda g, e: (g * e).sum(-1)  # noqa: E731 - linear in the gradient, so rows must add up
    single = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed)
    mixed = gradients(model, PROMPT, OUTPUT, named_target("logprob"), signed, weights=weights)
    assert close(mixed, weights @ single)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing(chunk: int) -> None:
    model = local("gemma")
    norm = lambda g, _: g.norm(dim=-1)  # noqa: E731
    whole = gradients(model, PROMPT, OUTPUT, named_target("prob"), norm)
    assert close(gradients(model, PROMPT, OUTPUT, named_target("prob"), norm, chunk=chunk), whole)


def test_an_operation_without_a_batching_rule(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Falls back to single products, gives the same numbers, and says so once at debug level."""
    model = local("llama")
    norm = lambda g, _: g.norm(dim=-1)  # noqa: E731
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
            found = gradients(model, PROMPT, OUTPUT, named_target("prob"), norm, chunk=2)
    finally:
        handle.remove()
    assert close(found, expected)
    assert sum("no batched" in record.message for record in caplog.records) == 1


def ablated(model: LocalModel, keep: torch.Tensor, **options: int) -> torch.Tensor:
    return ablated_scores(model, PROMPT, OUTPUT, keep, named_target("logprob"), **options)[0]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_ablated_prompts_on_every_architecture(family: str) -> None:
    model = local(family)
    keep = torch.rand(12, len(PROMPT) + len(OUTPUT), generator=torch.Generator().manual_seed(1)) < 0.6
    keep[:, len(PROMPT) :] = True
    keep[0] = True
    keep[1:4] = keep[4]  # the same mask several times
    expected = []
    for mask in keep:
        kept = [token for token, there in zip(PROMPT, mask, strict=False) if there]
        expected.append(reference.logprobs(model.model, kept, OUTPUT))
    assert close(ablated(model, keep), torch.tensor(expected))
    assert close(ablated(model, keep, batch_tokens=1), torch.tensor(expected))


@pytest.mark.parametrize("gone", range(len(OUTPUT)))
def test_a_deleted_output_token(gone: int) -> None:
    """It changes what comes after it only, which is then predicted from the tokens that are left."""
    model = local("llama")
    keep = torch.ones(1, len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    keep[0, len(PROMPT) + gone] = False
    expected = reference.logprobs(model.model, PROMPT, OUTPUT)
    after = reference.logprobs(model.model, [*PROMPT, *OUTPUT[:gone]], OUTPUT[gone + 1 :])
    expected[gone + 1 :] = after
    assert close(ablated(model, keep), torch.tensor([expected]))


def test_nothing_kept_starts_from_the_start_token() -> None:
    model = local("llama")
    keep = torch.zeros(2, len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    keep[:, len(PROMPT) :] = True
    # As long as the first, but not empty: one token of the prompt and one output token less.
    keep[1, 3], keep[1, len(PROMPT) + 1] = True, False
    found = ablated(model, keep)
    assert close(found[:1], torch.tensor([reference.logprobs(model.model, [model.start_id], OUTPUT)]))
    expected = reference.logprobs(model.model, [PROMPT[3]], OUTPUT)
    expected[2:] = reference.logprobs(model.model, [PROMPT[3], OUTPUT[0]], OUTPUT[2:])
    assert close(found[1:], torch.tensor([expected]))


def test_no_start_token() -> None:
    tokenizer = type(tiny_tokenizer())(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    model = LocalModel(tiny_model("llama"), tokenizer)
    keep = torch.zeros(1, len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
        ablated(model, keep)


def test_logits_that_are_not_finite() -> None:
    broken = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        broken.get_output_embeddings().weight[OUTPUT[1]] = float("inf")
    model = LocalModel(broken, tiny_tokenizer())
    keep = torch.ones(1, len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    with pytest.raises(NonFiniteError):
        ablated(model, keep)
    with pytest.raises(NonFiniteError):
        gradients(model, PROMPT, OUTPUT, named_target("logprob"), lambda g, _: g.norm(dim=-1))
