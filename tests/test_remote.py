"""Models behind an API are explained as those that run here: the same scores, against servers that are real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attribution as at
from attribution.errors import CapabilityError, InputError, ModelError
from attribution.method import build_method
from attribution.models.local import LocalModel
from attribution.result import Attribution
from tests import servers
from tests.endpoints import PROMPT, WRITTEN, limits, remote
from tests.servers import Server
from tests.tiny import tiny_tokenizer
from training.to_gguf import CHAT_TEMPLATE

SHORT = "Sam has 3 pears. How many pears does Sam have?"
BOS, EOS = "<bos>", "<eos>"
MESSAGES = [
    {"role": "system", "content": "Sam has 3 apples."},
    {"role": "user", "content": "Tom has 5 oranges."},
    {"role": "assistant", "content": "I see."},
    {"role": "user", "content": "How many apples does Sam have?"},
]
METHODS: dict[str, Any] = {
    "leave_one_out": {},
    "hierarchical": {},
    "context_cite": {"ablations": 16, "resamples": 4},
    "shapley_sampling": {"permutations": 2},
    "lime": {"samples": 20},
}
TARGETS: dict[str, Any] = {
    "logprob": {},
    "prob": {"target": "prob"},
    "contrast": {"target": at.Contrast("5", instead_of="3")},
    "replace": {"ablation": at.Replace("...")},
}
NEAR = 1e-3
"""Nats."""


def method_of(name: str) -> Any:
    """The method of this name, which asks no more than a test has time for."""
    return type(build_method(name))(**METHODS[name])


def cases(*quick: str) -> Iterator[Any]:
    """Servers, methods and targets; all but the `quick` methods, with log-probabilities, are tried at leisure."""
    for server in ("llama_server", "vllm"):
        for method in METHODS:
            for target in TARGETS:
                if method == "context_cite" and target in ("prob", "contrast"):  # it explains log-probabilities alone
                    continue
                is_quick = method == "leave_one_out" or (
                    target == "logprob" and server == "llama_server" and method in quick
                )
                yield pytest.param(server, method, target, marks=() if is_quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def vllm(demo: LocalModel) -> Iterator[Server]:
    """One stand-in for all tests of this file."""
    with servers.stand_in(demo) as server:
        yield server


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What servers that are always the same have said to these tests."""
    return tmp_path_factory.mktemp("replies") / "replies.sqlite3"


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    """A server that tells log-probabilities: llama.cpp's, and one that speaks as vLLM's."""
    return request.getfixturevalue(request.param)


def near(one: np.ndarray, other: np.ndarray) -> None:
    """The same numbers, but for rounding."""
    np.testing.assert_allclose(one, other, rtol=0, atol=NEAR)


def likelihoods(result: Attribution) -> np.ndarray:
    """The log-probabilities of the output's tokens."""
    return np.array([output.logprob for output in result.outputs], dtype=np.float64)


def own_scores(result: Attribution) -> np.ndarray:
    """The scores of what a person wrote."""
    return result.scores[:, [not unit.special for unit in result.units]]


# The same scores as a model that runs here


def same(there: Attribution, here: Attribution) -> None:
    """The same numbers for the same question, of what a person wrote."""
    assert there.notes["evidence"]["road"] == "scored"
    near(likelihoods(there), likelihoods(here))
    near(own_scores(there), own_scores(here))
    assert np.abs(here.scores).max() > 100 * NEAR
    spans = [[(unit.text, unit.start, unit.end) for unit in each.units if not unit.special] for each in (there, here)]
    assert spans[0] == spans[1]
    if here.errors is not None:
        near(there.errors, here.errors[:, -there.errors.shape[1] :])
    width = there.evaluations.keep.shape[1]
    assert (there.evaluations.keep == here.evaluations.keep[:, -width:]).all()
    near(there.evaluations.values, here.evaluations.values)


@pytest.mark.parametrize(("server", "method", "target"), [*cases(*METHODS)], indirect=["server"])
def test_ids_are_scored_as_here(server: Server, method: str, target: str, demo: LocalModel, replies: Path) -> None:
    options = {"method": method_of(method), "seed": 3, **TARGETS[target]}
    here = at.explain(demo, SHORT, **options)
    there = at.explain(remote(server, tokenizer="demo", cache=replies), SHORT, **options)
    assert [output.id for output in there.outputs] == [output.id for output in here.outputs]
    assert there.outputs[-1].id == demo.tokenizer.eos_token_id
    assert there.scores.shape == here.scores.shape
    assert there.cost["tokens"] > there.cost["forwards"] or there.notes["calls"]["sent"] == 0
    same(there, here)


