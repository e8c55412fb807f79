"""Budget: what may be spent; no call is sent that could take more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from attribution.errors import InputError
from attribution.models.api.limits import Limits
from attribution.models.api.request import Request
from attribution.models.api.spending import Spending, usage

_UNSEEN = 64
"""Tokens that a chat template may write around what a request says."""
_BYTES = 4
"""Bytes of a token, about."""
_LONGEST = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict", "max_new_tokens")
_TIMES = ("n", "best_of", "n_cmpl")
_WRITING = ("completions", "completion", "responses", "generate")


@dataclass(frozen=True)
class Size:
    """Tokens of a call: about how many it reads, the most it can read, and the most it can write, None if unknown."""

    about: int
    read: int
    written: int | None


def size(request: Request) -> Size:
    """How many tokens a call takes, as far as its request tells."""
    body: Mapping[str, Any] = request.body or {}
    written: int | None = 0
    if request.body is not None and request.path.split("?")[0].rstrip("/").endswith(_WRITING):
        bounds = [body[name] for name in _LONGEST if _is_count(body.get(name))]
        written = max(bounds) * _answers(body) if bounds else None
    return Size(-(-request.size // _BYTES), request.size + _UNSEEN if body else 0, written)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _answers(body: Mapping[str, Any]) -> int:
    """How many texts one call writes."""
    prompts = body.get("prompt")
    many = isinstance(prompts, list) and any(isinstance(each, (str, list)) for each in cast("list[Any]", prompts))
    times = max([1, *(body[name] for name in _TIMES if _is_count(body.get(name)))])
    return times * (len(cast("list[Any]", prompts)) if many else 1)


class Budget:
    """Calls and money that are left. What calls under way could cost at most is set aside until they have ended."""

    def __init__(self, limits: Limits, spending: Spending) -> None:
        self._limits, self.spending = limits, spending
        self.ended: str | None = None
        """The limit that was reached, by its name."""
        self._until: float | None = None
        if limits.input_price is not None:
            spending.cost = 0.0
        self._aside = 0.0
        self._settled = asyncio.Event()

    @property
    def left(self) -> int | None:
        """Calls that may still be sent; None where their number has no limit."""
        return None if self._limits.max_calls is None else self._limits.max_calls - self.spending.calls

    def begin(self) -> None:
        """Starts the clock, if nothing has yet."""
        if self._until is None and self._limits.total_timeout is not None:
            self._until = time.monotonic() + self._limits.total_timeout

    @property
    def seconds_left(self) -> float | None:
        """Until nothing more is asked; None without such a limit."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def check(self, request: Request) -> None:
        """Raises `InputError` where nobody knows what a request costs at most, and that is to be held to a limit."""
        if self._limits.max_cost is not None:
            _check_bound(request)

    async def take(self, request: Request) -> float | None:
        """What is set aside for one call, which counts as sent; None where the budget does not allow it.

        Money that calls under way may not need is waited for.
        """
        most = self.most(request)
        while True:
            if self.left is not None and self.left <= 0:
                self.ended = "max_calls"
                return None
            limit, spent = self._limits.max_cost, self.spending.most_cost
            # Rounding must not make a budget of exactly ten calls end after nine.
            if limit is None or spent is None or spent + self._aside + most <= limit * (1 + 1e-12):
                break
            if not self._aside:
                self.ended = "max_cost"
                return None
            await self._settled.wait()
        self.spending.calls += 1
        self._aside += most
        return most

    def most(self, request: Request) -> float:
        """The most that a call can cost; 0 without prices."""
        asked = size(request)
        return self._limits.cost(asked.read, asked.written or 0) or 0.0

    def most_of(self, requests: Sequence[Request]) -> float | None:
        """The most that one call for each can cost; None without prices. `InputError` where nobody knows that."""
        if self._limits.input_price is None:
            return None
        for request in requests:
            _check_bound(request)
        return sum(map(self.most, requests))

    def settle(self, aside: float, reply: Mapping[str, Any] | None, *, billed: bool) -> tuple[int, int] | None:
        """Ends a call: counts the tokens that its reply tells, and gives them. One that is not billed cost nothing."""
        self._aside = max(0.0, self._aside - aside)
        # A new one each time: it belongs to the event loop that first waited for it.
        self._settled.set()
        self._settled = asyncio.Event()
        told = None if reply is None else usage(reply)
        if told is not None:
            self.spending.input_tokens += told[0]
            self.spending.output_tokens += told[1]
            cost = self._limits.cost(*told)
            if cost is not None and self.spending.cost is not None:
                self.spending.cost += cost
        elif billed:
            self.spending.unmetered += 1
            self.spending.unmetered_cost += aside
        return told


def _check_bound(request: Request) -> None:
    if size(request).written is None:
        raise InputError(
            f"Expected a request that says how much may be written, so that its cost is known; got {request.what} "
            "without max_tokens. Set max_tokens, or max_calls in place of max_cost."
        )
