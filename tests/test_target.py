"""Targets against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from attribution.errors import InputError
from attribution.estimate import estimate
from attribution.explainer import explain
from attribution.local_problem import LocalProblem
from attribution.method import build_method
from attribution.methods.context_cite import ContextCite
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.models.local import LocalModel
from attribution.problem import check_over_outputs, here
from attribution.target import TARGETS, Contrast, Reading, named_target, read_contrast, read_output
from tests.reference import gradient, logprobs
from tests.test_ablation import IDS as PROMPT_IDS
from tests.test_ablation import OUTPUT, UNITS, masks, prompt_of
from tests.tiny import close, local

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]).log()  # probabilities (1, 0, 0) and (0, 1/4, 3/4)
IDS = torch.tensor([0, 1])


def test_known_values() -> None:
    assert named_target("prob").score(LOGITS, IDS).tolist() == pytest.approx([1, 0.25])
    assert named_target("logprob").score(LOGITS, IDS).exp().tolist() == pytest.approx([1, 0.25])
    assert named_target("logit").score(LOGITS, IDS).exp().tolist() == pytest.approx([2, 1])
    entropy = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert named_target("entropy").score(LOGITS, IDS).tolist() == pytest.approx([0, float(entropy)])


def test_the_log_probability_of_what_is_all_but_certain() -> None:
    """In float32 the logit minus the logarithm of the sum is 0 long before the others' probability is."""
    logits = torch.tensor([[40.0, 0.0, -3.0], [12.0, -9.0, 3.0]])
    exact = logits.double().log_softmax(-1)[:, 0]
    exact[0] = -torch.log1p(torch.tensor([-40.0, -43.0], dtype=torch.float64).exp().sum())
    found = named_target("logprob").score(logits, torch.tensor([0, 0]))
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=0)
    assert found[0] < 0


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
    with pytest.raises(
        InputError, match=r"'logprob', 'prob', 'logit', 'entropy', or in Python a Contrast\(...\), got 'odds'"
    ):
        named_target("odds")


# Contrasts: the answer is written out first, with a forward pass for every token

PROMPT = "Sam has 3 apples."


def scored(model: LocalModel, output: list[int]) -> float:
    return sum(logprobs(model.model, list(model.codec.encode(PROMPT).ids), output))


def without_a_word(model: LocalModel, word: str, output: list[int]) -> float:
    """The output's log-probability where the word's ids are gone."""
    result = explain(model, PROMPT, output=output, method="leave_one_out")
    unit = next(unit for unit in result.units if unit.text == word)
    ids = list(model.codec.encode(PROMPT).ids)
    return sum(logprobs(model.model, ids[: unit.first_token] + ids[unit.last_token :], output))


def ids_of(model: LocalModel, output: str) -> list[int]:
    return [token.id for token in explain(model, PROMPT, output=output, method="leave_one_out").outputs]


@pytest.mark.parametrize(
    ("contrast", "others"),
    [
        (Contrast(" The oranges are"), [" The oranges are"]),
        (Contrast(" The"), [" The"]),
        (Contrast(" The answer is 3 apples.", "5"), [" The answer is 3 apples.", "5"]),
        (Contrast("oranges", instead_of="answer"), [" The oranges is"]),
    ],
)
def test_a_contrast_explains_a_difference_of_log_probabilities(
    contrast: Contrast, others: list[str], llama: LocalModel
) -> None:
    output = " The answer is"
    result = explain(llama, PROMPT, output=output, target=contrast, method="leave_one_out")
    word = next(index for index, unit in enumerate(result.units) if unit.text == "apples")
    part = ids_of(llama, output)
    if contrast.instead_of:  # what follows the part is not asked
        part = part[: len(part) - len(ids_of(llama, " is"))]
        others = [" The oranges"]

    def difference(score) -> float:
        rest = [score(ids_of(llama, other)) for other in others]
        return score(part) - sum(rest) / len(rest)

    gone = difference(lambda ids: without_a_word(llama, "apples", ids))
    assert result.total()[word] == pytest.approx(difference(lambda ids: scored(llama, ids)) - gone, abs=1e-4)
    assert result.target == str(contrast)
    assert result.method["unit"] == "nats"


