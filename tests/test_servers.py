"""The servers that tests run against answer as said, and with the numbers of the model itself."""

from __future__ import annotations

from random import Random

import pytest
import torch

from attribution.models.local import LocalModel
from attribution.planted.families import FAMILIES, draw
from tests import servers
from tests.servers import Server
from tests.stand_in import StandIn
from training.possessions import draw_held_out_question
from training.to_gguf import CHAT_TEMPLATE

QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
ANSWER = "\n\nThe answer is 3."
SPLIT = "é😀"  # characters of two and of four bytes, a token each
HALVES = [b"\xc3", b"\xa9", b"\xf0", b"\x9f", b"\x98", b"\x80"]
EOS = "<eos>"


def held_out(count: int) -> list[tuple[str, str]]:
    """Prompts that no training text has, stories and families in turn, and their right outputs."""
    random = Random("servers")
    families = sorted(FAMILIES)
    found: list[tuple[str, str]] = []
    for index in range(count):
        if index % 2:
            drawn = draw(families[index // 2 % len(families)], random)
            found.append((drawn.prompt, drawn.output))
        else:
            question = draw_held_out_question(random)
            found.append((question.prompt, question.answer))
    return found


def logprobs(model: LocalModel, ids: list[int] | tuple[int, ...]) -> torch.Tensor:
    """`[token, vocabulary]`: what the model itself gives for what comes after each token."""
    with torch.no_grad(), model.borrowed():
        return model.logits(torch.tensor([list(ids)]))[0].log_softmax(-1)


# llama.cpp


def test_llama_server_reads_the_same_tokens(llama_server: Server, demo: LocalModel) -> None:
    for prompt, output in held_out(200):
        ids = llama_server.ask("/tokenize", content=prompt + output, add_special=True)["tokens"]
        assert tuple(ids) == demo.codec.encode(prompt + output).ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "é😀 naïve",
        "日本語",
        "def f(x):\r\n\treturn x",
        "Two  Names",
        "Sam's 42 apples",
        "a\n\n\nb",
        "it's (3|4)",
        "٣ Ⅷ",
    ],
)
def test_llama_server_reads_the_same_tokens_of_other_texts(text: str, llama_server: Server, demo: LocalModel) -> None:
    ids = llama_server.ask("/tokenize", content=text, add_special=True)["tokens"]
    assert tuple(ids) == demo.codec.encode(text).ids


@pytest.mark.parametrize("text", ["two  spaces", "has  3", "\t has", "'swer"])
def test_where_llama_server_reads_other_tokens(text: str, llama_server: Server, demo: LocalModel) -> None:
    """As `training.to_gguf` says; were it no longer so, it should say that."""
    ids = llama_server.ask("/tokenize", content=text, add_special=True)["tokens"]
    assert tuple(ids) != demo.codec.encode(text).ids
    assert llama_server.ask("/detokenize", tokens=ids[1:])["content"] == text


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_llama_server_goes_on_as_the_model_does(count: int, llama_server: Server, demo: LocalModel) -> None:
    for prompt, _ in held_out(count):
        ids = demo.codec.encode(prompt).ids
        expected = demo.generate(ids, 40)
        reply = llama_server.ask(
            "/completion", prompt=prompt, n_predict=40, temperature=0, return_tokens=True, cache_prompt=False
        )
        assert reply["tokens_evaluated"] == len(ids)
        assert tuple(reply["tokens"]) == expected


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_llama_server_gives_the_models_distribution(count: int, llama_server: Server, demo: LocalModel) -> None:
    """Every token's log-probability, after prompts and within outputs."""
    random = Random("distributions")
    for prompt, output in held_out(count):
        ids = list(demo.codec.encode(prompt + output).ids)
        ids = ids[: len(ids) - random.randrange(5)]
        reply = llama_server.ask(
            "/completion", prompt=ids, n_predict=1, n_probs=demo.vocabulary_size, temperature=0, cache_prompt=False
        )
        found = {each["id"]: each["logprob"] for each in reply["completion_probabilities"][0]["top_logprobs"]}
        assert sorted(found) == list(range(demo.vocabulary_size))
        given = torch.tensor([found[each] for each in range(demo.vocabulary_size)])
        torch.testing.assert_close(given, logprobs(demo, ids)[-1], rtol=0, atol=1e-3)


