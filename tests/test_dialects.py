"""What an endpoint tells is found out, and what must not be believed is not: each defect on an endpoint that has it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attribution as at
from attribution.errors import ApiError, CapabilityError
from attribution.models.dialects.completion import read_completion
from attribution.models.dialects.probing import LENGTH, MOST
from attribution.models.local import LocalModel
from tests.endpoints import PROMPT, WRITTEN, Change, Endpoint, limits, refusal, remote
from tests.faulty_server import FaultyServer, Reply, Seen
from tests.servers import Server

CHAT = [{"role": "user", "content": PROMPT}]
UNITS = r"Sam has 3 apples|Tom has 5 oranges"


@pytest.fixture
def endpoint(demo: LocalModel) -> Any:
    """Opens an endpoint that is the stand-in but for a change."""

    def opened(change: Change | None = None) -> Endpoint:
        return Endpoint(demo, change)

    return opened


def choice(reply: dict[str, Any]) -> dict[str, Any]:
    return reply["choices"][0]


def is_scoring(seen: Seen) -> bool:
    """Whether a given text is to be read back, and none written."""
    return seen.body is not None and ("prompt_logprobs" in seen.body or bool(seen.body.get("echo")))


def is_writing(seen: Seen) -> bool:
    return seen.body is not None and seen.path.endswith("completions") and not is_scoring(seen)


def without_scoring(seen: Seen, reply: dict[str, Any]) -> dict[str, Any] | Reply:
    """An endpoint that passes over what it does not know: nothing is read back."""
    if seen.body is None:
        reply["data"][0]["owned_by"] = "someone"
    elif "choices" in reply:
        choice(reply).pop("prompt_logprobs", None)
        choice(reply).pop("token_ids", None)
        if seen.body.get("echo"):  # what was written alone
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                choice(reply)["logprobs"][name] = choice(reply)["logprobs"][name][-1:]
    return reply


def told(change: Callable[[dict[str, Any]], None], *, of_scoring: bool = False) -> Change:
    """Changes what is told of log-probabilities, in what is written or in what is read back."""

    def changed(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
        if "choices" in reply and (is_scoring(seen) if of_scoring else is_writing(seen)):
            change(choice(reply))
        return reply

    return changed


def listed(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], None]:
    """Changes one of the lists of a completion's log-probabilities."""

    def changed(own: dict[str, Any]) -> None:
        if own["logprobs"] is not None and len(own["logprobs"]["tokens"]) > 2:
            own["logprobs"][name] = change(own["logprobs"][name])

    return changed


def fewer(own: dict[str, Any]) -> None:
    if own["logprobs"] is None:
        return
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        own["logprobs"][name].pop(2)
    own["token_ids"] = None


def much_fewer(own: dict[str, Any]) -> None:
    """Two tokens are told as one, whose text is that of both."""
    lists = own["logprobs"]
    if lists is None:
        return
    lists["tokens"][1:3] = ["".join(lists["tokens"][1:3])]
    for name in ("token_logprobs", "top_logprobs", "text_offset"):
        lists[name].pop(2)
    own["token_ids"] = None