@pytest.mark.parametrize(("server", "method", "target"), [*cases("hierarchical")], indirect=["server"])
def test_texts_are_scored_as_here(server: Server, method: str, target: str, demo: LocalModel, replies: Path) -> None:
    """Where nobody gave a tokenizer, and deleting characters deletes the same tokens."""
    options = {"method": method_of(method), "seed": 3, **TARGETS[target]}
    there = at.explain(remote(server, cache=replies), SHORT, **options)
    ended = there.outputs[-1].id == demo.tokenizer.eos_token_id
    assert ended == (server.stand_in is None)  # llama.cpp's tells ids, and what is known of them is scored
    here = at.explain(demo, SHORT, output=None if ended else there.output, **options)
    assert [unit.special for unit in here.units].index(False) == 1
    assert not any(unit.special for unit in there.units)
    same(there, here)


@pytest.mark.parametrize("server", ["llama_server", "vllm"], indirect=True)
@pytest.mark.parametrize("tokenizer", [None, "demo"])
def test_sentences_and_a_given_output(server: Server, tokenizer: str | None, demo: LocalModel, replies: Path) -> None:
    options = {"method": "leave_one_out", "units": "sentence", "output": "\n\nThe answer is 5."}
    there = at.explain(remote(server, tokenizer=tokenizer, cache=replies), PROMPT, **options)
    here = at.explain(demo, PROMPT, **options)
    assert there.output == options["output"] == here.output
    same(there, here)


@pytest.mark.parametrize("server", ["llama_server", "vllm"], indirect=True)
@pytest.mark.parametrize("method", ["leave_one_out", "shapley_sampling"])
def test_chats_are_scored_as_here(server: Server, method: str, demo: LocalModel, replies: Path) -> None:
    """Every ablated chat as the server's template renders it, and here the same text."""
    there = at.explain(remote(server, cache=replies), MESSAGES, units="message", method=method_of(method), seed=1)
    assert there.notes["evidence"]["road"] == "scored"
    assert "as_message" not in there.notes["evidence"]
    own = [not unit.special for unit in there.units]  # what stands between messages is nobody's
    assert [unit.text for unit in there.units if not unit.special] == [message["content"] for message in MESSAGES]
    asked = there.evaluations.keep[:, own]
    assert len(asked) > len(MESSAGES)

    def known(keep: np.ndarray) -> list[float]:
        kept = [message for message, is_kept in zip(MESSAGES, keep, strict=True) if is_kept]
        kept = kept or [{"role": "user", "content": ""}]
        # llama.cpp's server goes on with an assistant's message that comes last, right behind what is before it.
        begun = kept.pop()["content"] if server.stand_in is None and kept[-1]["role"] == "assistant" else ""
        template = {"chat_template": CHAT_TEMPLATE, "tokenize": False}
        text = (demo.tokenizer.apply_chat_template(kept, **template) if kept else BOS) + begun
        ids = demo.codec.encode(text, add_special=False).ids
        output = demo.codec.ids_of(there.output.removesuffix(EOS))
        ended = (demo.tokenizer.eos_token_id,) if there.outputs[-1].id == demo.tokenizer.eos_token_id else ()
        whole = (*ids, *output, *ended)
        with torch.no_grad(), demo.borrowed():
            rows = demo.logits(torch.tensor([whole]))[0].log_softmax(-1)
        return [float(rows[place - 1, whole[place]]) for place in range(len(ids), len(whole))]

    expected = np.array([known(keep) for keep in asked])
    near(there.evaluations.values, expected)
    whole = np.flatnonzero(asked.all(1))[0]
    near(likelihoods(there), expected[whole])
    if method == "leave_one_out":
        gone = [int(np.flatnonzero((asked == lacking).all(1))[0]) for lacking in ~np.eye(4, dtype=bool)]
        near(own_scores(there), (expected[whole] - expected[gone]).T)


