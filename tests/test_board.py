"""The board chooses what it says it chooses, and counts what passes through a model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attribution.explainer import explain
from attribution.method import build_method
from attribution.models.local import LocalModel
from attribution.planted.families import draw
from benchmarks.board.frontier import frontier
from benchmarks.board.measurement import Measured, costs
from benchmarks.board.pages import markdown, page
from benchmarks.board.passes import counted
from benchmarks.board.sentences import sentences
from benchmarks.board.standing import Board

PROMPT = "Sam has 3 apples."


def measured(family: str, auroc: dict[str, list[float]], passes: dict[str, float]) -> Measured:
    return Measured(
        family=family,
        right=1.0,
        followed=0.99,
        confirmed=200,
        prompts=3,
        own=("saliency", "input_x_gradient", "attn_lrp", "banzhaf", "exact_shapley"),
        values={
            name: {metric: dict(enumerate(numbers)) for metric in ("auroc", "magnitude_auroc")}
            for name, numbers in auroc.items()
        },
        missing={},
        passes={name: 4 * count for name, count in passes.items()},
        passes_of_one=passes,
        times=passes,
    )


AUROC = {
    "random": [0.5, 0.5, 0.5],
    "position": [0.4, 0.6, 0.5],
    "saliency": [0.6, 0.65, 0.7],
    "input_x_gradient": [0.55, 0.6, 0.62],
    "attn_lrp": [0.8, 0.9, 0.85],
    "banzhaf": [0.95, 0.9, 0.97],
    "captum lime": [0.96, 0.99, 0.99],
    "inseq occlusion": [0.1, 0.2, 0.15],
}
PASSES = {"saliency": 2.0, "input_x_gradient": 2.0, "attn_lrp": 2.0, "banzhaf": 300.0, "exact_shapley": 900.0}


@pytest.fixture
def board() -> Board:
    hard = {name: [number - 0.05 for number in numbers] for name, numbers in AUROC.items()}
    return Board(
        [
            measured("single", {**AUROC, "exact_shapley": [1.0, 1.0, 1.0]}, PASSES),
            measured("conjunction", hard, {name: count for name, count in PASSES.items() if name != "exact_shapley"}),
        ]
    )


def test_the_best_are_chosen_of_those_that_have_numbers_everywhere(board: Board) -> None:
    assert board.default == "attn_lrp"
    assert board.careful == "banzhaf"
    assert board.methods[0] == "captum lime"
    assert board.methods[-1] == "exact_shapley"
    assert not board.is_own("captum lime")
    assert not board.is_own("random")


def test_what_it_decides_is_said_in_words(board: Board) -> None:
    text = " ".join(sentences(board))
    assert "at most 4 passes `attn_lrp` finds the planted causes best: AUROC 0.825, in 2.0 passes" in text
    assert "At any cost `banzhaf` does: 0.915, in 300 passes" in text
    assert "It is the default. It is 0.200 ahead of `saliency` (95% interval " in text
    assert (
        "By the size of scores alone, whatever their signs, these would be `attn_lrp` (0.825) and `banzhaf` (0.915)."
        in text
    )
    assert "At the head of the list is `captum lime`" in text
    assert "The better of the plain gradients is `saliency`" in text
    assert "Worse than that, by a paired interval that 0 is not in: `inseq occlusion` (0.125)" in text
    assert "`input_x_gradient`" not in text.split("Worse than that")[1]


def test_means_are_over_families_and_intervals_are_paired(board: Board) -> None:
    assert board.mean("saliency", "auroc") == pytest.approx(0.625)
    assert board.mean("saliency", "auroc", ["single"]) == pytest.approx(0.65)
    low, high = board.interval("attn_lrp", "auroc", "saliency")
    assert 0.1 < low < board.mean("attn_lrp", "auroc") - board.mean("saliency", "auroc") < high < 0.3
    shifted = Board([replace(board.measured[0], values={**board.measured[0].values})])
    assert shifted.interval("saliency", "auroc", "saliency") == (0, 0)


def test_what_was_measured_is_kept(board: Board, tmp_path: Path) -> None:
    whole = replace(board.measured[0], missing={"captum lime": {"it failed": 2}})
    whole.save(tmp_path / "single.json")
    assert Measured.load(tmp_path / "single.json") == whole


def test_it_is_written(board: Board) -> None:
    text = markdown(board)
    for name in (*AUROC, "exact_shapley"):
        assert f"| {name} |" in text
    assert "| single | 200 | 100.0% | 99.0% | 3 |" in text
    picture = frontier(board)
    assert picture.count("attn_lrp") >= 2
    assert "exact_shapley" not in picture  # its mean is over other families


def test_passes_are_counted(llama: LocalModel) -> None:
    with counted(llama.model) as tokens:
        result = explain(llama, PROMPT, output=" The end", method="leave_one_out")
    assert sum(tokens) == result.cost["tokens"] > 0
    length = len(result.prompt_ids) + len(result.outputs) - 1
    explain(llama, PROMPT, output=" The", method="saliency")  # what is tried once on a model is known
    with counted(llama.model) as tokens:
        explain(llama, PROMPT, output=" The end", method="saliency", per_output=False)
    assert sum(tokens) == 2 * length


def test_passes_of_embeddings_are_counted(llama: LocalModel) -> None:
    """As Inseq asks them: with ids that are None."""
    embeddings = llama.model.get_input_embeddings()(torch.tensor([[5, 6, 7]])).detach().requires_grad_()
    with counted(llama.model) as tokens:
        llama.model(input_ids=None, inputs_embeds=embeddings).logits[0, -1, 0].backward()
    assert tokens == [3, 3]
    llama.model.zero_grad(set_to_none=True)


def test_what_one_number_takes_is_what_the_rule_of_four_passes_is_about(demo: LocalModel) -> None:
    """Of methods that ask no ablated prompts."""
    names = ("saliency", "attn_lrp", "attention_rollout", "smooth_grad", "leave_one_out")
    one, seconds = costs(demo, draw("single", seed=1), {name: build_method(name) for name in names})
    assert one == {"saliency": 2.0, "attn_lrp": 2.0, "attention_rollout": 2.0, "smooth_grad": 33.0}
    assert seconds > 0


@pytest.mark.slow
def test_the_page_loads_nothing_and_shows_examples(board: Board) -> None:
    renamed = [
        replace(
            each,
            own=("saliency", "gim"),
            values={
                "gim": each.values["banzhaf"],
                **{name: each.values[name] for name in ("saliency", "random", "position")},
            },
            passes_of_one={"saliency": 2.0, "gim": 2.0},
        )
        for each in board.measured
    ]
    found = Board(renamed)
    text = page(found, frontier(found))
    assert text.count("<iframe") == 3
    assert "two_hops" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text.replace("srcdoc", ""))
    assert "<code>gim</code>" in text
