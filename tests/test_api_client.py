"""Asking an endpoint: what comes back, what is asked again, what is counted, and that nothing is left running."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from attribution.errors import ApiError, InputError, MissingExtraError
from attribution.models.api.cache import Cache
from attribution.models.api.client import Client
from attribution.models.api.limits import Backoff, Limits
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret
from attribution.models.api.wire import Wire
from tests.faulty_server import PAGE, FaultyServer, Reply, Seen, answer, first, number

QUICK = Backoff(0.001, 0.01, 0.001)
TOO_MANY = Reply(429, json.dumps({"error": {"message": "slow down"}}))


def limits(**others: Any) -> Limits:
    return Limits(**{"backoff": QUICK, "timeout": 30.0, **others})


def questions(count: int) -> list[Request]:
    return [
        Request("/chat/completions", {"model": "m", "text": f"question {i}", "max_tokens": 2}) for i in range(count)
    ]


def texts(rows: list[Any]) -> list[str | None]:
    return [None if row is None else row["text"] for row in rows]


def whole(reply: Any) -> str | None:
    """What a caller that wants two log-probabilities checks."""
    if reply.get("text") is None:
        return "no text"
    found = len(reply.get("logprobs") or [])
    return None if found == 2 else f"{found} log-probabilities in place of 2"


def accounted(client: Client, server: FaultyServer) -> None:
    """Every call is in the account, and what became of it."""
    spending = client.spending
    assert spending.calls == len(server.seen)
    assert spending.calls == spending.answered + sum(spending.failures.values()) + spending.cut_off
    assert spending.peak <= client.limits.max_concurrency
    assert server.peak <= client.limits.max_concurrency


def nothing_runs() -> None:
    assert not [thread.name for thread in threading.enumerate() if thread.name == "attribution api"]


def eventually(condition: Callable[[], bool]) -> None:
    """What another thread does soon has been done."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_replies_come_in_order() -> None:
    with FaultyServer(
        lambda seen, times: Reply(body=answer(seen).body, delay=0.02 * (number(seen) % 3 == 0))
    ) as server:
        client = Client(server.url, limits=limits())
        assert texts(client.ask_sync(questions(10))) == [f"re: question {i}" for i in range(10)]
        accounted(client, server)
        spending = client.spending
        assert (spending.calls, spending.answered, spending.retried) == (10, 10, 0)
        assert (spending.input_tokens, spending.output_tokens, spending.cost) == (100, 20, None)
        eventually(lambda: server.connections == 0)
    nothing_runs()
    assert client.ask_sync([]) == []


def test_paths_and_methods() -> None:
    with FaultyServer() as server:
        client = Client(server.url + "/v1/", limits=limits())
        client.ask_sync(
            [Request("/models"), Request("/completions", {"text": "a"}), Request(f"{server.url}/tokenize", {})]
        )
        assert {(seen.method, seen.path) for seen in server.seen} == {
            ("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/tokenize"),
        }  # fmt: skip
        assert {json.dumps(seen.body) for seen in server.seen} == {"null", '{"text": "a"}', "{}"}


def test_a_version_in_the_url_goes_with_every_path() -> None:
    with FaultyServer() as server:
        Client(f"{server.url}/v1?api-version=2", limits=limits()).ask_sync([Request("/models")])
        assert server.seen[0].path == "/v1/models?api-version=2"