def test_llama_server_names_bytes_where_a_token_is_no_text(llama_server: Server, demo: LocalModel) -> None:
    reply = llama_server.ask("/completion", prompt=QUESTION, n_predict=1, n_probs=demo.vocabulary_size, temperature=0)
    found = {each["id"]: bytes(each["bytes"]) for each in reply["completion_probabilities"][0]["top_logprobs"]}
    assert [found[each] for each in demo.codec.ids_of(SPLIT)] == HALVES


def test_llama_server_leaves_out_tokens_that_end_inside_of_a_character(llama_server: Server) -> None:
    """Fewer entries than tokens: whoever sums them up has to count."""
    grammar = f'root ::= "{SPLIT}x"'
    reply = llama_server.ask(
        "/completion", prompt=QUESTION, n_predict=9, temperature=0, n_probs=1, return_tokens=True, grammar=grammar
    )
    assert len(reply["tokens"]) == reply["tokens_predicted"] == 8
    assert [each["token"] for each in reply["completion_probabilities"]] == ["é", "😀", "x", ""]


def test_llama_server_writes_a_token_where_none_is_wanted(llama_server: Server) -> None:
    reply = llama_server.ask("/v1/completions", prompt=QUESTION, max_tokens=0, temperature=0, logprobs=1, echo=True)
    assert reply["choices"][0]["text"] == "\n\n"  # and nothing of the prompt
    assert reply["usage"]["completion_tokens"] == 1


def test_llama_server_gives_log_probabilities_before_all_options(llama_server: Server) -> None:
    def top(**options: object) -> list[tuple[int, float]]:
        reply = llama_server.ask("/completion", prompt=QUESTION, n_predict=1, n_probs=3, cache_prompt=False, **options)
        return [(each["id"], each["logprob"]) for each in reply["completion_probabilities"][0]["top_logprobs"]]

    plain = top(temperature=0)
    assert top(temperature=2.0, seed=1, top_k=1) == plain
    assert top(temperature=0, repeat_penalty=1.5, ignore_eos=True, logit_bias=[[224, 100]]) == plain


def test_llama_server_chats(llama_server: Server) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    reply = llama_server.ask("/v1/chat/completions", messages=messages, max_tokens=20, temperature=0)
    assert reply["choices"][0]["message"]["content"] == ANSWER
    assert reply["usage"]["prompt_tokens"] == 21
    # Its BOS is taken off, and put before the ids.
    assert llama_server.ask("/apply-template", messages=messages)["prompt"] == QUESTION


# transformers


@pytest.mark.slow
def test_transformers_serve_gives_texts_alone(transformers_server: Server) -> None:
    name, messages = transformers_server.model, [{"role": "user", "content": QUESTION}]
    text = transformers_server.ask(
        "/v1/completions", model=name, prompt=QUESTION, max_tokens=20, temperature=0, logprobs=2, echo=True
    )
    chat = transformers_server.ask(
        "/v1/chat/completions", model=name, messages=messages, max_tokens=20, temperature=0, logprobs=True
    )
    assert text["choices"] == [{"index": 0, "text": ANSWER, "finish_reason": "stop"}]
    said = {"role": "assistant", "content": ANSWER}
    assert chat["choices"] == [{"index": 0, "message": said, "finish_reason": "stop"}]
    assert text["usage"] == chat["usage"] == {"prompt_tokens": 21, "completion_tokens": 7, "total_tokens": 28}


@pytest.mark.slow
def test_what_transformers_serve_refuses(transformers_server: Server) -> None:
    name = transformers_server.model
    assert transformers_server.post("/v1/completions", {"model": name, "prompt": [2, 54]}).status == 400
    assert transformers_server.post("/v1/completions", {"model": name, "prompt": QUESTION, "top_k": 1}).status == 422
    assert transformers_server.get("/v1/models").json["object"] == "list"


# Like vLLM


