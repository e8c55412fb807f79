"""The key of an endpoint that was explained is nowhere: not in the result, its files, the cache, logs or errors."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import attribution as at
from attribution.errors import ApiError
from attribution.models.local import LocalModel
from tests import servers
from tests.endpoints import PROMPT, limits, remote
from tests.servers import Server

KEY = "sk-planted-52c07fe91ab4"
OPTIONS = {"method": "leave_one_out", "units": "sentence"}


@pytest.fixture
def locked(demo: LocalModel) -> Iterator[Server]:
    """A server that answers whoever has the key."""
    with servers.stand_in(demo, api_key=KEY) as server:
        yield server


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All loggers at the level that says most."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpcore", "asyncio", "stamina", "attribution"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def hidden(*texts: object) -> None:
    """The key stands in none of these, nor in what they print as."""
    for text in texts:
        assert KEY not in str(text)
        assert KEY not in repr(text)


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_the_key_is_nowhere(
    locked: Server, tmp_path: Path, loud: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model = remote(locked, api_key=KEY, cache=tmp_path / "replies.sqlite3", progress=True)
    plan = at.explain(model, PROMPT, dry_run=True, **OPTIONS)
    result = at.explain(model, PROMPT, **OPTIONS)
    known = at.explain(model, PROMPT, dry_run=True, **OPTIONS)
    assert result.notes["evidence"]["road"] == "scored"
    assert model.client.spending.calls > 5
    hidden(model, vars(model), model.client, vars(model.client), model.describe(), model.client.spending)
    hidden(plan, known, vars(plan), result, result.to_dict(), vars(result))
    result.save(tmp_path / "result.safetensors")
    result.to_html(tmp_path / "result.html")
    result.to_frame().to_csv(tmp_path / "result.csv")
    print(result)
    assert len(everything(tmp_path)) > 10_000
    assert KEY.encode() not in everything(tmp_path)
    at.Attribution.load(tmp_path / "result.safetensors")
    assert loud.records
    hidden(*(record.getMessage() for record in loud.records), *(vars(record) for record in loud.records))
    hidden(*capfd.readouterr())


def test_the_key_is_in_no_pickle_of_a_model(locked: Server) -> None:
    model = remote(locked, api_key=KEY)
    try:
        pickled = pickle.dumps(vars(model))
    except (TypeError, AttributeError, pickle.PicklingError):  # it holds a loop, and need not be one that can be sent
        pickled = b""
    assert KEY.encode() not in pickled


@pytest.mark.parametrize("place", ["at once", "later"])
def test_a_key_that_is_refused_is_in_no_error(
    place: str, demo: LocalModel, loud: pytest.LogCaptureFixture, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with servers.stand_in(demo, api_key="another") as server:
        if place == "later":
            server.stand_in.api_key = KEY
        model = remote(server, api_key=KEY, limits=limits(retries=0), cache=tmp_path / "replies.sqlite3")
        if place == "later":
            model.capabilities(PROMPT)
            server.stand_in.api_key = "another"
        with pytest.raises(ApiError, match="401") as raised:
            at.explain(model, PROMPT, **OPTIONS)
    error = raised.value
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    hidden(error, error.args, vars(error), "".join(told.format()), error.__cause__, error.__context__)
    assert KEY.encode() not in pickle.dumps(error) + everything(tmp_path)
    hidden(*(record.getMessage() for record in loud.records), *(vars(record) for record in loud.records))
    hidden(*capfd.readouterr())


def test_the_key_in_the_environment_goes_to_its_own_endpoint_only(
    locked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local server is not sent the key of OpenAI."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ApiError, match="401"):
        at.explain(remote(locked), PROMPT, **OPTIONS)


def test_the_planted_key_would_be_seen(locked: Server) -> None:
    """What hides it is not that the test looks in the wrong place."""
    model = remote(locked, api_key=KEY)
    assert model.client._secret.reveal() == KEY
    with pytest.raises(AssertionError):
        hidden({"key": KEY})
