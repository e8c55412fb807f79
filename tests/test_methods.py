"""What every discovered method must do, and the promises that each makes. A new method is tested with no edit here."""

from __future__ import annotations

import copy
import json
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from attribution.errors import CapabilityError, InputError, MissingExtraError, ModelError, UnknownMethodError
from attribution.explainer import explain
from attribution.local_problem import LocalProblem
from attribution.method import LAWS, Method, build_method, list_methods
from attribution.methods.expected_gradients import ExpectedGradients
from attribution.methods.gim import GIM
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.interactions import Interactions
from attribution.methods.leave_one_out import LeaveOneOut
from attribution.methods.saliency import Saliency
from attribution.methods.smooth_grad import SmoothGrad
from attribution.models.local import LocalModel
from attribution.problem import Problem, here
from attribution.prompts.prompt import divide
from attribution.prompts.source import text_source
from attribution.prompts.units import check_units
from attribution.result import Attribution
from attribution.target import Contrast, named_target, read_output
from tests.games import and_game, linear_game, or_game
from tests.tiny import tiny_tokenizer

PROMPT = "Sam has 3 apples and Sam has 5 apples."
SHORT = "Sam has 3 apples and 5"
"""Of six words: every mask of them is soon asked."""
NOT_LINEAR = {"context_cite", "hierarchical", "interactions"}
"""Methods whose scores of a sum are not the sum of the scores: of log-odds, or where the targets decide what is asked
or what a sparse fit has."""
ALWAYS_AS_MANY = {"leave_one_out", "exact_shapley", "banzhaf", "kernel_shap"}
"""Of the methods that ask masks, those that ask as many as they said of few units; others may draw a mask again."""
METHODS = [method.name for method in list_methods()]

every_method = pytest.mark.parametrize("name", METHODS)


def prompt_for(name: str) -> str:
    """A prompt of few enough units for the method, even when they are tokens and those of the output count too."""
    return SHORT if build_method(name).max_units is None else "Sam has 3"


def attribute(method: Method, problem: Problem, seed: int = 0) -> torch.Tensor:
    return method.attribute(problem, np.random.default_rng(seed))


def problem_on(model: LocalModel, text: str = PROMPT, output: str = " The answer", **options) -> LocalProblem:
    division = check_units(options.pop("units", "word"))
    prompt = divide(text_source(text), model.codec.encode(text), division)
    ids = model.codec.encode_output(text, prompt.encoding.ids, output)
    return LocalProblem(model, prompt, read_output(ids, named_target("logprob")), **options)


# Conformance


@every_method
@pytest.mark.parametrize("units", ["token", "word"])
def test_shape_and_finiteness(name: str, units: str, llama: LocalModel, gpt2: LocalModel) -> None:
    for model in (llama, gpt2):
        result = explain(model, prompt_for(name), output=" The answer is", method=name, units=units)
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


@pytest.mark.slow
@every_method
def test_the_same_seed_gives_the_same_numbers(name: str, llama: LocalModel) -> None:
    method = build_method(name)
    text = PROMPT if method.max_units is None else "Sam has 3"  # long enough for methods that sample
    first, again = (attribute(method, problem_on(llama, text), seed=3) for _ in range(2))
    assert torch.equal(first, again)
    if "deterministic" in method.laws:
        assert torch.equal(first, attribute(method, problem_on(llama, text), seed=4))


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