def test_tokens_that_both_texts_begin_with_get_nothing(llama: LocalModel) -> None:
    shared = len(ids_of(llama, " The"))
    for method in ("leave_one_out", "saliency", "integrated_gradients", "attn_lrp"):
        result = explain(llama, PROMPT, output=" The answer is", target=Contrast(" The oranges"), method=method)
        assert not result.scores[:shared].any()
        assert result.scores[shared:].any(1).all()


def test_the_runner_up(llama: LocalModel) -> None:
    """Every output token against the likeliest other one, after the same text."""
    result = explain(llama, PROMPT, output=" The answer", target=Contrast(), method="leave_one_out")
    ids, output = list(llama.codec.encode(PROMPT).ids), [token.id for token in result.outputs]

    def differences(prompt: list[int], others: list[int]) -> list[float]:
        own = logprobs(llama.model, prompt, output)
        return [own[t] - logprobs(llama.model, [*prompt, *output[:t]], [other])[0] for t, other in enumerate(others)]

    with torch.no_grad():
        logits = llama.model(torch.tensor([[*ids, *output]])).logits[0, len(ids) - 1 : -1]
    logits[range(len(output)), output] = -torch.inf
    others = logits.argmax(-1).tolist()
    unit = next(unit for unit in result.units if unit.text == "3")
    gone = ids[: unit.first_token] + ids[unit.last_token :]
    expected = torch.tensor(differences(ids, others)) - torch.tensor(differences(gone, others))
    assert result.scores[:, result.units.index(unit)] == pytest.approx(expected.numpy(), abs=1e-4)
    assert result.target == "logprob - runner-up"
    assert str(Contrast("5", "7", instead_of="3")) == "logprob - '5' or '7' instead of '3'"


@pytest.mark.parametrize(
    "contrast",
    [
        Contrast(" The answer is 3 apples."),  # it goes on where the output ends
        Contrast(" answer is 3 apples", instead_of=" answer"),  # it goes on as the output does after the asked part
        Contrast(" The answer", " The"),
    ],
)
@pytest.mark.parametrize("method", ["leave_one_out", "input_x_gradient"])
def test_rows_of_a_contrast_add_up_to_the_span(method: str, contrast: Contrast, llama: LocalModel) -> None:
    rows, span = (
        explain(llama, PROMPT, output=" The answer is", method=method, target=contrast, units="token", per_output=each)
        for each in (True, False)
    )
    assert rows.total() == pytest.approx(span.total(), abs=1e-4)
    assert rows.output_scores is not None
    assert span.output_scores is not None
    assert rows.output_scores.sum(0) == pytest.approx(span.output_scores[0], abs=1e-4)


def test_an_output_that_ends_is_compared_with_texts_that_end(demo: LocalModel) -> None:
    question = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    result = explain(demo, question, target=Contrast("\n\nThe answer is 5."), method="input_x_gradient")
    asked = result.outputs[-1]
    assert asked.text == "<eos>"
    # The last token counts only for what the other text's end is less likely than its own.
    by_part = explain(demo, question, target=Contrast("5", instead_of="3"), method="input_x_gradient")
    place = result.output_indices("3")
    assert by_part.scores[place] == pytest.approx(result.scores[place], abs=1e-5)
    others = [row for row in range(len(result.outputs)) if row not in place]
    assert not by_part.scores[others].any()


