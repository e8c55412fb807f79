"""What every discovered method must do, and the promises that each makes. A new method is tested with no edit here."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from attribution.errors import CapabilityError, InputError, UnknownMethodError
from attribution.explainer import explain
from attribution.method import LAWS, Method, build_method, list_methods
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.leave_one_out import LeaveOneOut
from attribution.methods.saliency import Saliency
from attribution.models.local import LocalModel
from attribution.problem import LocalProblem, Problem
from attribution.prompt import divide
from attribution.result import Attribution
from attribution.target import named_target, read_output
from tests.games import and_game, linear_game, or_game

PROMPT = "Sam has 3 apples and Sam has 5 apples."
METHODS = [method.name for method in list_methods()]

every_method = pytest.mark.parametrize("name", METHODS)


def attribute(method: Method, problem: Problem, seed: int = 0) -> torch.Tensor:
    return method.attribute(problem, np.random.default_rng(seed))


def problem_on(model: LocalModel, text: str = PROMPT, output: str = " The answer", **options) -> LocalProblem:
    prompt = divide(text, model.encode(text), options.pop("units", "word"))
    ids = model.encode_output(text, prompt.encoding.ids, output)
    return LocalProblem(model, prompt, read_output(ids, named_target("logprob")), **options)


# Conformance


@every_method
@pytest.mark.parametrize("units", ["token", "word"])
def test_shape_and_finiteness(name: str, units: str, llama: LocalModel, gpt2: LocalModel) -> None:
    for model in (llama, gpt2):
        result = explain(model, PROMPT, output=" The answer is", method=name, units=units)
        assert result.scores.shape == (len(result.outputs), len(result.units))
        assert result.scores.dtype == np.float32
        assert np.isfinite(result.scores).all()
        assert result.scores.any()
        assert result.method["name"] == name
        if units == "token":
            assert result.output_scores is not None
            assert result.output_scores.shape == (len(result.outputs),) * 2
            assert result.output_scores.any()
        else:
            assert result.output_scores is None


@every_method
def test_the_same_seed_gives_the_same_numbers(name: str, llama: LocalModel) -> None:
    method = build_method(name)
    first, again = (attribute(method, problem_on(llama), seed=3) for _ in range(2))
    assert torch.equal(first, again)
    if "deterministic" in method.laws:
        assert torch.equal(first, attribute(method, problem_on(llama), seed=4))


@every_method
def test_one_unit(name: str, llama: LocalModel, gpt2: LocalModel) -> None:
    for model in (llama, gpt2):  # gpt2's tokenizer adds no BOS: without the unit nothing at all is left
        result = explain(model, "Sam", output=" has", method=name)
        assert [unit.text for unit in result.units if not unit.special] == ["Sam"]
        assert np.isfinite(result.scores).all()


@every_method
def test_repeated_words_have_scores_of_their_own(name: str, llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The", method=name)
    first, second = (index for index, unit in enumerate(result.units) if unit.text == "Sam")
    assert result.scores[0, first] != result.scores[0, second]


@every_method
def test_batch_size_changes_nothing(name: str, llama: LocalModel) -> None:
    method = build_method(name)
    large = attribute(method, problem_on(llama))
    small = attribute(method, problem_on(llama, tokens_at_once=1))
    assert torch.allclose(large, small, rtol=1e-4, atol=1e-5)


@every_method
def test_no_output_is_a_cause_of_itself_or_of_earlier_ones(name: str, llama: LocalModel) -> None:
    problem = problem_on(llama, units="token", output_units=True)
    scores = attribute(build_method(name), problem)[:, -problem.n_targets :]
    assert torch.triu(scores).abs().max() < 1e-5  # what the method itself says, up to rounding
    result = explain(llama, PROMPT, output=" The answer", method=name, units="token")
    assert result.output_scores is not None
    assert not np.triu(result.output_scores).any()


@every_method
def test_round_trip(name: str, llama: LocalModel, tmp_path) -> None:
    result = explain(llama, PROMPT, output=" The", method=name, units="token")
    result.save(tmp_path / "r.safetensors")
    assert Attribution.load(tmp_path / "r.safetensors").to_dict() == result.to_dict()


@every_method
def test_cost_is_what_was_said(name: str) -> None:
    game, method = linear_game(), build_method(name)
    attribute(method, game)
    assert method.cost(game.n_units, game.n_targets) == game.cost


@every_method
def test_description(name: str) -> None:
    method = build_method(name)
    assert method.name == name
    assert method.summary.endswith(".")
    assert method.needs <= {"value", "gradients", "attention"}
    assert method.laws <= set(LAWS)
    assert build_method(method) is method


@every_method
def test_refuses_a_problem_that_lacks_what_it_needs(name: str) -> None:
    method, game = build_method(name), or_game()
    if method.needs <= game.offers:
        method.check(game)
    else:
        with pytest.raises(CapabilityError, match=rf"{name} needs (gradients|attention).*Use .*leave_one_out"):
            method.check(game)


# Laws, on problems whose answers are known


def promising(law: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [method.name for method in list_methods() if law in method.laws])


@promising("dummy")
def test_dummy(name: str) -> None:
    scores = attribute(build_method(name), linear_game())
    assert not scores[:, 3].any()
    assert scores[:, :3].any(1).all()


@promising("additive")
def test_additive(name: str) -> None:
    game = linear_game()
    assert torch.allclose(attribute(build_method(name), game), game.worth.T, atol=1e-5)


@promising("complete")
def test_complete(name: str) -> None:
    game = linear_game()
    difference = game.value(game.everything()) - game.value(~game.everything())
    assert torch.allclose(attribute(build_method(name), game).sum(1), difference[0], atol=1e-5)


@promising("nonnegative")
def test_nonnegative(name: str) -> None:
    assert (attribute(build_method(name), linear_game()) >= 0).all()
    assert not build_method(name).signed


# Known answers of each method


def test_leave_one_out_on_games() -> None:
    assert attribute(LeaveOneOut(), and_game()).tolist() == [[1, 1, 0]]
    assert attribute(LeaveOneOut(), or_game()).tolist() == [[0, 0]]  # each hides behind the other


def test_input_x_gradient_is_exact_where_the_model_is_linear() -> None:
    game = linear_game()
    assert torch.allclose(attribute(InputXGradient(), game), game.worth.T, atol=1e-5)


def test_saliency_is_the_norm_of_the_direction() -> None:
    game = linear_game()
    assert torch.allclose(attribute(Saliency(), game), game.directions.abs().sum(-1))
    assert torch.allclose(attribute(Saliency(norm="l2"), game), game.directions.square().sum(-1).sqrt())


def test_gradients_of_a_word_are_the_sum_of_its_tokens(llama: LocalModel) -> None:
    by_token = explain(llama, PROMPT, output=" The", method="saliency", units="token")
    by_word = explain(llama, PROMPT, output=" The", method="saliency", units="word")
    assert len(by_word.units) < len(by_token.units)
    for index, unit in enumerate(by_word.units):
        expected = by_token.scores[0, unit.first_token : unit.last_token].sum()
        assert by_word.scores[0, index] == pytest.approx(expected, rel=1e-5)


def test_leave_one_out_is_the_drop_against_a_plain_run(llama: LocalModel) -> None:
    from tests.reference import logprobs

    result = explain(llama, PROMPT, output=" The answer", method="leave_one_out")
    ids, output = list(llama.encode(PROMPT).ids), [o.id for o in result.outputs]
    full = logprobs(llama.model, ids, output)
    assert [o.logprob for o in result.outputs] == pytest.approx(full, abs=1e-4)
    for index, unit in enumerate(result.units):
        if unit.special:
            assert not result.scores[:, index].any()  # never removed
            continue
        kept = ids[: unit.first_token] + ids[unit.last_token :]
        expected = np.array(full) - np.array(logprobs(llama.model, kept, output))
        assert result.scores[:, index] == pytest.approx(expected, abs=1e-4)


# Finding methods


def test_unknown_method() -> None:
    with pytest.raises(UnknownMethodError, match=r"leave_one_out.*got 'leave_two_out'"):
        build_method("leave_two_out")


@pytest.mark.usefixtures("untyped")
def test_no_method() -> None:
    with pytest.raises(InputError, match="got int"):
        build_method(3)


@pytest.mark.usefixtures("untyped")
def test_bad_option() -> None:
    with pytest.raises(InputError, match="got 'l3'"):
        Saliency(norm="l3")


def test_a_method_of_ones_own(llama: LocalModel) -> None:
    class Constant(Method):
        """One for every unit."""

        needs: ClassVar = frozenset()
        laws: ClassVar = frozenset()

        def cost(self, n_units, n_targets):
            raise NotImplementedError

        def attribute(self, problem, rng):
            return torch.ones(problem.n_targets, problem.n_units)

    assert explain(llama, PROMPT, output=" The", method=Constant()).total().tolist() == [1] * 11  # ten words and BOS
