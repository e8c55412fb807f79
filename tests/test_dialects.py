"""What an endpoint tells is found out, and what must not be believed is not: each defect, on an endpoint that has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attribution as at
from attribution.errors import ApiError, CapabilityError, ModelError
from attribution.models import remote as remote_module
from attribution.models.dialects.completion import SENTINEL, read_completion, texts_of
from attribution.models.dialects.probing import MOST, Capabilities
from attribution.models.local import LocalModel
from tests.endpoints import PROMPT, WRITTEN, Change, Endpoint, limits, refusal, remote
from tests.faulty_server import Reply, Seen
from tests.servers import Server

CHAT = [{"role": "user", "content": PROMPT}]
UNITS = r"Sam has 3 apples|Tom has 5 oranges"


@pytest.fixture(scope="module")
def memory() -> dict[str, tuple[int, str]]:
    """What the stand-in says, which is computed once for all of these endpoints."""
    return {}


@pytest.fixture
def endpoint(demo: LocalModel, memory: dict[str, tuple[int, str]]) -> Any:
    """Opens an endpoint that is the stand-in but for a change."""

    def opened(change: Change | None = None) -> Endpoint:
        return Endpoint(demo, change, memory=memory)

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
        own["logprobs"][name] = change(own["logprobs"][name])

    return changed


def fewer(own: dict[str, Any]) -> None:
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        own["logprobs"][name].pop(2)
    own["token_ids"] = None


def much_fewer(own: dict[str, Any]) -> None:
    """Two tokens are told as one, whose text is that of both."""
    lists = own["logprobs"]
    lists["tokens"][1:3] = ["".join(lists["tokens"][1:3])]
    for name in ("token_logprobs", "top_logprobs", "text_offset"):
        lists[name].pop(2)
    own["token_ids"] = None


def shifted(values: list[Any]) -> list[Any]:
    return [*values[1:], -1.0]


DEFECTS: dict[str, tuple[Change, str]] = {
    "fewer entries than tokens": (told(fewer), "Expected tokens that make the text"),
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


def test_a_defect_that_happens_once_is_not_held_against_it(demo: LocalModel) -> None:
    """A reply that does not add up is asked for once more before it is believed of the endpoint."""
    for defect, (change, _) in DEFECTS.items():

        def once(seen: Seen, times: int, reply: Reply, change: Change = change) -> Reply | None:
            return None if times or not is_writing(seen) else as_reply(change, seen, reply)

        with Endpoint(demo, fault=once) as server:
            assert remote(server).capabilities("a text").road == "scored", defect


def as_reply(change: Change, seen: Seen, reply: Reply) -> Reply | None:
    """What an endpoint with this defect sends in place of a reply."""
    changed = change(seen, json.loads(reply.body))
    return Reply(200, json.dumps(changed)) if isinstance(changed, dict) else changed


SCORINGS: dict[str, tuple[Change, str, str]] = {
    "what is read back is shifted by one": (
        told(lambda own: None if own["prompt_logprobs"] is None else own.update(prompt_logprobs=moved(own)), of_scoring=True),
        "prompt_logprobs: ", "echo",
    ),
}
