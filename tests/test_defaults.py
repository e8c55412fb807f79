"""The methods that are taken where none is named: those the board chose, and leave-one-out where they do not suit."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest

from attribution.errors import UnknownMethodError
from attribution.explainer import explain
from attribution.method import CHOSEN, EXACT, build_method, list_methods
from attribution.models.local import LocalModel
from attribution.target import Contrast, Semantic
from tests.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent
PROMPT = "Sam has 3 apples."


def test_they_are_the_best_on_the_board() -> None:
    board = (ROOT / "docs" / "board.md").read_text()
    fast = re.search(r"at most 4 passes `([^`]+)` finds the planted causes best: AUROC (0\.\d+)", board)
    careful = re.search(r"At any cost `([^`]+)` does: (0\.\d+)", board)
    assert fast
    assert careful
    assert {"default": fast[1], "careful": careful[1]} == CHOSEN
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert (
        f"`{fast[1]}` finds the causes best, with an AUROC of {fast[2]} (chance is 0.5): it is the default." in readme
    )
    assert f'At any cost the best is `{careful[1]}`, {careful[2]}: it is `method="careful"`.' in readme


def test_the_default_is_what_its_name_gives(llama: LocalModel) -> None:
    for role, name in CHOSEN.items():
        assert build_method(role) == build_method(name)
        own = explain(llama, PROMPT, output=" The end", method=role)
        assert own.method["name"] == name
        assert np.array_equal(own.scores, explain(llama, PROMPT, output=" The end", method=name).scores)
    assert explain(llama, PROMPT, output=" The end").method["name"] == CHOSEN["default"]
    assert explain(llama, PROMPT, output=" The", target=Contrast(" An")).method["name"] == CHOSEN["default"]


def test_the_default_takes_at_most_four_passes() -> None:
    cost = build_method("default").cost(40, 1)
    assert cost.forwards + cost.backwards <= 4


@pytest.mark.parametrize(
    "options",
    [
        {"ablation": "mask"},
        {"ablate_special": True},
        {"target": Semantic(), "per_output": False},
    ],
)
def test_a_question_of_ablations_has_leave_one_out(options: dict, llama: LocalModel) -> None:
    found = explain(llama, PROMPT, output=" The end", **options)
    assert found.method["name"] == EXACT
    assert np.array_equal(found.scores, explain(llama, PROMPT, output=" The end", method=EXACT, **options).scores)


def test_a_budget_takes_nothing_from_the_default(llama: LocalModel) -> None:
    found = explain(llama, PROMPT, output=" The end", max_forwards=2)
    assert found.method["name"] == CHOSEN["default"]
    assert np.array_equal(found.scores, explain(llama, PROMPT, output=" The end").scores)


def test_what_resumes_goes_on() -> None:
    model = (tiny_model("llama"), tiny_tokenizer())
    first = explain(model, PROMPT, output=" The end", method=EXACT, max_forwards=2)
    whole = explain(model, PROMPT, output=" The end", resume=first)
    assert (first.method["name"], whole.method["name"]) == (EXACT, EXACT)
    assert not whole.notes.get("partial")


def test_a_model_without_gradients_has_leave_one_out_and_is_told_why() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[1].register_forward_hook(lambda _m, _i, output: output.detach())
    found = explain((model, tiny_tokenizer()), PROMPT, output=" The end")
    exact = explain((model, tiny_tokenizer()), PROMPT, output=" The end", method=EXACT)
    assert found.method["name"] == EXACT
    assert found.ablation == "delete"
    assert np.array_equal(found.scores, exact.scores)
    assert f"{EXACT} instead of {CHOSEN['default']}, which needs gradients" in str(found)
    assert "cannot be differentiated" in str(found)
    assert "instead of" not in str(exact)
    assert "instead of" not in str(explain((tiny_model("llama"), tiny_tokenizer()), PROMPT, output=" The end"))


def test_a_slip_is_told_with_these_names_too() -> None:
    with pytest.raises(UnknownMethodError, match=r"default, careful, attention_rollout.*got 'carefull'"):
        build_method("carefull")
    assert not set(CHOSEN) & {method.name for method in list_methods()}