FAULTS = {
    "429": TOO_MANY,
    "429 at once": Reply(429, "{}", {"retry-after": "0"}),
    "429 in milliseconds": Reply(429, "{}", {"retry-after-ms": "20"}),
    "408": Reply(408),
    "409": Reply(409),
    "500": Reply(500, "oh no"),
    "503": Reply(503, "", {"retry-after": "0.02"}),
    "a page with 502": Reply(502, PAGE, {"content-type": "text/html"}),
    "a page with 200": Reply(200, PAGE, {"content-type": "text/html"}),
    "no JSON": Reply(200, '{"text": '),
    "a list": Reply(200, "[]"),
    "nothing": Reply(200, ""),
    "cut": Reply(200, json.dumps({"text": "x" * 1000}), fault="cut"),
    "reset": Reply(fault="reset"),
    "drip": Reply(200, json.dumps({"text": "x" * 1000}), fault="drip"),
    "hang": Reply(fault="hang"),
    "no text": Reply(200, '{"text": null, "logprobs": [1, 2]}'),
    "no log-probabilities": Reply(200, '{"text": "a", "logprobs": null}'),
    "short": Reply(200, '{"text": "a", "logprobs": [1]}'),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_asked_again_until_it_is_none(name: str) -> None:
    patience = 1.0 if name in ("drip", "hang") else 30.0
    with FaultyServer(first(FAULTS[name], FAULTS[name])) as server:
        client = Client(server.url, limits=limits(timeout=patience))
        assert texts(client.ask_sync(questions(3), whole)) == [f"re: question {i}" for i in range(3)]
        accounted(client, server)
        assert client.spending.retried == sum(client.spending.failures.values())
        assert client.spending.retried >= 6
    nothing_runs()


def test_a_plain_text_header_is_no_fault() -> None:
    plain = {"content-type": "text/plain"}
    with FaultyServer(lambda seen, times: Reply(body=answer(seen).body, headers=plain)) as server:
        assert texts(Client(server.url, limits=limits()).ask_sync(questions(1))) == ["re: question 0"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_final(status: int) -> None:
    refusal = Reply(status, json.dumps({"error": {"message": "because\x1b[31m of that"}}))
    with FaultyServer(lambda seen, times: refusal) as server:
        client = Client(server.url, limits=limits())
        with pytest.raises(ApiError, match=f"/chat/completions of the model 'm', got status {status}") as raised:
            client.ask_sync(questions(1))
        assert "(because [31m of that)" in str(raised.value)
        assert raised.value.status == status
        assert raised.value.__cause__ is raised.value.__context__ is None
        assert len(server.seen) == 1
        accounted(client, server)
    nothing_runs()


def test_a_fault_that_stays_is_told() -> None:
    with FaultyServer(lambda seen, times: Reply(503, "out of order")) as server:
        client = Client(server.url, limits=limits(retries=2))
        with pytest.raises(ApiError, match=r"status 503 \(out of order\) after 3 calls. Ask later") as raised:
            client.ask_sync(questions(1))
        assert raised.value.status == 503
        assert client.spending.calls == len(server.seen) == 3


def test_an_incomplete_reply_that_stays_is_told() -> None:
    with FaultyServer(lambda seen, times: FAULTS["short"]) as server:
        client = Client(server.url, limits=limits(retries=1))
        with pytest.raises(ApiError, match=r"an incomplete reply \(1 log-probabilities in place of 2\) after 2 calls"):
            client.ask_sync(questions(1), whole)
        assert client.spending.failures == {"incomplete": 2}


def test_no_retries() -> None:
    with FaultyServer(first(TOO_MANY)) as server:
        with pytest.raises(ApiError, match=r"status 429 \(slow down\)\. Ask later"):
            Client(server.url, limits=limits(retries=0)).ask_sync(questions(1))
        assert len(server.seen) == 1


def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        client = Client(f"http://127.0.0.1:{port}/v1", limits=limits(retries=1))
        with pytest.raises(ApiError, match=f"no connection.*Start the server at http://127.0.0.1:{port}"):
            client.ask_sync(questions(1))
    assert client.spending.failures == {"connect": 2}
    nothing_runs()


def test_the_endpoint_says_how_long_to_wait() -> None:
    with FaultyServer(first(Reply(429, "{}", {"retry-after": "0.3"}))) as server:
        start = time.monotonic()
        assert texts(Client(server.url, limits=limits()).ask_sync(questions(1))) == ["re: question 0"]
        assert time.monotonic() - start >= 0.3


def test_waiting_is_for_all_and_ends_with_the_total_timeout() -> None:
    def plan(seen: Seen, times: int) -> Reply | None:
        return None if number(seen) < 3 else Reply(429, "{}", {"retry-after": "300"})

    with FaultyServer(plan) as server:
        client = Client(server.url, limits=limits(total_timeout=4.0, max_concurrency=1))
        rows = client.ask_sync(questions(10))
        assert texts(rows)[:3] == ["re: question 0", "re: question 1", "re: question 2"]
        assert rows[3:] == [None] * 7
        # The others were not sent to be turned away too.
        assert len(server.seen) == 4
        assert client.is_exhausted
        assert client.exhausted == "total_timeout"
        accounted(client, server)
    nothing_runs()


def test_total_timeout_counts_calls_that_it_cut_off() -> None:
    with FaultyServer(lambda seen, times: Reply(fault="hang") if number(seen) else None) as server:
        client = Client(server.url, limits=limits(total_timeout=4.0, max_concurrency=4))
        assert texts(client.ask_sync(questions(3))) == ["re: question 0", None, None]
        assert client.spending.cut_off == 2
        accounted(client, server)
        assert client.ask_sync(questions(1)) == [None]  # the time is over for all of the account
        client.begin_account()
        assert not client.is_exhausted
        assert texts(client.ask_sync(questions(1))) == ["re: question 0"]


def test_the_same_is_asked_once() -> None:
    with FaultyServer() as server:
        client = Client(server.url, limits=limits())
        rows = client.ask_sync([*questions(3), *questions(3)])
        assert texts(rows) == [f"re: question {i}" for i in (0, 1, 2, 0, 1, 2)]
        assert len(server.seen) == 3
        assert client.spending.shared == 3
        samples = [Request("/x", {"text": "a"}, sample=i) for i in range(3)]
        client.ask_sync(samples)
        assert len(server.seen) == 6


def test_the_same_is_asked_once_by_several_at_once() -> None:
    with FaultyServer(lambda seen, times: Reply(body=answer(seen).body, delay=0.7)) as server:
        client = Client(server.url, limits=limits(max_concurrency=3))

        async def several() -> list[Any]:
            return await asyncio.gather(*(client.ask(questions(6)) for _ in range(4)))

        with client:
            found: list[Any] = []
            thread = threading.Thread(target=lambda: found.append(client.ask_sync(questions(6))))
            thread.start()
            rows = asyncio.run(several())
            thread.join()
        assert all(texts(each) == [f"re: question {i}" for i in range(6)] for each in (*rows, *found))
        assert len(server.seen) == 6
        accounted(client, server)
    nothing_runs()


def test_whoever_is_cancelled_leaves_the_call_to_others() -> None:
    arrived = threading.Event()

    def plan(seen: Seen, times: int) -> Reply:
        arrived.set()
        return Reply(body=answer(seen).body, delay=0.3 if times else 5.0)

    async def two(client: Client) -> list[Any]:
        one = asyncio.create_task(client.ask(questions(1)))
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        other = asyncio.create_task(client.ask(questions(1)))
        await asyncio.sleep(0.1)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        return await other

    with FaultyServer(plan) as server:
        client = Client(server.url, limits=limits())
        with client:
            assert texts(asyncio.run(two(client))) == ["re: question 0"]
        accounted(client, server)
        assert client.spending.cut_off == 1


def test_rows_that_fail_the_check_of_another_are_asked_again() -> None:
    def plan(seen: Seen, times: int) -> Reply:
        body = FAULTS["short"].body if times == 0 else answer(seen).body
        return Reply(body=body, delay=0.3)

    async def two(client: Client) -> list[Any]:
        return await asyncio.gather(client.ask(questions(1)), client.ask(questions(1), whole))

    with FaultyServer(plan) as server:
        easy, strict = asyncio.run(two(Client(server.url, limits=limits())))
        assert texts(strict) == ["re: question 0"]
        assert texts(easy) in (["a"], ["re: question 0"])
        assert len(server.seen) == 2


def test_a_running_loop_is_no_obstacle() -> None:
    async def notebook(client: Client) -> list[Any]:
        assert asyncio.get_running_loop().is_running()
        return client.ask_sync(questions(2))

    with FaultyServer() as server:
        assert texts(asyncio.run(notebook(Client(server.url, limits=limits())))) == ["re: question 0", "re: question 1"]
    nothing_runs()


def test_cancelling_leaves_nothing_running() -> None:
    async def cancelled(client: Client, server: FaultyServer) -> None:
        task = asyncio.create_task(client.ask(questions(100)))
        while len(server.seen) < 8:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with FaultyServer(lambda seen, times: Reply(fault="hang")) as server:
        client = Client(server.url, limits=limits())
        before = set(threading.enumerate())
        asyncio.run(cancelled(client, server))
        assert set(threading.enumerate()) <= before
        eventually(lambda: server.connections == 0)
        assert client.spending.cut_off == client.spending.calls == len(server.seen) == 8
    gc.collect()


def test_a_time_limit_of_the_caller_cancels() -> None:
    async def limited(client: Client) -> None:
        async with asyncio.timeout(0.5):
            await client.ask(questions(5))

    with FaultyServer(lambda seen, times: Reply(fault="hang")) as server:
        with pytest.raises(TimeoutError):
            asyncio.run(limited(Client(server.url, limits=limits())))
        eventually(lambda: server.connections == 0)
    nothing_runs()


def test_the_first_final_error_ends_all() -> None:
    def plan(seen: Seen, times: int) -> Reply:
        return Reply(404, "no", delay=1.0) if number(seen) == 0 else Reply(fault="hang")

    with FaultyServer(plan) as server:
        client = Client(server.url, limits=limits())
        with pytest.raises(ApiError, match="status 404"):
            client.ask_sync(questions(100))
        assert len(server.seen) == 8
        accounted(client, server)
        eventually(lambda: server.connections == 0)
    nothing_runs()


def test_an_error_of_the_caller_ends_all() -> None:
    def check(reply: Any) -> str | None:
        raise ZeroDivisionError

    with FaultyServer() as server:
        client = Client(server.url, limits=limits())
        with pytest.raises(ZeroDivisionError):
            client.ask_sync(questions(20), check)
        spending = client.spending
        assert spending.answered == 0
        assert len(server.seen) <= spending.calls == spending.cut_off  # some were on the way
    nothing_runs()


def test_asking_from_inside_would_wait_for_itself() -> None:
    with FaultyServer() as server:
        client = Client(server.url, limits=limits())

        def check(reply: Any) -> str | None:
            client.ask_sync(questions(1))
            return None

        with pytest.raises(InputError, match="from inside of check"):
            client.ask_sync(questions(1), check)
    nothing_runs()


INTERRUPTED = """
import os, signal, sys, threading, time
from attribution.models.api.client import Client
from attribution.models.api.limits import Limits
from attribution.models.api.request import Request
# A shell starts what it runs in the background with interruptions ignored, and this would be.
signal.signal(signal.SIGINT, signal.default_int_handler)
client = Client(sys.argv[1], limits=Limits())
def interrupt():
    while client.spending.calls < 8:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
thread.start()
try:
    client.ask_sync([Request("/x", {"text": str(i)}) for i in range(100)])
except KeyboardInterrupt:
    spending = client.spending
    thread.join()
    print(len(threading.enumerate()), spending.calls, spending.cut_off)
"""


def test_an_interruption_leaves_nothing_running() -> None:
    with FaultyServer(lambda seen, times: Reply(fault="hang")) as server:
        done = run(INTERRUPTED, server.url)
        assert done.stdout.split() == ["1", "8", "8"]
        assert not done.stderr
        eventually(lambda: server.connections == 0)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_of_calls_is_never_exceeded(concurrency: int) -> None:
    with FaultyServer(first(TOO_MANY)) as server:
        client = Client(server.url, limits=limits(max_calls=15, max_concurrency=concurrency))
        rows = client.ask_sync(questions(40))
        assert len(server.seen) == client.spending.calls == 15
        assert sum(row is not None for row in rows) == client.spending.answered
        assert client.exhausted == "max_calls"
        assert [text for text in texts(rows) if text] == [
            f"re: question {i}" for i, row in enumerate(rows) if row is not None
        ]
        accounted(client, server)


def test_a_budget_that_is_enough_is_not_exhausted() -> None:
    with FaultyServer() as server:
        client = Client(server.url, limits=limits(max_calls=5))
        assert None not in client.ask_sync(questions(5))
        assert not client.is_exhausted


def test_a_budget_of_money_is_never_exceeded() -> None:
    prices = {"input_price": 1_000_000 / 10, "output_price": 1_000_000 / 2}  # a well server's reply costs 2

    def unmetered(seen: Seen, times: int) -> Reply | None:
        return Reply(body='{"text": "no usage"}') if number(seen) == 3 else None

    with FaultyServer(unmetered) as server:
        client = Client(server.url, limits=limits(max_cost=60.0, max_concurrency=16, **prices))
        [most] = [client.most_cost(questions(1))]
        assert 2 <= most < 30
        rows = client.ask_sync(questions(100))
        spending = client.spending
        answered = sum(row is not None for row in rows)
        assert answered == spending.calls == len(server.seen)
        assert spending.unmetered == 1
        assert spending.cost == pytest.approx(2.0 * (answered - 1))
        assert spending.cost < spending.most_cost <= 60.0
        # It ends only where not even what one call can cost is left.
        assert spending.most_cost + most > 60.0
        assert client.exhausted == "max_cost"
        accounted(client, server)


def test_a_budget_of_money_is_waited_for_in_every_loop() -> None:
    """Calls under way may cost less than they could: others wait for that, in one event loop and in the next."""
    with FaultyServer() as server:
        client = Client(server.url, limits=limits(max_cost=200.0, input_price=1_000_000, output_price=1_000_000))
        most = client.most_cost(questions(1))
        assert 2 * most > 200 - 12 > most  # never two at once
        for i in range(3):
            assert None not in client.ask_sync(questions(2 * i + 2)[2 * i :])
        assert client.spending.peak == 1
        assert client.spending.cost == 6 * 12


def test_what_was_cut_off_may_have_cost() -> None:
    with FaultyServer(first(FAULTS["cut"], TOO_MANY)) as server:
        client = Client(server.url, limits=limits(max_cost=1000.0, input_price=1_000_000, output_price=1_000_000))
        client.ask_sync(questions(1))
        assert client.spending.cost == 12
        assert client.spending.unmetered == 1
        assert client.spending.unmetered_cost == client.most_cost(questions(1))


def test_a_budget_of_money_wants_bounded_calls() -> None:
    client = Client("http://localhost:1", limits=limits(max_cost=1.0, input_price=1, output_price=1))
    with pytest.raises(InputError, match=r"/completions without max_tokens\. Set max_tokens"):
        client.ask_sync([Request("/completions", {"prompt": "a"})])


def test_cached_rows_cost_nothing_and_come_after_the_budget(tmp_path: Path) -> None:
    with FaultyServer() as server:
        cache = Cache(tmp_path / "replies.sqlite3")
        Client(server.url, limits=limits(), cache=cache).ask_sync(questions(10)[5:])
        client = Client(server.url, limits=limits(max_calls=2), cache=cache)
        assert client.known(questions(10)) == [False] * 5 + [True] * 5
        rows = client.ask_sync(questions(10))
        assert sum(row is not None for row in rows[:5]) == 2
        assert texts(rows[5:]) == [f"re: question {i}" for i in range(5, 10)]
        assert (client.spending.cached, client.spending.calls) == (5, 2)
        assert len(server.seen) == 7
        # What is left is asked with a new account, and nothing else.
        client.begin_account()
        client.ask_sync(questions(7))
        client.begin_account()
        assert None not in client.ask_sync(questions(10))
        assert len(server.seen) == 10


def test_incomplete_replies_are_not_kept(tmp_path: Path) -> None:
    with FaultyServer(first(FAULTS["short"])) as server:
        cache = Cache(tmp_path / "replies.sqlite3")
        assert texts(Client(server.url, limits=limits(), cache=cache).ask_sync(questions(1), whole)) == [
            "re: question 0"
        ]
        again = Client(server.url, limits=limits(), cache=cache)
        assert texts(again.ask_sync(questions(1), whole)) == ["re: question 0"]
        assert again.spending.calls == 0

        def stricter(reply) -> str | None:
            return None if reply.get("more") else "no more"

        with pytest.raises(ApiError, match="incomplete"):
            Client(server.url, limits=limits(retries=0), cache=cache).ask_sync(questions(1), stricter)


def test_requests_a_minute_are_spread() -> None:
    with FaultyServer() as server:
        client = Client(server.url, limits=limits(requests_per_minute=600))
        start = time.monotonic()
        client.ask_sync(questions(4))
        client.ask_sync(questions(5)[4:])  # in another event loop, which goes on where the last one was
        assert time.monotonic() - start >= 4 * 0.1 * 0.9
        assert client.spending.calls == 5


def test_tokens_a_minute_are_spread() -> None:
    with FaultyServer() as server:
        # A request is said to take some 20 tokens: a fifth of a second each.
        client = Client(server.url, limits=limits(tokens_per_minute=6000))
        start = time.monotonic()
        client.ask_sync(questions(4))
        assert time.monotonic() - start >= 0.4


def test_progress_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    with FaultyServer() as server:
        client = Client(server.url, limits=limits(), progress=True)
        client.ask_sync([*questions(5), *questions(5)], notice=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]
    assert capsys.readouterr().out == ""


def test_connections_are_kept_while_the_client_is_open() -> None:
    with FaultyServer() as server:
        with Client(server.url, limits=limits()) as client:
            client.ask_sync(questions(1))
            client.ask_sync(questions(2)[1:])
            assert server.connections == 1
            assert [thread for thread in threading.enumerate() if thread.name == "attribution api"]
        eventually(lambda: server.connections == 0)
    nothing_runs()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from attribution.models.api import client

    monkeypatch.setattr(client, "find_spec", lambda name: None if name == "stamina" else name)
    with pytest.raises(MissingExtraError, match=r'the package stamina. Type: pip install "llm-attribution\[api\]"'):
        Client("http://localhost:1")


def test_importing_the_client_is_light() -> None:
    done = run("import sys, attribution.models.api.client; print(*sys.modules)")
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"openai", "stamina", "aiolimiter", "torch"}


def storm(seen: Seen, times: int) -> Reply | None:
    """Something else is wrong with every fifth call, up to three times in a row."""
    faults = [FAULTS[name] for name in FAULTS if name not in ("drip", "hang")]
    which = number(seen) * 7 + times
    return faults[which % len(faults)] if times < 3 and which % 5 == 0 else None


def serve_storm(pipe: Connection) -> None:
    """Tells its address, waits, and tells how many requests came, and how many at once."""
    with FaultyServer(storm) as server:
        pipe.send(server.url)
        pipe.recv()
        pipe.send((len(server.seen), server.peak))


@pytest.mark.slow
def test_ten_thousand_through_a_storm(tmp_path: Path) -> None:
    asked, fresh = questions(10_000), multiprocessing.get_context("spawn")
    here, there = fresh.Pipe()
    # In a process of its own: it is to have time for counting.
    process = fresh.Process(target=serve_storm, args=(there,))
    process.start()
    url = here.recv()
    client = Client(url, limits=limits(max_concurrency=64), cache=Cache(tmp_path / "replies.sqlite3"))
    rows = client.ask_sync(asked, whole)
    # As a run without faults: the words of the server's own answer to each.
    assert texts(rows) == [f"re: question {i}" for i in range(10_000)]
    again = Client(url, limits=limits(), cache=client.cache)
    assert again.ask_sync(asked, whole) == rows
    assert again.spending.calls == 0
    here.send("over")
    seen, peak = here.recv()
    process.join()
    spending = client.spending
    assert seen == spending.calls == 10_000 + sum(spending.failures.values())
    assert spending.answered == 10_000
    assert spending.retried > 1000
    # At least what the whole replies tell; short ones that were asked again tell theirs too.
    assert spending.input_tokens >= 10 * 10_000
    assert peak <= spending.peak <= 64
    nothing_runs()


KILLED = """
import sys
from attribution.models.api.cache import Cache
from attribution.models.api.client import Client
from attribution.models.api.limits import Backoff, Limits
from attribution.models.api.request import Request
limits = Limits(max_concurrency=int(sys.argv[3]), backoff=Backoff(0.001, 0.01, 0.001))
client = Client(sys.argv[1], limits=limits, cache=Cache(sys.argv[2]))
rows = client.ask_sync([Request("/x", {"text": f"question {i}"}) for i in range(200)])
right = [row["text"] == f"re: question {i}" for i, row in enumerate(rows)]
print(client.spending.cached, client.spending.calls, all(right))
"""


@pytest.mark.slow
def test_a_run_that_was_killed_pays_nothing_twice(tmp_path: Path) -> None:
    """No question whose answer had reached the disk is asked again, and at most those under way are paid twice."""
    path = tmp_path / "replies.sqlite3"
    with FaultyServer(lambda seen, times: Reply(body=answer(seen).body, delay=0.01)) as server:
        command = [sys.executable, "-c", KILLED, server.url, str(path), "4"]
        killed = subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL)
        eventually(lambda: len(server.answered) >= 50)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        eventually(lambda: server.connections == 0)
        sent, kept = len(server.seen), len(Cache(path))
        assert sent - 4 <= kept <= sent < 200
        done = run(KILLED, server.url, str(path), "4")
        assert done.stdout.split() == [str(kept), str(200 - kept), "True"], done.stderr
        assert len(server.seen) == sent + 200 - kept
        asked = [seen.body["text"] for seen in server.seen]
        assert len(asked) - len(set(asked)) <= 4


