"""Endpoints for tests of models behind an API, and how they are asked: quickly, and without the user's own cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self

import attribution as at
from attribution.models.api.limits import Backoff
from attribution.models.local import LocalModel
from tests.faulty_server import FaultyServer, Reply, Seen
from tests.stand_in import StandIn
from training.to_gguf import CHAT_TEMPLATE

QUICK = Backoff(0.001, 0.01, 0.001)
PROMPT = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
WRITTEN = "\n\nThe answer is 3."
"""What the embedded model writes after it, and then ends."""


def limits(**others: Any) -> at.Limits:
    """Limits with which repetitions are quick."""
    return at.Limits(**{"backoff": QUICK, "timeout": 30.0, **others})


def remote(server: Any, **options: Any) -> at.RemoteModel:
    """The model that a server, whichever it is, has under its URL."""
    name = getattr(server, "model", "demo")
    known = {"limits": limits(), "cache": False, "progress": False}
    return at.RemoteModel(f"{server.url}/v1", name, **{**known, **options})


Change = Callable[[Seen, dict[str, Any]], dict[str, Any] | Reply | None]
"""What is sent in place of a good reply to this request, whose body may be changed; None for the reply as it is."""

Fault = Callable[[Seen, int, Reply], Reply | None]
"""What is sent in place of a good reply where the request came for the so-manieth time, from 0 on; None for it."""


_MEMORY: dict[str, tuple[int, str]] = {}


class Endpoint:
    """The stand-in behind a faulty server: `with Endpoint(model) as endpoint:` answers what the stand-in would.

    What it says is `change`d first, as by a server that is made otherwise, and may come with a `fault`. The same
    question is computed once for all endpoints whose stand-in has no `options`.
    """

    def __init__(
        self,
        model: LocalModel,
        change: Change | None = None,
        *,
        fault: Fault | None = None,
        delay: float = 0.0,
        **options: Any,
    ) -> None:
        self._stand_in = StandIn(model, **{"template": CHAT_TEMPLATE, **options})
        self._change, self._fault, self._delay = change, fault, delay
        self._memory = {} if options else _MEMORY
        self.server = FaultyServer(self._plan)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def seen(self) -> list[Seen]:
        """The requests that came."""
        return self.server.seen

    def asked(self, path: str) -> list[Any]:
        """The bodies that came at a path."""
        return [seen.body for seen in self.seen if seen.path == path]

    def _plan(self, seen: Seen, times: int) -> Reply:
        key = f"{seen.path} {json.dumps(seen.body, sort_keys=True)}"
        if key not in self._memory:
            status, content = self._stand_in.answer(seen.path, seen.body, seen.headers)
            self._memory[key] = status, json.dumps(content)
        status, text = self._memory[key]
        reply = Reply(status, text, delay=self._delay)
        if self._change is not None and (changed := self._change(seen, json.loads(text))) is not None:
            reply = changed if isinstance(changed, Reply) else Reply(status, json.dumps(changed), delay=self._delay)
        return (self._fault and self._fault(seen, times, reply)) or reply


def refusal(message: str, status: int = 400) -> Reply:
    """An error as OpenAI's endpoints tell it."""
    return Reply(status, json.dumps({"error": {"message": message, "code": status}}))
