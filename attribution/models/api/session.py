"""Session: what all questions to an endpoint share while any is under way, in the one event loop they meet in."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from itertools import count
from typing import Any

from attribution.models.api.budget import Budget, size
from attribution.models.api.cache import Cache
from attribution.models.api.failures import CallError, parsed
from attribution.models.api.limits import Limits
from attribution.models.api.pace import Pace, Rate
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret
from attribution.models.api.tally import tally
from attribution.models.api.wire import Wire

Check = Callable[[Mapping[str, Any]], str | None]
"""Says what a reply lacks; None where it is whole."""

_WAIT_ALL = frozenset({429, 503})
"""Statuses that are about the caller or the server as a whole, not about one call."""

_asking: ContextVar[bool] = ContextVar("asking", default=False)


class _EndedError(Exception):
    """The budget does not allow another call."""


class Session:
    """Sends questions, each of them once at a time: whoever asks the same meanwhile is given the same reply."""

    def __init__(
        self, wire: Wire, pace: Pace, limits: Limits, cache: Cache | None, secret: Secret, budget: Callable[[], Budget]
    ) -> None:
        self._wire, self._pace, self._limits, self._secret = wire, pace, limits, secret
        self.cache = cache
        self._budget = budget
        self._under_way = 0
        self._flights: dict[str, asyncio.Future[dict[str, Any] | None]] = {}
        self._wanted: Counter[str] = Counter()

    @property
    def budget(self) -> Budget:
        """The one that calls are now counted in."""
        return self._budget()

    @contextmanager
    def wanting(self, keys: Iterable[str]) -> Generator[None, None, None]:
        """Keeps the replies to these as long as this lasts, for whoever else wants them."""
        wanted = list(keys)
        self._wanted.update(wanted)
        try:
            yield
        finally:
            for key in wanted:
                self._wanted[key] -= 1
                if not self._wanted[key]:
                    del self._wanted[key]
                    self._flights.pop(key, None)

    async def answer(self, request: Request, key: str, check: Check) -> dict[str, Any] | None:
        """The reply to a request, whose digest is `key`; None where the budget ended before.

        Raises `ApiError` where the endpoint gives none.
        """
        while (flight := self._flights.get(key)) is not None:
            # Shielded: whoever ends waiting does not end the call that others wait for.
            reply = await asyncio.shield(flight)
            if reply is not None and not check(reply):
                self.budget.spending.shared += 1
                return reply
            # Cancelled, failed, or not enough for this check: this one asks.
            if self._flights.get(key) is flight:
                del self._flights[key]
        own = self._flights[key] = asyncio.get_running_loop().create_future()
        reply = None
        try:
            reply = await self._asked(request, key, check)
        finally:
            own.set_result(reply)
        return reply

    async def _asked(self, request: Request, key: str, check: Check) -> dict[str, Any] | None:
        """The reply; None where the budget ended before, `ApiError` where there is none."""
        try:
            return await self._attempts(request, key, check)
        except _EndedError:
            return None
        except CallError as error:
            told = error.told(request)
        # Here and not above, so that nothing is chained to it.
        raise told

    async def _attempts(self, request: Request, key: str, check: Check) -> dict[str, Any]:
        """The reply after as many calls as it takes and the limits allow; the last one's `CallError` otherwise."""
        from stamina import AsyncRetryingCaller

        backoff, numbers = self._limits.backoff, count(1)
        caller = AsyncRetryingCaller(
            attempts=self._limits.retries + 1,
            timeout=None,
            wait_initial=backoff.first,
            wait_max=backoff.longest,
            wait_jitter=backoff.jitter,
        )
        _asking.set(True)
        return await caller(self._waits, lambda: self._call(request, key, check, next(numbers)))

    def _waits(self, error: BaseException) -> bool | float:
        """Whether a failed call is repeated, and after how many seconds where the endpoint says that."""
        if not isinstance(error, CallError) or not error.again:
            return False
        return True if error.wait is None else error.wait + random.uniform(0, self._limits.backoff.jitter)

    async def _call(self, request: Request, key: str, check: Check, number: int) -> dict[str, Any]:
        """The call of this number for it: the reply, which is in the cache by then; `CallError` otherwise."""
        asked = size(request)
        tokens = asked.about + (asked.written or 0)
        async with self._pace.places:
            await self._pace.turn(tokens)
            budget = self.budget
            aside = await budget.take(request)
            if aside is None:
                raise _EndedError
            spending, reply, failed, content, ended = budget.spending, None, None, b"", False
            spending.retried += number > 1
            tally(sent=1, retried=int(number > 1))
            self._under_way += 1
            spending.peak = max(spending.peak, self._under_way)
            try:
                content = await self._wire.send(request)
                reply = parsed(content, is_list_fine=request.body is None)
                if lacking := check(reply):
                    failed = CallError("incomplete", f"an incomplete reply ({lacking})", billed=True)
                ended = True
            except CallError as error:
                failed, ended = error, True
            finally:
                self._under_way -= 1
                used = budget.settle(aside, reply, billed=failed is None or failed.billed)
                if failed is not None:
                    spending.failures[failed.name] += 1
                spending.cut_off += not ended
            if used is not None:
                self._pace.correct(tokens, sum(used))
                tally(tokens=sum(used), cost=self._limits.cost(*used) or 0.0)
            if failed is not None:
                failed.attempts = number
                if failed.again and failed.wait and failed.status in _WAIT_ALL:
                    self._pace.pause(failed.wait)
                raise failed
            spending.answered += 1
            # Nothing is waited for since it came, so that whatever is cancelled now, it is kept.
            if self.cache is not None and not self._secret.is_in(content.decode(errors="replace")):
                self.cache.add(key, reply or {})
            return reply or {}


class _Quiet(logging.Filter):
    """Leaves out what stamina would warn of at every repetition: it is counted, and no concern of whoever waits."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _asking.get()


@asynccontextmanager
async def open_session(
    base_url: str,
    secret: Secret,
    limits: Limits,
    cache: Cache | None,
    rates: tuple[Rate | None, Rate | None],
    budget: Callable[[], Budget],
) -> AsyncGenerator[Session, None]:
    """A session in this event loop; its connections are closed at the end."""
    quiet, log = _Quiet(), logging.getLogger("stamina")
    pace = Pace(limits.max_concurrency, *rates)
    await pace.open()
    log.addFilter(quiet)
    try:
        with nullcontext() if cache is None else cache:
            async with Wire(base_url, secret, limits.timeout) as wire:
                yield Session(wire, pace, limits, cache, secret, budget)
    finally:
        log.removeFilter(quiet)