@pytest.mark.slow
def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite3"
    with FaultyServer() as server:
        command = [sys.executable, "-W", "error", "-c", KILLED, server.url, str(path), "8"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        several = [subprocess.Popen(command, cwd=Path(__file__).parent.parent, **pipes) for _ in range(3)]
        for each in several:
            out, err = each.communicate()
            assert out.split()[-1:] == ["True"], err
        assert len(Cache(path)) == 200


def test_the_machine_knows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key none is sent, whatever is in the environment for OpenAI."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-openai")
    with FaultyServer() as server:
        Client(server.url, limits=limits()).ask_sync(questions(1))
        assert "of-openai" not in repr(server.seen)
        assert "authorization" not in server.seen[0].headers


def test_the_key_goes_to_its_endpoint_only() -> None:
    with FaultyServer() as server, FaultyServer() as other:
        client = Client(f"{server.url}/v1", "sk-planted", limits=limits())
        client.ask_sync([Request("/a"), Request(f"{server.url}/b"), Request(f"{other.url}/c")])
        assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer sk-planted"] * 2
        assert "authorization" not in other.seen[0].headers


def test_a_client_shows_no_key() -> None:
    client = Client("http://localhost:1/v1?code=secret", "sk-planted-0123456789")
    assert "sk-planted" not in repr(client) + repr(vars(client))


@pytest.mark.parametrize(
    ("url", "key", "sent"),
    [
        ("https://api.openai.com/v1", "sk-planted", {}),
        ("https://ours.openai.azure.com/openai/v1", "planted-key", {"api-key": "planted-key"}),
        ("https://ours.openai.azure.com.evil.com/openai/v1", "planted-key", {}),
        ("https://ours.openai.azure.com/openai/v1", None, {}),
    ],
)
def test_azure_is_given_the_key_under_its_own_name(url: str, key: str | None, sent: dict) -> None:
    wire = Wire(url, Secret(key), 1.0)
    for path in ("/models", f"{url}/models"):
        headers = wire._headers(Request(path))
        assert {name: value for name, value in headers.items() if name != "Authorization"} == sent
    assert list(wire._headers(Request("https://api.example.com/v1/models"))) == ["Authorization"]
