"""Dry runs: what is said before is what is spent after."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import attribution as at
from attribution.engine import roads
from attribution.engine.flops import count_flops
from attribution.method import list_methods
from attribution.models.local import LocalModel
from tests.tiny import ARCHITECTURES, local

PROMPT = "Sam has 3 apples and Tom has 5."


@pytest.mark.slow
@pytest.mark.parametrize("name", [method.name for method in list_methods()])
def test_a_dry_run_says_at_most_what_is_spent(name: str, llama: LocalModel) -> None:
    at.explain(llama, PROMPT, output=" The answer", method=name)  # what is tried once on a model is known
    said = at.explain(llama, PROMPT, output=" The answer", method=name, dry_run=True)
    assert isinstance(said, at.Estimate)
    result = at.explain(llama, PROMPT, output=" The answer", method=name)
    assert said.forwards >= result.cost["forwards"]
    assert said.backwards >= result.cost["backwards"]
    assert said.tokens >= 0.9 * result.cost["tokens"] > 0
    assert said.flops > 0
    assert said.seconds > 0
    assert said.bytes > 0 or "attention" in {m.name: m for m in list_methods()}[name].needs
    assert str(said).startswith(f"{name}: at most {said.forwards:,} forwards")
    if name == "leave_one_out":
        assert (said.forwards, said.tokens) == (result.cost["forwards"], result.cost["tokens"])


@pytest.mark.parametrize("target", ["prob", at.Contrast(" An answer")])
def test_what_the_log_probabilities_take_is_said_too(target, llama: LocalModel) -> None:
    options = {"output": " The answer", "target": target}
    at.explain(llama, PROMPT, **options)  # what is tried once on a model is known
    result = at.explain(llama, PROMPT, **options)
    said = at.explain(llama, PROMPT, dry_run=True, **options)
    assert said.forwards >= result.cost["forwards"]
    assert said.tokens >= result.cost["tokens"]


def test_a_dry_run_spends_nothing_on_the_prompt(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    handle = llama.model.register_forward_pre_hook(
        lambda _m, _a, given: lengths.append(given["input_ids"].numel()), with_kwargs=True
    )
    said = at.explain(llama, PROMPT * 5, method="leave_one_out", max_new_tokens=4, dry_run=True)
    handle.remove()
    assert lengths == [96, 96]  # the short text by which the speed is known, twice
    assert said.forwards > 30  # an output of as many tokens as are allowed was assumed


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_operations_are_counted_as_torch_counts_them(family: str) -> None:
    model = local(family)
    if family == "mixtral":  # the grouped product is not counted
        model = LocalModel(copy.deepcopy(model.model), model.tokenizer)
        model.model.set_experts_implementation("eager")
    ids = torch.arange(3, 43)[None]
    with torch.no_grad(), model.borrowed(), FlopCounterMode(display=False) as counter:
        model.logits_of(ids, torch.tensor([39]))
    # Attention is counted where it is a matrix product, and in the fused kernel not on every device.
    without = count_flops(model).forward(40, 0, 1)
    complete = count_flops(model).forward(40, 40 * 40, 1)
    assert 0.97 * without <= counter.get_total_flops() <= 1.1 * complete


def test_operations_of_leave_one_out(llama: LocalModel) -> None:
    roads._known.clear()
    at.explain(llama, PROMPT, output=" The answer", method="leave_one_out")
    said = at.explain(llama, PROMPT, output=" The answer", method="leave_one_out", dry_run=True)
    with FlopCounterMode(display=False) as counter:
        at.explain(llama, PROMPT, output=" The answer", method="leave_one_out")
    assert 0.6 < counter.get_total_flops() / said.flops < 1.1