@pytest.mark.slow
@every_method
def test_batch_size_changes_nothing(name: str, llama: LocalModel) -> None:
    """One text at a time gives what all of them at once do."""
    method = build_method(name)
    large = attribute(method, problem_on(llama, SHORT))
    small = attribute(method, problem_on(llama, SHORT, tokens_at_once=1))
    assert torch.allclose(large, small, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every_method
def test_no_output_is_a_cause_of_itself_or_of_earlier_ones(name: str, llama: LocalModel) -> None:
    problem = problem_on(llama, prompt_for(name), units="token", output_units=True)
    method = build_method(name)
    scores = attribute(method, problem)[:, -problem.n_targets :]
    if {"dummy", "deterministic"} & method.laws:  # else a sample's noise is in the score of a unit that does nothing
        assert torch.triu(scores).abs().max() < 1e-5  # what the method itself says, up to rounding
    elif method.targets is None and problem.errors is not None:  # then it is no larger than its error allows
        errors = problem.errors[:, -problem.n_targets :]
        assert (torch.triu(scores).abs() <= 5 * errors + 1e-5).all()
    result = explain(llama, prompt_for(name), output=" The answer", method=name, units="token")
    assert result.output_scores is not None
    assert not np.triu(result.output_scores).any()


@pytest.mark.slow
@every_method
def test_round_trip(name: str, llama: LocalModel, tmp_path) -> None:
    result = explain(llama, prompt_for(name), output=" The", method=name, units="token")
    result.save(tmp_path / "r.safetensors")
    assert Attribution.load(tmp_path / "r.safetensors").to_dict() == result.to_dict()


@every_method
def test_cost_is_what_was_said(name: str) -> None:
    game, method = linear_game(), build_method(name)
    attribute(method, game)
    if name == "integrated_gradients":  # on a straight way it takes no more than its first steps
        method = IntegratedGradients(tolerance=None)
    said = method.cost(game.n_units, game.n_targets)
    assert said.forwards <= 2**game.n_units or method.needs != {"value"}  # the same mask costs nothing again
    if method.needs == {"value"} and name not in ALWAYS_AS_MANY:
        assert 2 <= game.cost.forwards <= said.forwards
        game.cost.forwards = said.forwards
    assert said == game.cost


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
    assert torch.allclose(attribute(build_method(name), game).float(), game.worth.T, atol=1e-5)


@promising("complete")
def test_complete(name: str) -> None:
    game = linear_game()
    difference = game.value(game.everything()) - game.value(~game.everything())
    assert torch.allclose(attribute(build_method(name), game).sum(1).float(), difference[0], atol=1e-5)


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
    ids, output = list(llama.codec.encode(PROMPT).ids), [o.id for o in result.outputs]
    full = logprobs(llama.model, ids, output)
    assert [o.logprob for o in result.outputs] == pytest.approx(full, abs=1e-4)
    for index, unit in enumerate(result.units):
        if unit.special:
            assert not result.scores[:, index].any()  # never removed
            continue
        kept = ids[: unit.first_token] + ids[unit.last_token :]
        expected = np.array(full) - np.array(logprobs(llama.model, kept, output))
        assert result.scores[:, index] == pytest.approx(expected, abs=1e-4)


# One row for the output as a whole


@pytest.mark.slow
@every_method
def test_a_span_is_the_output_as_a_whole(name: str, llama: LocalModel) -> None:
    """Where scores are linear in the target, those of the sum are the sum of those; one product for each pass."""
    method = IntegratedGradients(tolerance=None) if name == "integrated_gradients" else build_method(name)
    rows, span = (
        explain(llama, prompt_for(name), output=" The answer", method=method, units="token", per_output=each)
        for each in (True, False)
    )
    assert span.scores.shape == (1, len(span.units))
    assert np.array_equal(span.total(), span.scores[0])
    if name in NOT_LINEAR:
        return
    assert span.cost["forwards"] == rows.cost["forwards"]
    assert span.cost["backwards"] * len(span.outputs) == rows.cost["backwards"]
    if method.signed or name == "attention_rollout":
        assert np.allclose(span.total(), rows.total(), atol=1e-4 * np.abs(rows.scores).max())
        assert span.output_scores is not None
        assert rows.output_scores is not None
        if {"dummy", "deterministic"} & method.laws:  # else the noise of no cause was taken out of the rows alone
            assert np.allclose(span.output_scores[0], rows.output_scores.sum(0), atol=1e-4 * np.abs(rows.scores).max())
    else:  # a norm of the sum is at most the sum of the norms
        assert (span.total() <= rows.total() * (1 + 1e-5)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["prob", "logit", "entropy", Contrast(), Contrast(" An"), Contrast("3", instead_of="The")]
)
@every_method
def test_every_target(name: str, target, llama: LocalModel) -> None:
    method = build_method(name)
    if method.targets is not None:
        with pytest.raises(CapabilityError, match=f"{name} explains the target .*, got "):
            explain(llama, SHORT, output=" The answer", method=name, target=target)
        return
    result = explain(llama, SHORT, output=" The answer", method=name, target=target)
    assert np.isfinite(result.scores).all()
    assert result.scores.any()


# Paths and samples in embedding space


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": "padding"},
        {"baseline": "mean"},
        {"baseline": "text", "text": "."},
        {"baseline": "text", "text": "Sam has 5 apples and Sam has 3 apples."},
    ],
)
@pytest.mark.parametrize("units", ["token", "word"])
def test_integrated_gradients_are_complete(options: dict, units: str, llama: LocalModel, gpt2: LocalModel) -> None:
    for model in (llama, gpt2):
        method = IntegratedGradients(tolerance=0.01, **options)
        result = explain(model, PROMPT, output=" The answer", method=method, units=units)
        notes = result.notes
        assert notes["steps"] > 1
        largest = max(map(abs, notes["difference"]))
        assert max(notes["completeness_error"]) <= 0.01 * largest
        total = result.scores.sum(1)
        if result.output_scores is not None:
            total = total + result.output_scores.sum(1)
        assert total == pytest.approx(notes["difference"], abs=0.011 * largest)
        assert not result.scores[:, [unit.special for unit in result.units]].any()


