"""The key is nowhere: not in what is printed, logged, raised, kept or shown, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import socket
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from attribution.errors import ApiError
from attribution.models.api.cache import Cache
from attribution.models.api.client import Client
from attribution.models.api.limits import Backoff, Limits
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret
from tests.faulty_server import FaultyServer, Reply, Seen, answer

KEY = "sk-planted-7f3a9c51e8d2"


def echo(seen: Seen, times: int) -> Reply:
    """A server that repeats the key wherever it can: in every answer, in its headers, in every error."""
    key = seen.headers["authorization"]
    headers = {"x-request-id": "req-1", "set-cookie": "a=b"}
    which = seen.body["text"] if seen.body else "props"
    bad = json.dumps({"error": {"message": f"Incorrect API key provided: {key}", "code": key}})
    return {
        "wrong": Reply(401, bad, headers),
        "missing": Reply(404, f"<html>{key}</html>", headers),
        "busy": Reply(503, bad, headers),
        "cut": Reply(200, json.dumps({"text": key * 100}), headers, fault="cut"),
        "nonsense": Reply(200, f"{key}{{", headers),
        "page": Reply(200, f"<!DOCTYPE html>{key}", headers),
        "hang": Reply(fault="hang"),
        "short": Reply(200, json.dumps({"text": key}), headers),
        "kept": Reply(200, json.dumps({"text": key}), headers),
        "props": Reply(405, bad, headers),
    }.get(which) or answer(seen)


def chained(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def told(error: BaseException) -> str:
    """Everything that can be read off an error: its text and parts, what it is chained to, its frames' variables."""
    parts = ["".join(traceback.format_exception(error))]
    parts += ["".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())]
    for each in chained(error):
        parts += [repr(each), str(each), repr(each.args), repr(vars(each)), repr(getattr(each, "request", ""))]
    return "\n".join(parts)


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All loggers at the level that says most."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio", "stamina"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


WRONG = ["wrong", "missing", "busy", "cut", "nonsense", "page", "hang", "short"]


@pytest.mark.parametrize("which", WRONG)
def test_no_error_holds_the_key(
    which: str, tmp_path: Path, loud: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with FaultyServer(echo) as server, Cache(tmp_path / "replies.sqlite3") as cache:
        limits = Limits(retries=1, timeout=0.5 if which == "hang" else 30.0, backoff=Backoff(0.001, 0.001, 0.001))
        client = Client(server.url, Secret(KEY), limits, cache, progress=True)

        def lacking(reply: Mapping[str, Any]) -> str | None:
            return "more" if which == "short" else None

        asked = [Request("/chat/completions", {"model": "m", "text": text}) for text in ("fine", which)]
        with pytest.raises(ApiError) as raised:
            client.ask_sync(asked, lacking)
        assert any(KEY in seen.headers["authorization"] for seen in server.seen)
        assert KEY not in told(raised.value)
        assert pickle.dumps(raised.value).count(KEY.encode()) == 0
        assert pickle.loads(pickle.dumps(raised.value)).status == raised.value.status
        everything = [client, vars(client), client.limits, client.spending, cache, vars(cache), *asked]
        assert KEY not in repr(everything) + str(client.spending)
        assert KEY.encode() not in contents(tmp_path)  # with what sqlite has not yet moved into the file
    assert KEY.encode() not in contents(tmp_path)
    assert KEY not in logged(loud)
    out, err = capfd.readouterr()
    assert KEY not in out + err


def test_the_log_was_loud(loud: pytest.LogCaptureFixture) -> None:
    with FaultyServer() as server:
        Client(server.url, KEY).ask_sync([Request("/models")])
    assert {record.name.split(".")[0] for record in loud.records} >= {"openai", "asyncio"}
    assert KEY not in logged(loud)


def test_asked_in_a_loop(loud: pytest.LogCaptureFixture) -> None:
    async def ask(client: Client) -> list[Any]:
        return await client.ask([Request("/props")])

    with FaultyServer(echo) as server, pytest.raises(ApiError, match="status 405") as raised:
        asyncio.run(ask(Client(server.url, KEY)), debug=True)
    assert KEY not in told(raised.value)
    assert KEY not in logged(loud)


def test_a_reply_with_the_key_is_given_and_not_kept(tmp_path: Path) -> None:
    with FaultyServer(echo) as server, Cache(tmp_path / "replies.sqlite3") as cache:
        client = Client(server.url, KEY, cache=cache)
        rows = client.ask_sync([Request("/x", {"text": text}) for text in ("kept", "fine")])
        assert KEY in rows[0]["text"]
        assert len(cache) == 1
        assert KEY.encode() not in contents(tmp_path)


def test_nobody_there(loud: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{taken.getsockname()[1]}", KEY, Limits(retries=0))
        with pytest.raises(ApiError, match="no connection") as raised:
            client.ask_sync([Request("/models")])
    assert KEY not in told(raised.value) + logged(loud)


def test_repeating_warns_nobody(loud: pytest.LogCaptureFixture) -> None:
    """Stamina would write a warning for each; other users of it still see theirs."""
    before = list(logging.getLogger("stamina").filters)
    with FaultyServer(lambda seen, times: Reply(500) if times < 2 else None) as server:
        Client(server.url, limits=Limits(backoff=Backoff(0, 0, 0))).ask_sync([Request("/models")])
    assert not [record for record in loud.records if record.name == "stamina"]
    assert logging.getLogger("stamina").filters == before