def test_the_stand_in_says_what_stands_in_the_prompt(stand_in: Server, demo: LocalModel) -> None:
    ids = demo.codec.encode(QUESTION + ANSWER).ids
    reply = stand_in.ask("/v1/completions", prompt=list(ids), max_tokens=1, temperature=0, prompt_logprobs=3)
    first, *others = reply["choices"][0]["prompt_logprobs"]
    assert first is None
    rows = logprobs(demo, ids)
    for token, row, given in zip(ids[1:], rows, others, strict=False):
        assert next(iter(given)) == str(token)
        assert given[str(token)]["rank"] == int((row >= row[token]).sum())
        assert given[str(token)]["logprob"] == pytest.approx(float(row[token]), abs=1e-5)
        best = sorted(given.values(), key=lambda each: each["rank"])[:3]
        assert [each["rank"] for each in best] == [1, 2, 3]
        assert [each["logprob"] for each in best] == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)
    assert reply["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 1,
        "total_tokens": len(ids) + 1,
        "prompt_tokens_details": None,
    }


def test_the_stand_ins_echo_is_aligned_with_what_it_writes(stand_in: Server, demo: LocalModel) -> None:
    wrote = stand_in.ask("/v1/completions", prompt=QUESTION, max_tokens=20, temperature=0, logprobs=1)["choices"][0]
    echoed = stand_in.ask(
        "/v1/completions", prompt=QUESTION + ANSWER, max_tokens=0, temperature=0, logprobs=1, echo=True
    )["choices"][0]
    assert wrote["text"] == ANSWER
    assert echoed["text"] == QUESTION + ANSWER  # its tokens begin with <bos> all the same
    tokens, numbers = echoed["logprobs"]["tokens"], echoed["logprobs"]["token_logprobs"]
    assert tokens[0] == "<bos>"
    assert numbers[0] is None
    *written, ended = wrote["logprobs"]["tokens"]
    assert ended == EOS
    assert tokens[-len(written) :] == written
    assert numbers[-len(written) :] == pytest.approx(wrote["logprobs"]["token_logprobs"][:-1], abs=1e-4)
    assert all(len(each) in (1, 2) for each in echoed["logprobs"]["top_logprobs"][1:])


def test_the_stand_in_says_a_split_character_with_its_last_token(stand_in: Server) -> None:
    reply = stand_in.ask("/v1/completions", prompt=SPLIT, max_tokens=0, logprobs=0, echo=True)["choices"][0]
    assert reply["logprobs"]["tokens"] == ["<bos>", "", "é", "", "", "", "😀"]
    as_ids = stand_in.ask(
        "/v1/completions", prompt=SPLIT, max_tokens=0, logprobs=0, echo=True, return_tokens_as_token_ids=True
    )["choices"][0]
    assert as_ids["logprobs"]["tokens"][:2] == ["token_id:2", "token_id:131"]


def test_the_stand_in_chats(stand_in: Server) -> None:
    reply = stand_in.ask(
        "/v1/chat/completions",
        model="demo",
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        max_tokens=20,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        prompt_logprobs=0,
    )
    choice = reply["choices"][0]
    assert choice["message"]["content"] == ANSWER
    assert choice["finish_reason"] == "stop"
    content = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == ANSWER + EOS
    assert all(bytes(each["bytes"]).decode() == each["token"] for each in content)
    assert all(each["top_logprobs"][0]["token"] == each["token"] for each in content)
    assert [next(iter(each.values()))["decoded_token"] for each in reply["prompt_logprobs"][1:3]] == ["Sam", " has"]
    assert reply["usage"]["completion_tokens"] == len(content) == 7


@pytest.mark.parametrize(
    ("prompt", "read"),
    [("Sam", 2), ([2, 54], 2), (["Sam", "Tom has"], 5), ([[2, 54], [54]], 3)],
)
def test_the_stand_in_reads_texts_ids_and_lists_of_them(prompt: object, read: int, stand_in: Server) -> None:
    reply = stand_in.ask("/v1/completions", prompt=prompt, max_tokens=1, temperature=0)
    assert reply["usage"]["prompt_tokens"] == read
    assert [each["index"] for each in reply["choices"]] == list(range(len(reply["choices"])))