@pytest.mark.parametrize("server", ["llama_server", "vllm"], indirect=True)
def test_a_chat_as_ids_is_scored_as_here(server: Server, demo: LocalModel, replies: Path, tmp_path: Path) -> None:
    """With a tokenizer and its template, a chat is deleted token for token, as here."""
    demo.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    options = {"units": "message", "method": "leave_one_out"}
    there = at.explain(remote(server, tokenizer=str(tmp_path), cache=replies), MESSAGES, **options)
    template, demo.tokenizer.chat_template = demo.tokenizer.chat_template, CHAT_TEMPLATE
    try:
        here = at.explain(demo, MESSAGES, **options)
    finally:
        demo.tokenizer.chat_template = template
    same(there, here)


# What cannot be


GRADIENTS = sorted(method.name for method in at.list_methods() if "value" not in method.needs)


@pytest.mark.parametrize("method", GRADIENTS)
def test_methods_that_look_inside_refuse_and_name_others(method: str, vllm: Server, replies: Path) -> None:
    able = [each.name for each in at.list_methods() if each.needs == {"value"} and each.max_units is None]
    with pytest.raises(CapabilityError, match=f"^{method} needs .*which a model behind an API does not give") as raised:
        at.explain(remote(vllm, cache=replies), SHORT, method=method)
    named = str(raised.value).partition(". Use ")[2].rstrip(".").split(", ")
    assert set(able) <= set(named)
    assert not set(named) & set(GRADIENTS)


def test_what_stands_in_for_the_default(vllm: Server, replies: Path) -> None:
    result = at.explain(remote(vllm, cache=replies), SHORT)
    assert result.method["name"] == "leave_one_out"
    assert result.notes["instead_of"].startswith("saliency, which needs gradients")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"units": "token"}, InputError, "Pass its tokenizer"),
        ({"ablation": "mask"}, CapabilityError, "hides tokens within a model"),
        ({"target": "logit"}, CapabilityError, "logprob"),
        ({"target": "entropy"}, CapabilityError, "logprob"),
        ({"target": at.Contrast()}, CapabilityError, "Name the other output"),
        ({"target": at.Semantic("embedding")}, CapabilityError, "overlap"),
        ({"ablate_special": True}, InputError, "ablate_special"),
        ({"output": [1, 2]}, InputError, "as a text"),
        ({"output": ""}, InputError, "at least one token"),
        ({"max_tokens": 100}, InputError, "max_calls"),
    ],
)  # fmt: skip
def test_what_no_endpoint_can_be_asked(
    options: dict[str, Any], error: type[Exception], said: str, vllm: Server, replies: Path
) -> None:
    asked = len(vllm.stand_in.calls)
    with pytest.raises(error, match=said):
        at.explain(remote(vllm, cache=replies), SHORT, **{"method": "leave_one_out", **options})
    assert len(vllm.stand_in.calls) <= asked + 8


# Texts alone


@pytest.mark.slow
def test_transformers_serve_tells_texts_alone(transformers_server: Server) -> None:
    model = remote(transformers_server, repeats=2, limits=limits(timeout=300))
    result = at.explain(model, SHORT, method="leave_one_out", units="sentence")
    evidence = result.notes["evidence"]
    assert evidence["road"] == "texts"
    assert evidence["reasons"] == ["it tells no log-probabilities of what it writes"]
    # It writes what is likeliest, always the same, so that every ablated prompt is asked once.
    assert evidence["repeats"] == 1
    assert result.notes["noise"] == {
        "similarities": [1.0] * 4,
        "different": 1,
        "others": [],
        "floor": 0.0,
        "below": 0,
    }
    assert result.target == "semantic overlap"
    assert [output.text for output in result.outputs] == [WRITTEN]
    assert result.scores[0, 0] > 0.2  # without "Sam has 3 pears." the answer is another


def test_a_tokenizer_that_is_not_the_models_is_told(vllm: Server) -> None:
    """Its ids are other texts there: scores of these would be of another prompt."""
    model = at.RemoteModel(f"{vllm.url}/v1", "demo", tokenizer=tiny_tokenizer(), cache=False, progress=False)
    with pytest.raises(ModelError, match="Expected the tokenizer of demo, got one whose ids"):
        at.explain(model, PROMPT)