def test_the_difference_is_that_of_the_ends(llama: LocalModel) -> None:
    """The prompt as it is, and with every token in the place of another, read by the model itself."""
    from tests.reference import logprobs

    other = "Sam has 5 apples and Sam has 3 apples."
    method = IntegratedGradients(baseline="text", text=other, steps=2, tolerance=None)
    result = explain(llama, PROMPT, output=" The answer", method=method)
    output = [token.id for token in result.outputs]
    ends = [logprobs(llama.model, list(llama.codec.encode(text).ids), output) for text in (PROMPT, other)]
    assert result.notes["difference"] == pytest.approx(np.subtract(*ends).tolist(), abs=1e-4)


def test_more_steps_make_a_smaller_error(llama: LocalModel) -> None:
    errors = []
    for steps in (4, 64):
        result = explain(
            llama, PROMPT, output=" The", method=IntegratedGradients(steps=steps, tolerance=None), per_output=False
        )
        assert result.notes["steps"] == steps
        assert result.cost["forwards"] == steps + 2
        errors.append(result.notes["completeness_error"][0])
    assert errors[1] < errors[0] / 4
    short = explain(llama, PROMPT, output=" The", method=IntegratedGradients(steps=2, tolerance=1e-9, max_steps=10))
    assert short.notes["steps"] == 10  # it says what it reached, and that this was not enough
    assert short.notes["converged"] is False
    assert "not converged: allow more steps" in str(short)


@pytest.mark.slow
def test_integrated_gradients_converge_where_nearly_everything_happens_near_the_baseline(demo: LocalModel) -> None:
    """The embedded model's norms make the target jump within a thousandth of the way from zero embeddings."""
    question = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    for per_output in (True, False):
        found = explain(demo, question, method=IntegratedGradients(max_steps=1024), per_output=per_output)
        assert found.notes["converged"]
        assert max(found.notes["completeness_error"]) <= 0.05 * max(map(abs, found.notes["difference"]))
    fine = explain(
        demo, question, method=IntegratedGradients(tolerance=0.002, max_steps=4096), per_output=False
    ).total()
    assert float(np.corrcoef(found.total(), fine)[0, 1]) > 0.98


@pytest.mark.usefixtures("untyped")
def test_options_of_other_libraries_become_numbers(llama: LocalModel) -> None:
    """A result can be saved whatever its method's options were written in."""
    for method in (
        IntegratedGradients(steps=np.int64(4), tolerance=np.float32(0.5)),
        SmoothGrad(samples=np.int32(2), noise=np.float32(0.1)),
        GIM(temperature=np.float64(3)),
    ):
        result = explain(llama, PROMPT, output=" The", method=method)
        assert json.loads(json.dumps(result.to_dict()))["method"]["options"] == result.method["options"]


def test_smooth_grad_with_hardly_any_noise_is_saliency(llama: LocalModel) -> None:
    plain = explain(llama, PROMPT, output=" The answer", method=Saliency(norm="l2"))
    smooth = explain(llama, PROMPT, output=" The answer", method=SmoothGrad(noise=1e-6, norm="l2"))
    ordinary = [not unit.special for unit in plain.units]
    assert smooth.scores[:, ordinary] == pytest.approx(plain.scores[:, ordinary], rel=1e-3)
    # A special token does not move; how much it matters is told all the same.
    special = [unit.special for unit in plain.units]
    assert smooth.scores[:, special] == pytest.approx(plain.scores[:, special], rel=1e-3)
    noisy = explain(llama, PROMPT, output=" The answer", method=SmoothGrad(noise=0.3, norm="l2"))
    assert not np.allclose(noisy.scores, smooth.scores, rtol=0.1)


def test_expected_gradients_add_up_to_the_expected_difference(llama: LocalModel) -> None:
    """Many samples come near the target here minus its mean over prompts of random tokens."""
    problem = problem_on(llama, output=" The")
    scores = attribute(ExpectedGradients(samples=400), problem).sum(1)
    baselines = [problem.baseline("random", seed=seed) for seed in range(200)]
    places = [here, *(lambda e, b=b: (b, e.new_ones(())) for b in baselines)]
    values = problem.value_at(places)
    expected = values[0] - values[1:].mean(0)
    assert torch.allclose(scores, expected, atol=0.25 * float(expected.abs().max()))
    few = attribute(ExpectedGradients(samples=2), problem_on(llama, output=" The"), seed=1).sum(1)
    assert not torch.allclose(few, scores, rtol=1e-3)  # it is a sample


