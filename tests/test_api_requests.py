"""What is asked, within what limits, with which key: what a person passes is checked, and what is secret stays it."""

from __future__ import annotations

import copy
import json
import pickle
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from attribution.errors import InputError
from attribution.models.api.budget import size
from attribution.models.api.client import Client
from attribution.models.api.failures import CallError, clean, parsed, refused, retry_after
from attribution.models.api.limits import Backoff, Limits
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret
from attribution.models.api.spending import usage

KEY = "sk-planted-0123456789"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_concurrency": 0}, "max_concurrency as a whole number from 1 on, got 0"),
        ({"max_concurrency": 1001}, "at most 1000"),
        ({"requests_per_minute": 0}, "requests_per_minute as a number above 0, or None"),
        ({"tokens_per_minute": float("nan")}, "tokens_per_minute"),
        ({"timeout": None}, "timeout as a number above 0, got None"),
        ({"total_timeout": -1}, "total_timeout"),
        ({"retries": -1}, "retries as a whole number from 0 on"),
        ({"retries": True}, "retries"),
        ({"max_calls": 0}, "max_calls"),
        ({"max_cost": 1.0}, "Give input_price and output_price"),
        ({"max_cost": -1.0, "input_price": 1, "output_price": 1}, "max_cost"),
        ({"input_price": 1}, "Give both"),
    ],
)
def test_limits_say_what_is_wrong_with_them(untyped, wrong: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Limits(**wrong)


def test_a_backoff_says_what_is_wrong_with_it() -> None:
    with pytest.raises(InputError, match="longest of a Backoff"):
        Backoff(longest=-1)


def test_cost_is_per_million_tokens() -> None:
    assert Limits(input_price=2, output_price=10).cost(500_000, 100_000) == 2.0
    assert Limits().cost(1, 1) is None


@pytest.mark.parametrize("path", ["chat", "", "ftp://host/x", "http:///x"])
def test_a_request_wants_a_path(path: str) -> None:
    with pytest.raises(InputError, match="a path such as /chat/completions"):
        Request(path)


@pytest.mark.parametrize("body", [{"a": float("nan")}, {"a": object()}, {"a": "\ud800"}, {"a": {1, 2}}])
def test_a_body_is_plain_json(body: dict) -> None:
    with pytest.raises(InputError, match="a body that JSON can hold"):
        Request("/x", body)


def test_a_request_is_its_content() -> None:
    body = {"b": [1, {"z": "é"}], "a": 1.5}
    request = Request("/x", body)
    body["b"].append(2)
    assert request.body == {"b": [1, {"z": "é"}], "a": 1.5}
    assert list(request.body) == ["b", "a"]  # sent as it was written
    same = Request("/x", {"a": 1.5, "b": [1, {"z": "é"}]})
    assert request.digest("http://h") == same.digest("http://h")
    assert hash(request) == hash(same)
    assert request == same
    others = [
        Request("/y", request.body),
        Request("/x", request.body, sample=1),
        Request("/x", {**request.body, "a": 1}),
        Request("/x"),
        Request("/x", {}),
    ]
    digests = {each.digest("http://h") for each in others} | {request.digest("http://g"), request.digest("http://h")}
    assert len(digests) == 7


def test_a_request_in_a_few_words() -> None:
    assert Request("/completions", {"model": "m", "prompt": "private"}).what == "POST /completions of the model 'm'"
    assert Request("http://host/props?key=1").what == "GET /props"


@pytest.mark.parametrize(
    ("body", "path", "written"),
    [
        ({"max_tokens": 5, "prompt": "a"}, "/completions", 5),
        ({"max_completion_tokens": 5, "n": 3}, "/chat/completions", 15),
        ({"max_tokens": 5, "prompt": ["a", "b"], "n": 2}, "/completions", 20),
        ({"max_tokens": 0, "prompt": [[1, 2], [3]]}, "/completions", 0),
        ({"max_tokens": 5, "prompt": [1, 2, 3]}, "/completions", 5),
        ({"n_predict": 7}, "http://host/completion?x=1", 7),
        ({"prompt": "a"}, "/completions", None),
        ({"prompt": "a", "max_tokens": None}, "/completions", None),
        ({"content": "a"}, "/tokenize", 0),
        (None, "/models", 0),
    ],
)
def test_how_much_a_call_can_write(body: dict | None, path: str, written: int | None) -> None:
    assert size(Request(path, body)).written == written


@pytest.mark.parametrize("url", ["", "localhost:80", "file:///x", "http://", "http://h:port"])
def test_a_client_wants_an_url(url: str) -> None:
    with pytest.raises(InputError, match="base_url as a URL"):
        Client(url)


def test_a_password_belongs_in_the_key() -> None:
    for wrong in (lambda: Client("http://me:hunter2@host/v1"), lambda: Request("http://me:hunter2@host/v1")):
        with pytest.raises(InputError, match="as api_key") as raised:
            wrong()
        assert "hunter2" not in str(raised.value)


def test_a_secret_shows_and_pickles_as_nothing() -> None:
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    assert {repr(secret), str(secret), f"{secret}", f"{secret!r}"} == {"***"}
    assert KEY.encode() not in pickle.dumps(secret)
    assert pickle.loads(pickle.dumps(secret)).reveal() is None
    assert copy.deepcopy(secret).reveal() == copy.copy(secret).reveal() == KEY
    assert secret.hide(f"key {KEY}.") == "key ***."
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("none", [None, ""])
def test_no_secret(none: str | None) -> None:
    assert Secret(none).reveal() is None
    assert not Secret(none)
    assert Secret(none).hide("text") == "text"


@pytest.mark.parametrize("wrong", [KEY + "\n", " " + KEY, "sk-ключ", "sk-\x00"])
def test_a_key_that_no_header_carries_is_not_repeated(wrong: str) -> None:
    with pytest.raises(InputError, match="the API key as printable ASCII") as raised:
        Secret(wrong)
    assert wrong.strip() not in str(raised.value)


def test_short_keys_stand_in_texts_by_chance() -> None:
    assert not Secret("EMPTY").is_in("EMPTY")
    assert Secret(KEY).is_in(f"a {KEY} b")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Foo 2015 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_how_long_an_endpoint_wants_to_be_left_alone(headers: dict, seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_come_back_at() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    before = time.time()
    assert 90 < retry_after({"retry-after": date}) <= 100 + time.time() - before


@pytest.mark.parametrize(
    ("status", "headers", "again"),
    [
        *((status, {}, True) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, {}, False) for status in (400, 401, 402, 403, 404, 405, 413, 422, 301)),
        (429, {"x-should-retry": "false"}, False),
        (429, {"retry-after": "3600"}, False),
    ],
)
def test_what_is_asked_again(status: int, headers: dict, again: bool) -> None:
    assert refused(status, headers, b"", Secret(None)).again == again


def test_an_empty_account_is_not_asked_again() -> None:
    content = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}).encode()
    failed = refused(429, {}, content, Secret(None))
    assert not failed.again
    assert "top it up" in failed.advice


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "no such model"}}', "no such model"),
        (b'{"error": "bad"}', "bad"),
        (b'{"message": "bad"}', "bad"),
        (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
        (b'{"error": {"code": 5}}', '{"code": 5}'),
        (b"plain\x1b[2Jtext\r\n", "plain [2Jtext"),
        (b"\xff\xfe", "status 500 ("),
        (b"", "status 500"),
        (f"your key {KEY} is wrong".encode(), "your key *** is wrong"),
    ],
)
def test_what_the_server_says_is_told(content: bytes, message: str) -> None:
    told = refused(500, {}, content, Secret(KEY)).reason
    assert message in told
    assert told.isprintable()
    assert KEY not in told