def test_how_the_stand_in_begins_a_prompt(stand_in: Server) -> None:
    assert stand_in.ask("/tokenize", prompt="Sam")["tokens"][0] == 2
    assert stand_in.ask("/tokenize", prompt="<bos>Sam")["tokens"][:2] == [2, 2]
    assert 2 not in stand_in.ask("/tokenize", prompt="Sam", add_special_tokens=False)["tokens"]
    assert stand_in.ask("/tokenize", messages=[{"role": "user", "content": "Sam"}])["tokens"].count(2) == 1
    assert stand_in.ask("/detokenize", tokens=[2, 54])["prompt"] == "<bos>S"


def test_what_ends_the_stand_ins_text(stand_in: Server) -> None:
    def ending(**options: object) -> tuple[str, str, object, int]:
        reply = stand_in.ask("/v1/completions", prompt=QUESTION, temperature=0, **options)
        choice = reply["choices"][0]
        return choice["text"], choice["finish_reason"], choice["stop_reason"], reply["usage"]["completion_tokens"]

    assert ending(max_tokens=20) == (ANSWER, "stop", None, 7)
    assert ending(max_tokens=2) == ("\n\nThe", "length", None, 2)
    assert ending(max_tokens=20, stop=["answer", "swer"]) == ("\n\nThe ", "stop", "answer", 3)
    assert ending(max_tokens=20, stop_token_ids=[270]) == ("\n\nThe", "stop", 270, 2)
    assert ending(max_tokens=9, ignore_eos=True)[1:] == ("length", None, 9)
    assert ending()[3] == 7


def test_the_stand_in_draws_by_its_seed(stand_in: Server) -> None:
    def drawn(seed: int) -> str:
        reply = stand_in.ask("/v1/completions", prompt="Sam", temperature=2.0, seed=seed, max_tokens=8)
        return reply["choices"][0]["text"]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({"prompt": QUESTION, "model": "gpt"}, 404, "NotFoundError", "model"),
        ({"prompt": ""}, 400, "BadRequestError", "prompt"),
        ({"prompt": QUESTION, "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"prompt": QUESTION, "max_tokens": 2028}, 400, "BadRequestError", "input_tokens"),
        ({"prompt": QUESTION, "logprobs": 21}, 400, "BadRequestError", "logprobs"),
        ({"prompt": QUESTION, "prompt_logprobs": -1}, 400, "BadRequestError", "prompt_logprobs"),
        ({"prompt": QUESTION, "logprobs": -2}, 400, "BadRequestError", "logprobs"),
        ({"prompt": [868]}, 400, "BadRequestError", "prompt"),
        ({"prompt": QUESTION, "repetition_penalty": 1.1}, 501, "NotImplementedError", "repetition_penalty"),
        ({"prompt": QUESTION, "stream": True}, 501, "NotImplementedError", "stream"),
        (b"{", 400, "Bad Request", "body"),
    ],
)
def test_what_the_stand_in_refuses(body: object, status: int, kind: str, param: str, stand_in: Server) -> None:
    reply = stand_in.post("/v1/completions", body)
    assert reply.status == status
    error = reply.json["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)
    assert stand_in.post("/v1/nothing", {}).status == 404


def test_the_stand_in_wants_its_key_and_counts_calls(demo: LocalModel) -> None:
    with servers.stand_in(demo, api_key="secret", max_logprobs=-1) as server:
        assert server.get("/health").status == 200
        assert server.get("/v1/models").status == 401
        assert server.get("/v1/models", Authorization="Bearer secret").json["data"][0]["id"] == "demo"
        body = {"prompt": "Sam", "max_tokens": 1, "logprobs": -1, "return_tokens_as_token_ids": True}
        assert server.post("/v1/completions", body).status == 401
        reply = server.post("/v1/completions", body, Authorization="Bearer secret").json
        assert len(reply["choices"][0]["logprobs"]["top_logprobs"][0]) == demo.vocabulary_size
        assert isinstance(server.stand_in, StandIn)
        assert [(call.path, call.body) for call in server.stand_in.calls] == [("/v1/completions", body)]


def test_the_template_writes_what_was_said(demo: LocalModel) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    text = demo.tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False)
    assert text == f"<bos>Be brief.\n\n{QUESTION}"
