"""Whatever goes wrong on the way, what is explained is the same to the last digit, and every call is in the account."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attribution as at
from attribution.errors import ApiError, BudgetError
from attribution.method import build_method
from attribution.models.dialects.probing import MOST, QUESTION
from attribution.models.local import LocalModel
from tests.endpoints import PROMPT, Endpoint, Fault, limits, remote
from tests.faulty_server import PAGE, Reply, Seen

CHAT = [{"role": "system", "content": "Sam has 3 apples."}, {"role": "user", "content": "How many apples has Sam?"}]
PATIENT = 8
"""Repetitions, more than any fault below needs."""


def explained(model: at.RemoteModel, **options: Any) -> at.Attribution:
    return at.explain(model, PROMPT, **{"method": "leave_one_out", "units": "word", **options})


@pytest.fixture(scope="module")
def expected(demo: LocalModel) -> dict[str | None, at.Attribution]:
    """What comes out where nothing goes wrong, with a tokenizer and without."""
    with Endpoint(demo) as endpoint:
        return {name: explained(remote(endpoint, tokenizer=name)) for name in (None, "demo")}


def chance(seen: Seen, times: int) -> float:
    """From 0 to 1, the same whenever the same is asked for the so-manieth time."""
    key = f"{seen.path} {json.dumps(seen.body, sort_keys=True)} {times}"
    return int(sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def edited(change: Any) -> Any:
    """A good reply of which something is missing."""

    def broken(reply: Reply) -> Reply:
        content = json.loads(reply.body)
        for choice in content.get("choices", []):
            change(choice)
        return Reply(200, json.dumps(content))

    return broken


def without_logprobs(choice: dict[str, Any]) -> None:
    choice["logprobs"] = choice["prompt_logprobs"] = None


def short_logprobs(choice: dict[str, Any]) -> None:
    if choice["logprobs"] is not None:
        choice["logprobs"] = {name: entries[1:] for name, entries in choice["logprobs"].items()}
        choice["token_ids"] = choice["token_ids"][1:]
    if choice["prompt_logprobs"] is not None:
        choice["prompt_logprobs"].pop()


FAULTS: dict[str, Any] = {
    "429": lambda reply: Reply(429, '{"error": {"message": "slow down"}}'),
    "429 with a time": lambda reply: Reply(429, "{}", {"retry-after": "0.01"}),
    "500": lambda reply: Reply(500, "oh no"),
    "503 with a time": lambda reply: Reply(503, "", {"retry-after-ms": "5"}),
    "drips": lambda reply: Reply(200, reply.body[:60], fault="drip"),
    "cut": lambda reply: Reply(200, reply.body, fault="cut"),
    "reset": lambda reply: Reply(fault="reset"),
    "no JSON": lambda reply: Reply(200, reply.body[:-5]),
    "a page": lambda reply: Reply(200, PAGE, {"content-type": "text/html"}),
    "no log-probabilities": edited(without_logprobs),
    "short log-probabilities": edited(short_logprobs),
    "no text": edited(lambda choice: choice.update(text=None)),
}
INCOMPLETE = ("no log-probabilities", "short log-probabilities", "no text")


@cache
def question_ids() -> list[int]:
    """The question that finds out what an endpoint tells, as ids."""
    return list(at.load("demo").codec.encode(QUESTION).ids)


def is_probing(seen: Seen) -> bool:
    """Whether this is asked to find out what the endpoint tells."""
    prompt = (seen.body or {}).get("prompt", QUESTION)
    return prompt[: len(question_ids())] == question_ids() if isinstance(prompt, list) else prompt.startswith(QUESTION)


def now_and_then(names: tuple[str, ...], fraction: float) -> Fault:
    """These faults, for so large a part of the calls; whoever is patient gets an answer."""

    def plan(seen: Seen, times: int, reply: Reply) -> Reply | None:
        drawn = chance(seen, times)
        if drawn >= fraction or times >= PATIENT:
            return None
        name = names[int(drawn / fraction * len(names))]
        # What does not add up is asked once more, and no more, while it is found out what an endpoint tells.
        if name in INCOMPLETE and (times > 0 or seen.body is None) and is_probing(seen):
            return None
        return FAULTS[name](reply)

    return plan


def accounted(model: at.RemoteModel, endpoint: Endpoint) -> None:
    """Every call is in the account and was seen at the server, and never too many at once."""
    spending, server = model.client.spending, endpoint.server
    # What an error elsewhere has cut off may have been called off before the server saw it.
    assert spending.calls - spending.cut_off <= len(server.seen) <= spending.calls
    assert spending.calls == spending.answered + sum(spending.failures.values()) + spending.cut_off
    assert spending.peak <= model.client.limits.max_concurrency
    assert server.peak <= model.client.limits.max_concurrency


def same(result: at.Attribution, expected: at.Attribution) -> None:
    """The same to the last digit."""
    assert np.array_equal(result.scores, expected.scores)
    assert np.array_equal(result.evaluations.keep, expected.evaluations.keep)
    assert np.array_equal(result.evaluations.values, expected.evaluations.values)
    assert result.outputs == expected.outputs
    assert result.units == expected.units
    assert "partial" not in result.notes


@pytest.mark.parametrize("tokenizer", [None, pytest.param("demo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_third_of_the_calls_fails(
    fault: str,
    tokenizer: str | None,
    demo: LocalModel,
    expected: dict[str | None, at.Attribution],
    tmp_path: Path,
) -> None:
    plan = now_and_then((fault,), 0.3)
    with Endpoint(demo, fault=plan, delay=0.002) as endpoint:
        timeout = 0.5 if fault == "drips" else 30.0
        bounds = limits(retries=PATIENT, max_concurrency=4, timeout=timeout)
        model = remote(endpoint, tokenizer=tokenizer, limits=bounds, cache=tmp_path / "replies.sqlite3")
        result = explained(model)
        same(result, expected[tokenizer])
        accounted(model, endpoint)
        spending = model.client.spending
        assert sum(spending.failures.values()) == spending.retried
        assert spending.retried > 2 or fault == "no text"  # which scoring does not need
        assert result.notes["calls"]["retried"] == spending.retried
        # Nothing that was broken is kept: another run has the same to read.
        again = explained(remote(endpoint, tokenizer=tokenizer, limits=bounds, cache=tmp_path / "replies.sqlite3"))
        same(again, expected[tokenizer])


@pytest.mark.parametrize("fraction", [0.1, 0.6])
def test_all_of_it_at_once(fraction: float, demo: LocalModel, expected: dict[str | None, at.Attribution]) -> None:
    names = tuple(name for name in FAULTS if name != "drips")
    with Endpoint(demo, fault=now_and_then(names, fraction), delay=0.002) as endpoint:
        model = remote(endpoint, limits=limits(retries=2 * PATIENT, max_concurrency=6))
        same(explained(model), expected[None])
        accounted(model, endpoint)


def test_a_chat_among_faults(demo: LocalModel) -> None:
    options = {"units": "sentence", "method": "leave_one_out"}
    plan = now_and_then(("429", "cut", "500"), 0.4)
    with Endpoint(demo) as well, Endpoint(demo, fault=plan) as endpoint:
        model = remote(endpoint, limits=limits(retries=PATIENT))
        same(at.explain(model, CHAT, **options), at.explain(remote(well), CHAT, **options))
        accounted(model, endpoint)


def test_what_never_ends_well_ends_with_an_error(demo: LocalModel) -> None:
    def plan(seen: Seen, times: int, reply: Reply) -> Reply | None:
        return Reply(503, "") if seen.body is not None and "prompt_logprobs" in seen.body and times else None

    with Endpoint(demo, fault=lambda seen, times, reply: plan(seen, len(endpoint.seen) > 6, reply)) as endpoint:
        model = remote(endpoint, limits=limits(retries=1))
        with pytest.raises(ApiError, match="status 503 after 2 calls"):
            explained(model)
        accounted(model, endpoint)


def test_peak_concurrency(demo: LocalModel) -> None:
    """As many calls as allowed are under way at once, and never more."""
    for most in (1, 3):
        with Endpoint(demo, delay=0.02) as endpoint:
            model = remote(endpoint, limits=limits(max_concurrency=most))
            explained(model)
            assert endpoint.server.peak == model.client.spending.peak == most
            accounted(model, endpoint)


# Budgets


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 9, 15, 21])
def test_a_budget_is_never_exceeded(calls: int, demo: LocalModel, expected: dict[str | None, at.Attribution]) -> None:
    with Endpoint(demo, fault=now_and_then(("429",), 0.2)) as endpoint:
        model = remote(endpoint, limits=limits(max_calls=calls))
        if calls <= 5:
            with pytest.raises(BudgetError, match="budget ended"):
                explained(model)
        else:
            result = explained(model)
            assert result.notes["partial"] is True
            whole = expected[None].evaluations
            known = {keep.tobytes(): values for keep, values in zip(whole.keep, whole.values, strict=True)}
            for keep, values in zip(result.evaluations.keep, result.evaluations.values, strict=True):
                assert np.array_equal(known[keep.tobytes()], values)
            assert 0 < len(result.evaluations) < len(whole)
            assert np.isfinite(result.scores).all()
        assert len(endpoint.seen) == model.client.spending.calls == calls
        accounted(model, endpoint)


def test_what_a_budget_ended_goes_on_from_the_cache(
    demo: LocalModel,
    expected: dict[str | None, at.Attribution],
    tmp_path: Path,
) -> None:
    cache = tmp_path / "replies.sqlite3"
    with Endpoint(demo) as endpoint:
        sent = 0
        for _ in range(20):
            model = remote(endpoint, limits=limits(max_calls=4), cache=cache)
            try:
                result = explained(model)
            except BudgetError:
                result = None
            sent += model.client.spending.calls
            if result is not None and "partial" not in result.notes:
                break
        same(result, expected[None])
        assert sent == len(endpoint.seen) == len({json.dumps([seen.path, seen.body]) for seen in endpoint.seen})


# Dry runs


@pytest.mark.parametrize("tokenizer", [None, "demo"])
@pytest.mark.parametrize("method", ["leave_one_out", pytest.param("lime", marks=pytest.mark.slow)])
def test_a_plan_sends_nothing_and_comes_true(
    method: str, tokenizer: str | None, demo: LocalModel, tmp_path: Path
) -> None:
    chosen = type(build_method(method))(**({"samples": 30} if method == "lime" else {}))
    with Endpoint(demo) as endpoint:
        model = remote(endpoint, tokenizer=tokenizer, cache=tmp_path / "replies.sqlite3")
        unknown = explained(model, method=chosen, dry_run=True)
        assert not endpoint.seen
        assert (unknown.probing, unknown.cached) == (MOST, 0)
        model.capabilities(PROMPT if tokenizer is None else (0,))
        known = len(endpoint.seen)
        plan = explained(model, method=chosen, dry_run=True)
        assert len(endpoint.seen) == known
        assert (plan.method, plan.probing, plan.cached) == (method, 0, 0)
        assert plan.calls == plan.prompts + 1  # the output is written first
        result = explained(model, method=chosen)
        sent = len(endpoint.seen) - known
        # LIME draws some masks twice, which is not known before it has drawn them: it is planned for that it does not.
        assert sent == plan.calls if method == "leave_one_out" else 0.8 * plan.calls < sent <= plan.calls
        assert result.notes["calls"] == {"sent": sent, "retried": 0, "cached": 0}
        again = explained(model, method=chosen, dry_run=True)
        assert (again.calls, again.cached) == (0, sent - 1)
        repeated = explained(model, method=chosen)
        assert repeated.notes["calls"] == {"sent": 0, "retried": 0, "cached": sent}
        assert len(endpoint.seen) == known + sent
        same(repeated, result)


def test_a_plan_of_a_chat_comes_true(demo: LocalModel, tmp_path: Path) -> None:
    options: dict[str, Any] = {"units": "sentence", "method": "leave_one_out"}
    with Endpoint(demo) as endpoint:
        model = remote(endpoint, cache=tmp_path / "replies.sqlite3")
        model.capabilities(CHAT)
        plan = at.explain(model, CHAT, dry_run=True, **options)
        known = len(endpoint.seen)
        result = at.explain(model, CHAT, **options)
        assert result.notes["calls"]["sent"] == len(endpoint.seen) - known <= plan.calls
        assert plan.calls == len(endpoint.seen) - known
        assert at.explain(model, CHAT, dry_run=True, **options).calls == 0


def test_what_a_plan_says_of_money(demo: LocalModel, tmp_path: Path) -> None:
    with Endpoint(demo) as endpoint:
        bounds = limits(input_price=2.0, output_price=6.0)
        model = remote(endpoint, cache=tmp_path / "replies.sqlite3", limits=bounds)
        model.capabilities(PROMPT)
        before = model.client.spending.cost
        plan = explained(model, dry_run=True)
        result = explained(model)
        spent = model.client.spending.cost - before
        assert 0 < spent == pytest.approx(result.notes["calls"]["cost"])
        assert spent <= plan.cost < 20 * spent
        assert result.cost["tokens"] > 0


# Killed


PROGRAM = """
import sys
import attribution as at
from attribution.models.api.limits import Backoff
model = at.RemoteModel(sys.argv[1], "demo", cache=sys.argv[2], progress=False, limits=at.Limits(max_concurrency=3))
at.explain(model, sys.argv[3], method="leave_one_out", units="word")
"""


@pytest.mark.slow
def test_nothing_is_paid_for_twice_after_a_kill(
    demo: LocalModel,
    expected: dict[str | None, at.Attribution],
    tmp_path: Path,
) -> None:
    cache = tmp_path / "replies.sqlite3"
    with Endpoint(demo, delay=0.05) as endpoint:
        command = [sys.executable, "-c", PROGRAM, f"{endpoint.url}/v1", str(cache), PROMPT]
        process = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
        try:
            until = time.monotonic() + 240
            while len(endpoint.server.answered) < 12 and process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
        time.sleep(0.2)  # what was under way is answered by then
        before = len(endpoint.seen)
        result = explained(remote(endpoint, cache=cache))
        same(result, expected[None])
        assert len(endpoint.seen) > before  # it was killed in the middle
        answered = Counter(json.dumps([seen.path, seen.body]) for seen in endpoint.server.answered)
        twice = [body for body, times in answered.items() if times > 1]
        assert len(twice) <= 3
        assert max(answered.values()) <= 2
        under_way = [json.dumps([seen.path, seen.body]) for seen in endpoint.seen[before - 3 : before]]
        assert set(twice) <= set(under_way)