DEFECTS: dict[str, tuple[Change, str]] = {
    "fewer entries than tokens": (told(fewer), "Expected as many log-probabilities as tokens, got 5 of 6"),
    "two tokens told as one": (told(much_fewer), "Expected as many log-probabilities as tokens, got 5 of 6"),
    "tokens that do not make the text": (
        told(listed("tokens", lambda tokens: [*tokens[:2], "?", *tokens[3:]])), "Expected tokens that make the text",
    ),
    "fewer numbers than tokens": (
        told(listed("token_logprobs", lambda values: values[:-1])), "a log-probability for each of 6 tokens, got 5",
    ),
    "-9999 for what was written": (
        told(listed("token_logprobs", lambda values: [-9999.0, *values[1:]])), "no log-probabilities of what it writes",
    ),
    "the lowest float32 for what was written": (
        told(listed("token_logprobs", lambda values: [*values[:-1], -3.4e38])), "no log-probabilities of what it write",
    ),
    "null for what was written": (
        told(listed("token_logprobs", lambda values: [*values[:-1], None])), "no log-probabilities of what it writes",
    ),
    "above 0": (told(listed("token_logprobs", lambda values: [0.3, *values[1:]])), "at most 0, the endpoint tells 0.3"),
    "no number": (told(listed("token_logprobs", lambda values: [float("nan"), *values[1:]])), "the endpoint tells nan"),
    "a text for a number": (told(listed("token_logprobs", lambda values: ["-1", *values[1:]])), "tells '-1'"),
    "passed over": (told(lambda own: own.update(logprobs=None)), "no log-probabilities of what it writes"),
    "of another form": (told(lambda own: own.update(logprobs="-1.5")), "in the form that OpenAI gives them"),
    "alternatives of another form": (
        told(listed("top_logprobs", lambda values: [["A", -1.0]] * len(values))), "in the form that OpenAI gives them",
    ),
    "lists of nothing": (
        told(lambda own: own.update(logprobs={"tokens": [], "token_logprobs": [], "top_logprobs": []})),
        "no log-probabilities of what it writes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_is_not_believed(defect: str, endpoint: Any) -> None:
    change, reason = DEFECTS[defect]
    with endpoint(change) as server:
        model = remote(server, repeats=1)
        found = model.capabilities("a text")
        assert (found.road, found.likeliest, found.scoring) == ("texts", 0, "")
        assert len(found.reasons) == 1
        assert reason in found.reasons[0]
        result = at.explain(model, PROMPT, units=UNITS, method="leave_one_out")
        evidence = result.notes["evidence"]
        assert (evidence["road"], evidence["reasons"]) == ("texts", list(found.reasons))
        assert result.output == WRITTEN
        assert result.outputs[0].logprob is None


@pytest.mark.parametrize("defect", ["fewer entries than tokens", "passed over", "above 0", "no text"])
def test_what_happens_once_is_not_held_against_an_endpoint(defect: str, demo: LocalModel) -> None:
    """What does not add up is asked for once more before that is believed of the endpoint."""
    change = told(lambda own: own.update(text=None)) if defect == "no text" else DEFECTS[defect][0]

    def once(seen: Seen, times: int, reply: Reply) -> Reply | None:
        return as_reply(change, seen, reply) if times == 0 and is_writing(seen) else None

    with Endpoint(demo, fault=once) as server:
        assert remote(server).capabilities("a text").road == "scored"


def as_reply(change: Change, seen: Seen, reply: Reply) -> Reply | None:
    """What an endpoint with this defect sends in place of a reply."""
    changed = change(seen, json.loads(reply.body))
    return Reply(200, json.dumps(changed)) if isinstance(changed, dict) else changed


# What is read back


def moved(own: dict[str, Any]) -> None:
    """Each token is told the number of the one before it, as where a server counts a BOS that it does not have."""
    if own["logprobs"] is not None:
        own["logprobs"]["token_logprobs"] = [None, *own["logprobs"]["token_logprobs"][:-1]]
        return
    told_of = [next(iter(each.values())) for each in own["prompt_logprobs"][1:]]
    numbers = [each["logprob"] for each in told_of]
    for each, number in zip(told_of[1:], numbers, strict=False):
        each["logprob"] = number


def penalized(own: dict[str, Any]) -> None:
    """What is written is told with penalties, that are not in what is read back."""
    if own["logprobs"] is not None:
        own["logprobs"]["token_logprobs"] = [each - 0.5 for each in own["logprobs"]["token_logprobs"]]


def cut_short(own: dict[str, Any]) -> None:
    if own["logprobs"] is None:
        own["prompt_logprobs"].pop(3)
    else:
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            own["logprobs"][name].pop(3)


def unlikely(own: dict[str, Any]) -> None:
    if own["logprobs"] is None:
        next(iter(own["prompt_logprobs"][-3].values()))["logprob"] = -9999.0
    else:
        own["logprobs"]["token_logprobs"][-3] = -9999.0


UNREAD: dict[str, tuple[Change, str, str]] = {
    "shifted by one": (told(moved, of_scoring=True), "it differs by up to", "it differs by up to"),
    "penalties": (told(penalized), "it differs by up to 0.5 nats", "it differs by up to 0.5 nats"),
    "passed over": (without_scoring, "Expected prompt_logprobs, got none", "it lacks log-probabilities of 0 out of"),
    "cut short": (told(cut_short, of_scoring=True), "it lacks log-probabilities of", "it lacks log-probabilities of"),
    "-9999": (told(unlikely, of_scoring=True), "it lacks a log-probability", "it lacks a log-probability"),
    "refused": (
        lambda seen, reply: refusal("Unknown field") if is_scoring(seen) else None, "status 400 (Unknown field)",
        "status 400 (Unknown field)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", UNREAD)
def test_what_is_read_back_and_not_believed(defect: str, endpoint: Any) -> None:
    change, *reasons = UNREAD[defect]
    with endpoint(change) as server:
        found = remote(server).capabilities("a text")
        assert (found.road, found.likeliest, found.scoring) == ("likeliest", 20, "")
        names = [reason.partition(": ")[0] for reason in found.reasons]
        assert names == ["prompt_logprobs", "echo"]
        for expected, reason in zip(reasons, found.reasons, strict=True):
            assert expected in reason


def test_echo_where_prompt_logprobs_are_passed_over(endpoint: Any, demo: LocalModel) -> None:
    def changed(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
        if "choices" in reply:
            choice(reply)["prompt_logprobs"] = None
        return reply

    with endpoint(changed) as server:
        result = at.explain(remote(server), PROMPT, units=UNITS, method="leave_one_out")
        assert result.notes["evidence"].items() >= {"road": "scored", "by": "echo"}.items()
        here = at.explain(demo, PROMPT, units=UNITS, method="leave_one_out", output=WRITTEN)
        own, known = ([not unit.special for unit in each.units] for each in (result, here))
        assert result.scores[:, own] == pytest.approx(here.scores[:, known], abs=1e-3)


def test_tokens_that_never_make_the_text_are_read_from_the_text(endpoint: Any) -> None:
    """As where a character is split over several tokens: what the endpoint reads is scored all the same."""

    def changed(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
        if is_writing(seen) and seen.body["prompt"] == PROMPT:
            fewer(choice(reply))
        return reply

    with endpoint(changed) as server, endpoint() as well:
        result, expected = (
            at.explain(remote(each), PROMPT, method="leave_one_out", units="sentence") for each in (server, well)
        )
        assert result.notes["evidence"]["road"] == "scored"
        assert [output.text for output in result.outputs] == [output.text for output in expected.outputs]
        assert (result.scores == expected.scores).all()


# How an endpoint wants to be asked


def is_asked(seen: Seen, *names: str) -> bool:
    return seen.body is not None and any(name in seen.body for name in names)


def at_most_five(seen: Seen, reply: dict[str, Any]) -> Reply | None:
    most = max((seen.body or {}).get("logprobs") or 0, (seen.body or {}).get("top_logprobs") or 0)
    return refusal("top_logprobs must be at most 5") if most > 5 else None


def longer_name(seen: Seen, reply: dict[str, Any]) -> Reply | None:
    return refusal("Use max_completion_tokens instead.") if is_asked(seen, "max_tokens") else None


def no_temperature(seen: Seen, reply: dict[str, Any]) -> Reply | None:
    return refusal("temperature is not supported", 422) if is_asked(seen, "temperature") else None


WAYS: dict[str, tuple[Change, dict[str, Any]]] = {
    "as OpenAI": (lambda seen, reply: None, {"likeliest": 20, "length": "max_tokens", "takes_temperature": True}),
    "five at most": (at_most_five, {"likeliest": 5, "length": "max_tokens", "takes_temperature": True}),
    "another name": (longer_name, {"likeliest": 20, "length": "max_completion_tokens", "takes_temperature": True}),
    "no temperature": (no_temperature, {"likeliest": 20, "length": "max_tokens", "takes_temperature": False}),
    "none of it": (
        lambda seen, reply: at_most_five(seen, reply) or longer_name(seen, reply) or no_temperature(seen, reply),
        {"likeliest": 5, "length": "max_completion_tokens", "takes_temperature": False},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_how_it_wants_to_be_asked(way: str, endpoint: Any) -> None:
    change, expected = WAYS[way]
    with endpoint(change) as server:
        model = remote(server, more={"seed": 1})
        found = model.capabilities(CHAT)
        assert {name: getattr(found, name) for name in expected} == expected
        assert found.road == "scored"
        probing = len(server.seen)
        assert probing <= MOST
        at.explain(model, CHAT, units="sentence", method="leave_one_out", max_new_tokens=4)
        for seen in server.seen[probing:]:
            if seen.path.endswith("completions"):
                assert seen.body[expected["length"]] in (1, 4)
                assert ("temperature" in seen.body) == expected["takes_temperature"]
                assert seen.body.get("top_logprobs", expected["likeliest"]) == expected["likeliest"]


def test_an_endpoint_that_refuses_all_is_not_asked_for_ever() -> None:
    with FaultyServer(lambda seen, times: refusal("No.") if seen.body else Reply(body="{}")) as server:
        with pytest.raises(CapabilityError, match=r"cannot be asked at /completions or /chat/completions.*No\."):
            remote(server).capabilities("a text")
        assert len(server.seen) <= MOST
        with pytest.raises(CapabilityError, match=r"cannot be asked at /completions\."):
            remote(server, tokenizer="demo").capabilities("a text")


def test_a_text_goes_as_a_message_where_nothing_goes_on_with_texts(endpoint: Any) -> None:
    def changed(seen: Seen, reply: dict[str, Any]) -> Reply | None:
        return Reply(404, "{}") if seen.path == "/v1/completions" and "prompt_logprobs" not in seen.body else None

    with endpoint(changed) as server:
        result = at.explain(remote(server), PROMPT, units=UNITS, method="leave_one_out")
        expected = {"road": "scored", "by": "prompt_logprobs", "as_message": True}
        assert result.notes["evidence"].items() >= expected.items()
        assert all(body["messages"][0]["role"] == "user" for body in server.asked("/v1/chat/completions"))
        assert result.output == WRITTEN
        with pytest.raises(CapabilityError, match="cannot be asked at /completions"):
            at.explain(remote(server, tokenizer="demo"), PROMPT, method="leave_one_out")


def test_messages_do_not_go_where_only_texts_do(endpoint: Any) -> None:

    def change(seen: Seen, reply: dict[str, Any]) -> Reply | None:
        return Reply(404, "{}") if seen.path == "/v1/chat/completions" else None

    with endpoint(change) as server, pytest.raises(CapabilityError, match="cannot be asked at /chat/completions"):
        at.explain(remote(server), CHAT, method="leave_one_out")


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_wrong_is_told_at_once(status: int, endpoint: Any) -> None:
    with endpoint(lambda seen, reply: refusal("Incorrect API key", status)) as server:
        with pytest.raises(ApiError, match="Incorrect API key"):
            at.explain(remote(server), PROMPT, method="leave_one_out")
        assert len(server.seen) == 1


# What comes instead of an answer


def no_content(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
    if seen.path == "/v1/chat/completions":
        choice(reply).update(message={"role": "assistant", "content": None}, logprobs=None, finish_reason="length")
    return reply


def test_no_content_is_an_error_that_says_so(endpoint: Any) -> None:
    with endpoint(no_content) as server:
        model = remote(server, limits=limits(retries=2))
        found = model.capabilities(CHAT)
        assert (found.road, found.reasons) == (
            "texts", ("Expected a reply with a text, its content is None (finish_reason 'length').",)
        )  # fmt: skip
        with pytest.raises(ApiError, match=r"its content is None \(finish_reason 'length'\)") as raised:
            at.explain(model, CHAT, method="leave_one_out", units="sentence")
        assert raised.value.kind == "incomplete"


def test_a_model_that_thinks_before_it_answers_can_be_explained(endpoint: Any) -> None:
    """In the few tokens of the question that finds out what it tells it says nothing yet."""

    def changed(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
        if is_writing(seen) and seen.body["max_tokens"] == LENGTH:
            return no_content(seen, reply)
        return reply

    with endpoint(changed) as server:
        result = at.explain(remote(server, repeats=1), CHAT, method="leave_one_out", units="sentence")
        assert result.notes["evidence"]["road"] == "texts"
        assert result.output == WRITTEN


def test_a_refusal_is_what_the_model_wrote(endpoint: Any) -> None:
    def changed(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
        if seen.path == "/v1/chat/completions":
            own = choice(reply)
            own["message"] = {"role": "assistant", "content": None, "refusal": own["message"]["content"]}
            if own["logprobs"] is not None:
                own["logprobs"] = {"content": None, "refusal": own["logprobs"]["content"]}
        return reply

    with endpoint(changed) as server, endpoint() as well:
        result, expected = (
            at.explain(remote(each), CHAT, method="leave_one_out", units="sentence") for each in (server, well)
        )
        assert result.output == WRITTEN
        assert (result.scores == expected.scores).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entry: {**entry, "bytes": [63]}, "Expected tokens that make the text"),
        (lambda entry: {**entry, "bytes": [999]}, "in the form that OpenAI gives them"),
        (lambda entry: {**entry, "bytes": None, "token": "?"}, "Expected tokens that make the text"),
        (lambda entry: {**entry, "logprob": 2.0}, "at most 0"),
        (lambda entry: {**entry, "logprob": float("nan")}, "the endpoint tells nan"),
        (lambda entry: {**entry, "logprob": -3.4e38}, "no log-probabilities of what it writes"),
        (lambda entry: "entry", "in the form that OpenAI gives them"),
    ],
)
def test_what_is_not_believed_of_chats(change: Callable[[Any], Any], reason: str, endpoint: Any) -> None:
    def changed(seen: Seen, reply: dict[str, Any]) -> dict[str, Any]:
        if seen.path == "/v1/chat/completions" and choice(reply)["logprobs"] is not None:
            content = choice(reply)["logprobs"]["content"]
            content[1] = change(content[1])
        return reply

    with endpoint(changed) as server:
        found = remote(server).capabilities(CHAT)
        assert found.road == "texts"
        assert reason in found.reasons[0]


def test_bytes_are_believed_before_what_is_shown() -> None:
    """Tokens that are no text by themselves are shown in whatever way."""
    halves = [(b"\xc3", "\ufffd"), (b"\xa9", "\ufffd"), (b"x", "x")]
    content = [{"token": shown, "bytes": list(own), "logprob": -0.5} for own, shown in halves]
    reply = {
        "choices": [{"message": {"content": "\xe9x"}, "finish_reason": "length", "logprobs": {"content": content}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3},
    }
    assert [piece.text for piece in read_completion(reply).pieces] == ["\xe9", "", "x"]
    # One entry for both halves, as llama.cpp's server tells: whose number it is nobody knows.
    content[:2] = [{"token": "\xe9", "bytes": [0xC3, 0xA9], "logprob": -0.5}]
    assert read_completion(reply).fault == "Expected as many log-probabilities as tokens, got 2 of 3."


def test_the_token_that_ends_a_text_need_not_be_told() -> None:
    content = [{"token": each, "logprob": -0.5} for each in ("a", "b")]
    own = {"message": {"content": "ab"}, "finish_reason": "stop", "logprobs": {"content": content}}
    reply = {"choices": [own], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
    assert [piece.text for piece in read_completion(reply).pieces] == ["a", "b"]


# Penalties


def test_penalties_are_off(stand_in: Server) -> None:
    at.explain(remote(stand_in), PROMPT, units=UNITS, method="leave_one_out")
    at.explain(remote(stand_in), CHAT, units="sentence", method="leave_one_out")
    asked = [call.body for call in stand_in.stand_in.calls if call.path.endswith("completions")]
    assert len(asked) > 8
    assert all(body["repetition_penalty"] == 1.0 for body in asked)


def test_penalties_of_llama_server_are_off(llama_server: Server) -> None:
    model = remote(llama_server)
    pieces = model.read(PROMPT, "\n\nThe")
    asked = [*model.writing([PROMPT], 3), *model.scoring(PROMPT).requests(PROMPT, pieces), *model.writing([CHAT], 3)]
    assert len(asked) == 4
    assert all(request.body["repeat_penalty"] == 1.0 for request in asked)


# What was found out


def test_what_was_found_out_is_kept(endpoint: Any, tmp_path: Path) -> None:
    with endpoint() as server:
        first = remote(server, cache=tmp_path / "replies.sqlite3").capabilities("a text")
        probing = len(server.seen)
        assert probing == 3
        again = remote(server, cache=tmp_path / "replies.sqlite3")
        assert again.known_capabilities("a text") == again.capabilities("a text") == first
        assert len(server.seen) == probing
        # Of another kind of prompt, or where more is asked, nothing is known yet.
        assert again.known_capabilities(CHAT) is None
        assert remote(server, cache=tmp_path / "replies.sqlite3", more={"seed": 1}).known_capabilities("a text") is None


def test_after_a_day_it_is_asked_anew(demo: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions: list[Change | None] = [None]

    def change(seen: Seen, reply: dict[str, Any]) -> Any:
        return versions[0](seen, reply) if versions[0] else None

    with Endpoint(demo, change) as server:

        def model() -> at.RemoteModel:
            return remote(server, cache=tmp_path / "replies.sqlite3")

        assert model().capabilities("a text").road == "scored"
        versions[0], now = without_scoring, time.time()
        monkeypatch.setattr(time, "time", lambda: now + 86_300)
        assert model().capabilities("a text").road == "scored"
        asked = len(server.seen)
        monkeypatch.setattr(time, "time", lambda: now + 86_401)
        assert model().known_capabilities("a text") is None
        assert model().capabilities("a text").road == "likeliest"
        assert len(server.seen) > asked