def test_readings_share_what_texts_begin_with() -> None:
    """Alternatives that differ in their last token only are read off the output's own forward pass."""
    reading = read_contrast((7, 8, 9), [(7, 8, 5), (7, 6)], 0, 3)
    assert reading.texts == ((7, 8, 9),)
    assert read_contrast((7, 8, 9), [(7, 6, 5)], 0, 3).texts == ((7, 8, 9), (7, 6, 5))
    assert torch.equal(reading.weights.sum(1), torch.tensor([0.0, 0.0, 0.5]))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrast(""), "texts"),
        (lambda: Contrast(5), "texts, got \\(5,\\)"),
        (lambda: Contrast(instead_of="3"), "none"),
    ],
)
def test_wrong_contrasts(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_contrasts_that_do_not_fit(llama: LocalModel) -> None:
    with pytest.raises(InputError, match="than the output itself"):
        explain(llama, PROMPT, output=" The", target=Contrast(" The"), method="leave_one_out")
    with pytest.raises(InputError, match=r"part of the output ' The', got 'apples'"):
        explain(llama, PROMPT, output=" The", target=Contrast("5", instead_of="apples"), method="leave_one_out")


# One number for all outputs: slowly, a forward pass for every output token and ablated prompt

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
OVER = {"sum": torch.Tensor.sum, "mean": torch.Tensor.mean, "min": torch.Tensor.min}
over_all = pytest.mark.parametrize("over", OVER)
OTHER = (70, 3, 9)
PLAIN, AGAINST = read_output(OUTPUT, TARGETS["logprob"]), read_contrast(OUTPUT, [OTHER], 0, len(OUTPUT))
both_readings = pytest.mark.parametrize("reading", [PLAIN, AGAINST], ids=["plain", "contrast"])


def one_number(model: LocalModel, over: str, reading: Reading = PLAIN, **options) -> LocalProblem:
    return LocalProblem(model, prompt_of(), reading, per_output=False, over_outputs=over, **options)  # type: ignore


def each_output(model: LocalModel, ids: list[int], reading: Reading) -> torch.Tensor:
    """The numbers of the output tokens; the other text is counted where it arises (see `Contrast`)."""
    own = torch.tensor(logprobs(model.model, ids, list(OUTPUT)))
    other = torch.tensor(logprobs(model.model, ids, list(OTHER))) if reading is AGAINST else torch.zeros(len(OTHER))
    return own - torch.nn.functional.pad(other, (0, len(OUTPUT) - len(OTHER)))


@FAMILIES
@over_all
@both_readings
def test_ablated_prompts_in_one_number(family: str, over: str, reading: Reading) -> None:
    model, keep = local(family), masks()
    found = one_number(model, over, reading)
    assert (found.n_targets, found.n_outputs) == (1, len(OUTPUT) if over == "sum" else 1)
    truth = []
    for mask in keep:
        kept = [
            PROMPT_IDS[start:end] for (start, end), there in zip(UNITS, mask.tolist(), strict=True) if there or end == 1
        ]
        truth.append(OVER[over](each_output(model, [i for part in kept for i in part], reading)))
    assert close(found.value(keep)[:, 0], torch.stack(truth))


@over_all
def test_numbers_of_every_output_in_one(over: str) -> None:
    keep = masks()
    model = local("llama")
    rows = LocalProblem(model, prompt_of(), AGAINST).value(keep)
    assert LocalProblem(model, prompt_of(), AGAINST, over_outputs=over).value(keep).equal(rows)  # type: ignore
    found = one_number(model, over, AGAINST).value(keep)[:, 0]
    reduced = {"sum": rows.sum(1), "mean": rows.mean(1), "min": rows.amin(1)}[over]
    assert found.equal(reduced) if over == "min" else close(found, reduced, 1e-6)
    if over == "sum":  # what is meant where nothing is said
        assert LocalProblem(model, prompt_of(), AGAINST, per_output=False).value(keep)[:, 0].equal(found)


@FAMILIES
@over_all
@pytest.mark.parametrize("target", ["logprob", "prob"])
def test_gradients_of_one_number(family: str, over: str, target: str) -> None:
    model = local(family)
    whole = [*PROMPT_IDS, *OUTPUT][:-1]

    def scalar(logits: torch.Tensor) -> torch.Tensor:
        rows = logits[len(PROMPT_IDS) - 1 :].log_softmax(-1)[range(len(OUTPUT)), list(OUTPUT)]
        return OVER[over](rows if target == "logprob" else rows.exp())

    truth, _ = gradient(model.model, whole, scalar)
    found = one_number(model, over, read_output(OUTPUT, TARGETS[target])).gradients(
        lambda slope, _: slope.square().sum(-1)
    )
    by_unit = torch.stack([truth[start:end].square().sum() for start, end in UNITS])
    assert close(found[0], by_unit, 1e-4)


@both_readings
def test_the_minimum_is_that_of_the_same_token_near_the_prompt(reading: Reading) -> None:
    """So its gradients are of a smooth function, and a path's add up."""
    model = local("llama")
    rows, least = LocalProblem(model, prompt_of(), reading), one_number(model, "min", reading)
    numbers = rows.value(rows.everything())[0]
    smallest = int(numbers.argmin())
    ends = [here, lambda embeddings: (0 * embeddings, embeddings.new_ones(()))]
    if reading is PLAIN:  # at the baseline another one is the smallest
        assert rows.value_at(ends)[1].argmin() != smallest
    assert close(least.value_at(ends)[:, 0], rows.value_at(ends)[:, smallest])
    path = IntegratedGradients(tolerance=1e-3)
    scores = path.attribute(least, np.random.default_rng(0))
    difference = least.value_at(ends)
    assert float(scores.sum()) == pytest.approx(float(difference[0] - difference[1]), rel=5e-3)
    assert close(scores[0], path.attribute(rows, np.random.default_rng(0))[smallest], 1e-2)
    attention = build_method("attention_rollout")
    found = [attention.attribute(each, np.random.default_rng(0)) for each in (rows, one_number(model, "min", reading))]
    assert close(found[0][smallest], found[1][0])


def test_attention_of_a_mean() -> None:
    attention = build_method("attention_rollout")
    rows, mean = (
        attention.attribute(each, np.random.default_rng(0))
        for each in (LocalProblem(local("llama"), prompt_of(), PLAIN), one_number(local("llama"), "mean"))
    )
    assert close(rows.mean(0), mean[0])


def product(problem: LocalProblem) -> None:
    problem.gradients(lambda slope, embeddings: (slope * embeddings).sum(-1))


@both_readings
def test_which_output_is_the_smallest_is_found_out_once(reading: Reading) -> None:
    texts = len(reading.texts)
    fresh = one_number(local("llama"), "min", reading)
    product(fresh)
    assert fresh.cost.forwards == 2 * texts  # the first finds out which
    product(fresh)
    fresh.logprobs()
    assert fresh.cost.forwards == 3 * texts
    asked = one_number(local("llama"), "min", reading)
    asked.value(asked.everything())
    before = asked.cost.forwards
    product(asked)
    assert asked.cost.forwards == before + texts
    read = one_number(local("llama"), "min", reading)
    read.value_at([here])
    product(read)
    assert read.cost.forwards == 2 * texts
    if reading is PLAIN:
        known = one_number(local("llama"), "min")
        known.logprobs()
        product(known)
        assert known.cost.forwards == 2


@over_all
@both_readings
@pytest.mark.parametrize("name", ["leave_one_out", "input_x_gradient", "smooth_grad", "attention_rollout"])
def test_a_dry_run_of_one_number(name: str, over: str, reading: Reading) -> None:
    model, method = local("llama"), build_method(name)
    said = estimate(one_number(model, over, reading), method, np.random.default_rng(0))
    asked = one_number(model, over, reading)
    method.attribute(asked, np.random.default_rng(0))
    asked.logprobs()
    assert said.forwards >= asked.cost.forwards
    assert said.backwards >= asked.cost.backwards
    assert said.tokens >= asked.cost.tokens


@pytest.mark.parametrize("over", ["mean", "min"])
def test_context_cite_of_one_number(over: str) -> None:
    """Its log-odds are those of one probability, not of as many as there are outputs."""
    method = ContextCite(ablations=8, resamples=4, alpha=1e-4)
    asked = one_number(local("llama"), over)
    found = method.attribute(asked, np.random.default_rng(0))
    known = asked.evaluations
    odds = np.log(np.exp(known.values) / (1 - np.exp(known.values)))[1:, 0]
    fit = LinearRegression().fit(known.keep[1:, 1:], odds)
    assert np.corrcoef(fit.predict(known.keep[1:, 1:]), known.keep[1:, 1:] @ found[0, 1:].numpy())[0, 1] > 0.99


def test_no_such_way_to_make_one_number() -> None:
    assert check_over_outputs("min") == "min"
    for wrong in ("max", None, ["sum"]):
        with pytest.raises(InputError, match="Expected over_outputs out of 'sum', 'mean', 'min', got"):
            check_over_outputs(wrong)
