"""Ablated prompts against prompts that are written without the parts, on every architecture family."""

from __future__ import annotations

import copy

import pytest
import torch

from attribution.engine.ablation import ablated_scores
from attribution.errors import ModelError, NonFiniteError
from attribution.models.local import LocalModel
from attribution.target import named_target
from tests import reference
from tests.tiny import ARCHITECTURES, close, local, tiny_model, tiny_tokenizer

PROMPT = [2, 40, 41, 60, 41, 77, 90, 120, 33, 50]
OUTPUT = [70, 41, 200, 5]


def ablated(model: LocalModel, keep: torch.Tensor, **options: int) -> torch.Tensor:
    return ablated_scores(model, PROMPT, OUTPUT, keep, named_target("logprob"), **options)[0]


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
    keep = torch.ones(1, len(PROMPT) + len(OUTPUT), dtype=torch.bool)
    with pytest.raises(NonFiniteError):
        ablated(LocalModel(broken, tiny_tokenizer()), keep)
