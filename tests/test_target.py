"""Targets against their definitions."""

from __future__ import annotations

import pytest
import torch

from attribution.errors import InputError
from attribution.target import TARGETS, named_target

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]).log()  # probabilities (1, 0, 0) and (0, 1/4, 3/4)
IDS = torch.tensor([0, 1])


def test_known_values() -> None:
    assert named_target("prob").score(LOGITS, IDS).tolist() == pytest.approx([1, 0.25])
    assert named_target("logprob").score(LOGITS, IDS).exp().tolist() == pytest.approx([1, 0.25])
    assert named_target("logit").score(LOGITS, IDS).exp().tolist() == pytest.approx([2, 1])
    entropy = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert named_target("entropy").score(LOGITS, IDS).tolist() == pytest.approx([0, float(entropy)])


@pytest.mark.parametrize("name", TARGETS)
def test_batches_and_gradients(name: str) -> None:
    logits = torch.randn(4, 2, 3, requires_grad=True)
    score = named_target(name).score(logits, IDS)
    assert score.shape == (4, 2)
    assert torch.equal(score[1], named_target(name).score(logits[1], IDS))
    score.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_entropy_has_a_finite_gradient_where_a_token_is_impossible() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    named_target("entropy").score(logits, IDS).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="'logprob', 'prob', 'logit', 'entropy', got 'odds'"):
        named_target("odds")
