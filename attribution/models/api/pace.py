"""Pace: how many calls are under way at once, and how fast they follow one another."""

from __future__ import annotations

import asyncio
from typing import Any

_AT_ONCE = 1 / 600
"""The part of a minute's allowance that may be used in one go, a tenth of a second's worth: no window of a minute holds
more than that part too many."""


class Rate:
    """So many a minute, spread evenly. It goes on where it was when it is opened in another event loop."""

    def __init__(self, per_minute: float | int) -> None:
        self._per_second = per_minute / 60
        self._room = max(1.0, per_minute * _AT_ONCE)
        self._limiter: Any = None
        self._turn = asyncio.Lock()
        self._empty_at = 0.0
        """When what was taken so far has leaked away, by the clock that all event loops share."""
        self._owed = 0.0

    async def open(self) -> None:
        """Makes it ready for this event loop."""
        from aiolimiter import AsyncLimiter

        self._limiter = AsyncLimiter(self._room, self._room / self._per_second)
        self._turn = asyncio.Lock()
        left = (self._empty_at - asyncio.get_running_loop().time()) * self._per_second
        if left > 0:
            await self._limiter.acquire(min(left, self._room))

    async def take(self, amount: float | int) -> None:
        """Waits until so many more may be used; who came first goes first."""
        # The limiter would let small amounts overtake large ones for ever.
        async with self._turn:
            amount, self._owed = amount + self._owed, 0.0
            while amount > 0:
                part = min(amount, self._room)
                await self._limiter.acquire(part)
                amount -= part
                now = asyncio.get_running_loop().time()
                self._empty_at = max(now, self._empty_at) + part / self._per_second

    def owe(self, amount: float | int) -> None:
        """So many more were used than were taken: who comes next waits for them too."""
        self._owed += max(0.0, amount)


class Pace:
    """Places for calls under way, and their turns. One for each event loop; its rates outlive it."""

    def __init__(self, places: int, requests: Rate | None, tokens: Rate | None) -> None:
        self._places = asyncio.Semaphore(places)
        self._requests, self._tokens = requests, tokens
        self._not_before = 0.0

    async def open(self) -> None:
        """Makes its rates ready for this event loop."""
        for rate in (self._requests, self._tokens):
            if rate is not None:
                await rate.open()

    @property
    def places(self) -> asyncio.Semaphore:
        """To be held while a call is under way."""
        return self._places

    async def turn(self, tokens: int) -> None:
        """Waits until a call of about so many tokens may be sent. Whoever waits holds a place."""
        if self._tokens is not None:
            await self._tokens.take(tokens)
        if self._requests is not None:
            await self._requests.take(1)
        # Last: the endpoint may have asked for a pause meanwhile.
        while (left := self._not_before - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    def pause(self, seconds: float | int) -> None:
        """Sends nothing for so long: an endpoint that turns one call away turns the next away too."""
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)

    def correct(self, taken: int, used: int) -> None:
        """A call used so many tokens, and about so many were taken for it."""
        if self._tokens is not None:
            self._tokens.owe(used - taken)
