"""The classic door against an independent, obvious implementation, and its errors."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch

from attribution.errors import ContextWindowError, InputError, ModelError, NonFiniteError
from attribution.local_attribution import LocalLLMAttributor
from tests import reference
from tests.tiny import ARCHITECTURES, WINDOW, tiny_model, tiny_tokenizer

PROMPT = "Sam has 3 apples and Tom has 5 oranges."


def door(family: str = "llama", **options) -> LocalLLMAttributor:
    model = tiny_model(family, options.pop("dtype", torch.float32))
    embeddings = model.get_input_embeddings().weight.detach()
    return LocalLLMAttributor(model=model, tokenizer=tiny_tokenizer(), embeddings=embeddings, **options)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_equals_one_forward_and_one_backward_per_token(family: str) -> None:
    scores, ids = door(family).compute_attributions(input_string=PROMPT, generation_length=7)
    prompt = tiny_tokenizer()(PROMPT)["input_ids"]
    expected, expected_ids = reference.classic_scores(tiny_model(family), prompt, 7)
    assert ids.tolist() == expected_ids
    assert scores.shape == (7, len(prompt) + 7)
    assert scores.dtype == torch.float32
    for row, right in zip(scores, expected, strict=True):
        assert (row - right).abs().max() <= 1e-5 * right.abs().max()
    for t, row in enumerate(scores):
        assert (row[: len(prompt) + t] > 0).sum() >= 8  # a sliding window hides what is far away, the rest all counts
        assert not row[len(prompt) + t :].any()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_bfloat16(family: str) -> None:
    scores, ids = door(family, dtype=torch.bfloat16).compute_attributions(PROMPT, 4)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    # Close to the same text in float32, as far as eight bits of mantissa through two layers go.
    n = len(ids) - 4
    exact, _ = reference.gradient(tiny_model(family), ids[:n].tolist(), lambda logits: logits[-1].softmax(-1)[ids[n]])
    cosine = torch.cosine_similarity(scores[0, :n], exact.abs().sum(-1), dim=0)
    assert cosine > 0.97


def test_generates_past_the_end_of_the_text() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    first = reference.greedy(model, tiny_tokenizer()(PROMPT)["input_ids"], 1)[0]
    model.generation_config.eos_token_id = first
    attributor = LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight)
    scores, ids = attributor.compute_attributions(PROMPT)
    assert len(scores) == 5
    assert ids[-5] == first


def test_one_forward_for_all_rows() -> None:
    """Generation reads the prompt once and each token once; the scores take one more pass over everything."""
    model = copy.deepcopy(tiny_model("llama"))
    lengths: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    attributor = LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight)
    attributor.compute_attributions(PROMPT, 1)  # the first time, the model is probed
    del lengths[:]
    _, ids = attributor.compute_attributions(PROMPT, 6)
    assert lengths == [len(ids) - 6, 1, 1, 1, 1, 1, len(ids) - 1]


def test_no_gradient_reaches_the_parameters() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    attributor = LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight)
    attributor.compute_attributions(PROMPT, 2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_published_normalisation() -> None:
    """The softmax over positions, written out: as many positions as the text had when the token was written."""
    scores, ids = door(target="published").compute_attributions(PROMPT, 4)
    n = len(ids) - 4
    for t in range(4):
        found, _ = reference.gradient(
            tiny_model("llama"),
            ids[: n + t].tolist(),
            lambda logits, token=int(ids[n + t]): logits[:, token].softmax(0)[-1],
        )
        expected = found.abs().sum(-1)
        assert (scores[t, : n + t] - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert not scores[t, n + t :].any()
    assert not torch.allclose(scores, door().compute_attributions(PROMPT, 4)[0])


@pytest.mark.usefixtures("untyped")
def test_a_tokenizer_that_only_gives_ids() -> None:
    model = tiny_model("llama")

    class Plain:
        """Knows no offsets; all that the classic door needs of it is a call."""

        def __call__(self, text: str):
            return {"input_ids": tiny_tokenizer()(text)["input_ids"]}

        def decode(self, ids, **options):
            return tiny_tokenizer().decode(ids, **options)

    attributor = LocalLLMAttributor(model, Plain(), model.get_input_embeddings().weight)
    scores, _ = attributor.compute_attributions(PROMPT, 2)
    assert torch.equal(scores, door().compute_attributions(PROMPT, 2)[0])


def test_embeddings_of_another_precision_are_the_models_own() -> None:
    model = tiny_model("llama", torch.bfloat16)
    LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight.float())


def test_log_level(caplog: pytest.LogCaptureFixture) -> None:
    quiet = door()
    quiet.compute_attributions(PROMPT, 1)
    assert not caplog.records
    door(log_level=logging.INFO).compute_attributions(PROMPT, 1)
    assert "generated" in caplog.text
    door()


def test_cleanup_leaves_it_usable() -> None:
    attributor = door()
    before = attributor.compute_attributions(PROMPT, 2)[0]
    attributor.cleanup()
    assert torch.equal(attributor.compute_attributions(PROMPT, 2)[0], before)


# Printing


def printed(capsys: pytest.CaptureFixture[str], words: list[str] | None = None, length: int = 4, prompt: str = PROMPT):
    attributor = door()
    scores, ids = attributor.compute_attributions(prompt, length)
    words = words or tiny_tokenizer().convert_ids_to_tokens(ids)
    attributor.print_attributions(word_list=words, attr_scores=scores, token_ids=ids, generation_length=length)
    return capsys.readouterr().out, scores, ids


def test_print_shows_the_text_and_every_score(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out, scores, ids = printed(capsys)
    assert out.startswith("<bos>" + PROMPT)
    rows = out.splitlines()[-(len(ids) - 1) :]  # a row per token but the last, which is an input of nothing
    numbers = [re.findall(r"\d\.\d{4}", row) for row in rows]
    for token, found in enumerate(numbers):
        seen = scores[:, token] if token < len(ids) - 4 else scores[token - len(ids) + 5 :, token]
        assert found == [f"{float(score):.4f}" for score in seen]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_print_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out, scores, _ = printed(capsys, length=9)
    assert max(map(len, out.splitlines())) <= width
    assert sum(out.count(f"{float(x):.4f}") > 0 for x in scores[:, 0]) == 9


def test_print_without_colour_has_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in printed(capsys)[0]


def test_print_with_colour(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in printed(capsys)[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(capsys)[0]


def test_print_of_hostile_words(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    hostile = "[red]x[/red] [/] \x1b[2J\x1b]0;t\x07 \u202e a\nb 日本 \ud800"
    prompt = tiny_tokenizer().decode(tiny_tokenizer()(PROMPT)["input_ids"][1:])
    n = len(tiny_tokenizer()(prompt)["input_ids"])
    words = [hostile, "[bold]", "日本語", "\x9b31m", *["w"] * (n - 4), "[link=x]", "\n", "o", "😀"]
    out, _, _ = printed(capsys, words)
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\ud800"} & set(out)
    assert "[bold]" in out
    assert "[link=x]" in out
    assert "日本語" in out


def test_print_names_tokens_by_what_they_stand_for(capsys: pytest.CaptureFixture[str]) -> None:
    out, _, _ = printed(capsys)
    assert "␣apples" in out
    assert "Ġ" not in out


@pytest.mark.usefixtures("untyped")
def test_print_of_what_does_not_fit() -> None:
    attributor = door()
    scores, ids = attributor.compute_attributions(PROMPT, 3)
    words = tiny_tokenizer().convert_ids_to_tokens(ids)
    for arguments in ((words[1:], scores, ids, 3), (words, scores[:2], ids, 3), (words, scores, ids, 2)):
        with pytest.raises(InputError, match="Pass what compute_attributions gave"):
            attributor.print_attributions(*arguments)


# Errors


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("bad", ["", " ", None, 7, ["Sam"]])
def test_no_input(bad: object) -> None:
    with pytest.raises(InputError, match=r"Expected (the|a) prompt"):
        door().compute_attributions(bad)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("bad", [0, -1, 2.0, "3", None, True])
def test_no_length(bad: object) -> None:
    with pytest.raises(InputError, match="whole number from 1 on, got"):
        door().compute_attributions(PROMPT, bad)


def test_training_mode() -> None:
    model = copy.deepcopy(tiny_model("llama")).train()
    attributor = LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight)
    with pytest.raises(ModelError, match="training mode"):
        attributor.compute_attributions(PROMPT)


@pytest.mark.usefixtures("untyped")
def test_a_tokenizer_that_cannot_be_called() -> None:
    model = tiny_model("llama")
    with pytest.raises(InputError, match="can be called on a text, got str"):
        LocalLLMAttributor(model, "gpt2", model.get_input_embeddings().weight)


def test_ids_beyond_the_embedding() -> None:
    config = type(tiny_model("llama").config)(**tiny_model("llama").config.to_dict() | {"vocab_size": 100})
    small = type(tiny_model("llama"))(config).eval()
    with pytest.raises(ModelError, match="100 rows"):
        LocalLLMAttributor(small, tiny_tokenizer(), small.get_input_embeddings().weight).compute_attributions(PROMPT)


def test_context_window() -> None:
    with pytest.raises(ContextWindowError, match=f"at most {WINDOW}"):
        door().compute_attributions(PROMPT, WINDOW)


def test_nan_logits() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        LocalLLMAttributor(model, tiny_tokenizer(), model.get_input_embeddings().weight).compute_attributions(PROMPT)


@pytest.mark.usefixtures("untyped")
def test_embeddings_of_another_model() -> None:
    model = tiny_model("llama")
    own = model.get_input_embeddings().weight.detach()
    remedy = r"model\.get_input_embeddings\(\)\.weight\.detach\(\)"
    changed = own.clone()
    changed[300, 3] += 0.1
    for wrong in (own[:-1], own[:, :-1], changed, own * 2, own.numpy(), None, torch.full_like(own, float("nan"))):
        with pytest.raises(InputError, match=remedy):
            LocalLLMAttributor(model, tiny_tokenizer(), wrong)


def test_another_device() -> None:
    with pytest.raises(InputError, match=r"device of the model, cpu, got meta"):
        door(device="meta")
    door(device="cpu")


@pytest.mark.usefixtures("untyped")
def test_unknown_target() -> None:
    with pytest.raises(InputError, match="got 'logprob'"):
        door(target="logprob")