def test_what_the_server_says_is_cut() -> None:
    assert len(clean("x" * 10_000, Secret(None))) == 300


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<!DOCTYPE html><html>", "html"),
        (b"  <HTML><body>", "html"),
        (b'{"cut": ', "json"),
        (b"", "json"),
        (b"[1]", "json"),
        (b"null", "json"),
        (b'{"a": "\xff"}', "json"),
        (b"[" * 100_000, "json"),
    ],
)
def test_what_is_no_reply(content: bytes, name: str) -> None:
    with pytest.raises(CallError) as raised:
        parsed(content)
    assert raised.value.name == name
    assert raised.value.again
    assert raised.value.__context__ is None


def test_a_list_of_models_may_stand_alone() -> None:
    assert parsed(b'[{"id": "a"}]', is_list_fine=True) == {"data": [{"id": "a"}]}
    with pytest.raises(CallError):
        parsed(b"1", is_list_fine=True)


@pytest.mark.parametrize(
    ("reply", "tokens"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}, (3, 4)),
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, (3, 4)),
        ({"usage": {"prompt_tokens": 3}}, (3, 0)),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 4}}, None),
        ({"usage": {"prompt_tokens": "3", "completion_tokens": True}}, None),
        ({"usage": None}, None),
        ({}, None),
    ],
)
def test_what_a_reply_says_that_it_took(reply: dict, tokens: tuple[int, int] | None) -> None:
    assert usage(reply) == tokens