def test_relevance_adds_up_to_the_logit(llama: LocalModel) -> None:
    """Conservation, through the public door; special tokens and earlier output tokens take their part."""
    result = explain(llama, PROMPT, output=" The answer", method="cp_lrp", target="logit", units="token")
    assert result.output_scores is not None
    ids = torch.tensor([[*llama.codec.encode(PROMPT).ids, *(token.id for token in result.outputs)]])
    with torch.no_grad():
        logits = llama.model(ids).logits[0]
    for t, token in enumerate(result.outputs):
        logit = float(logits[ids.shape[1] - len(result.outputs) + t - 1, token.id])
        assert result.scores[t].sum() + result.output_scores[t].sum() == pytest.approx(logit, rel=1e-4)


def test_rollout_shares_out_one(llama: LocalModel) -> None:
    result = explain(llama, PROMPT, output=" The answer", method="attention_rollout", units="token")
    assert result.output_scores is not None
    assert result.scores.sum(1) + result.output_scores.sum(1) == pytest.approx(1, abs=1e-5)
    assert not result.method["signed"]
    assert result.method["unit"] == "share of attention"


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(baseline="zeros"), "zero, padding, mean, text, got 'zeros'"),
        (lambda: IntegratedGradients(baseline="text"), "goes with"),
        (lambda: IntegratedGradients(text="."), "goes with"),
        (lambda: IntegratedGradients(steps=0), "steps as a whole number from 1 on, got 0"),
        (lambda: IntegratedGradients(steps=1024), "max_steps as a whole number from 1024 on, got 512"),
        (lambda: IntegratedGradients(baseline=np.zeros(3)), "Expected a baseline"),
        (lambda: IntegratedGradients(baseline="text", text=["a"]), "goes with"),
        (lambda: IntegratedGradients(tolerance="0.1"), "tolerance above 0, got '0.1'"),
        (lambda: IntegratedGradients(tolerance=True), "got True"),
        (lambda: SmoothGrad(noise=None), "got None"),
        (lambda: SmoothGrad(noise=1e300), "at most 100"),
        (lambda: GIM(temperature=10**400), "temperature above 0"),
        (lambda: IntegratedGradients(tolerance=0), "tolerance above 0"),
        (lambda: SmoothGrad(samples=0), "samples as a whole number from 1 on"),
        (lambda: SmoothGrad(noise=0), "noise above 0"),
        (lambda: SmoothGrad(norm="l3"), "got 'l3'"),
        (lambda: ExpectedGradients(samples=1.5), "got 1.5"),
        (lambda: GIM(temperature=0), "got 0"),
    ],
)
def test_bad_options(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_baselines_that_do_not_fit(llama: LocalModel) -> None:
    two = IntegratedGradients(baseline="text", text="Sam has")
    with pytest.raises(InputError, match=r"1 token or of \d+, as many as the prompt has, got \d+ in 'Sam has'"):
        explain(llama, PROMPT, output=" The", method=two)
    tokenizer = type(tiny_tokenizer())(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    with pytest.raises(InputError, match="no padding token"):
        explain((llama.model, tokenizer), PROMPT, output=" The", method=IntegratedGradients(baseline="padding"))
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([f"<{i}>" for i in range(320)])
    tokenizer.pad_token = "<319>"  # beyond the model's embedding
    with pytest.raises(ModelError, match=r"gave id \d+ and the model's embedding has 320 rows"):
        explain((llama.model, tokenizer), PROMPT, output=" The", method=IntegratedGradients(baseline="padding"))


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


# Optional packages


@every_method
def test_a_package_that_is_missing_is_said_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, game = build_method(name), linear_game()
    for package in ("sklearn", "shapiq"):
        monkeypatch.setitem(sys.modules, package, None)
    if method.extra is None:
        method.check(game)
        attribute(method, game)
        return
    with pytest.raises(MissingExtraError, match=rf'{name} needs .* pip install "llm-attribution\[{method.extra}\]"'):
        method.check(game)
    assert game.cost.forwards == 0


def test_the_oracle_needs_shapiq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(MissingExtraError, match=r'by="shapiq" needs .* pip install "llm-attribution\[shapiq\]"'):
        attribute(Interactions(by="shapiq"), linear_game())
