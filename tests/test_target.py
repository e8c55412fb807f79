"""Targets against their definitions."""

from __future__ import annotations

import pytest
import torch

from attribution.errors import InputError
from attribution.explainer import explain
from attribution.models.local import LocalModel
from attribution.target import TARGETS, Contrast, named_target, read_contrast
from tests.reference import logprobs

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
    return sum(logprobs(model.model, list(model.encode(PROMPT).ids), output))


def without_a_word(model: LocalModel, word: str, output: list[int]) -> float:
    """The output's log-probability where the word's ids are gone."""
    result = explain(model, PROMPT, output=output)
    unit = next(unit for unit in result.units if unit.text == word)
    ids = list(model.encode(PROMPT).ids)
    return sum(logprobs(model.model, ids[: unit.first_token] + ids[unit.last_token :], output))


def ids_of(model: LocalModel, output: str) -> list[int]:
    return [token.id for token in explain(model, PROMPT, output=output).outputs]


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
    result = explain(llama, PROMPT, output=output, target=contrast)
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
    ids, output = list(llama.encode(PROMPT).ids), [token.id for token in result.outputs]

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
        explain(llama, PROMPT, output=" The", target=Contrast(" The"))
    with pytest.raises(InputError, match=r"part of the output ' The', got 'apples'"):
        explain(llama, PROMPT, output=" The", target=Contrast("5", instead_of="apples"))
