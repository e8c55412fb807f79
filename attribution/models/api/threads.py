"""Threads: work that waits in a thread for what it has asked, and that can be called off from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Returned = TypeVar("Returned")


class Call:
    """A piece of work in a thread of its own: what it waits for can be cancelled by another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancel: Callable[[], None] | None = None
        self._is_off = self._has_begun = False

    def call_off(self) -> bool:
        """Cancels what the work waits for, and whatever it would ask next; whether it has begun, else it never does."""
        with self._lock:
            self._is_off = True
            if self._cancel is not None:
                self._cancel()
            return self._has_begun

    def do(self, work: Callable[[], Returned]) -> Returned:
        """What the work gives, done in this thread; `asyncio.CancelledError` where it was called off."""
        with self._lock:
            if self._is_off:
                raise asyncio.CancelledError
            self._has_begun = True
        token = _call.set(self)
        try:
            return work()
        finally:
            _call.reset(token)

    @contextmanager
    def waiting(self, cancel: Callable[[], None]) -> Generator[None]:
        """While this lasts, `cancel` is what calls it off."""
        with self._lock:
            if self._is_off:
                raise asyncio.CancelledError
            self._cancel = cancel
        try:
            yield
        finally:
            with self._lock:
                self._cancel = None


_call: ContextVar[Call | None] = ContextVar("call", default=None)


@contextmanager
def waiting(cancel: Callable[[], None]) -> Generator[None]:
    """While this lasts, the thread waits for something that `cancel` ends, should its work be called off."""
    call = _call.get()
    if call is None:
        yield
        return
    with call.waiting(cancel):
        yield


async def in_thread(work: Callable[[], Returned]) -> Returned:
    """What the work gives, while the caller's event loop keeps running.

    Cancelled, it ends once the work has: what the work waits for is cancelled, and what it would ask next is not asked.
    """
    call = Call()
    task = asyncio.ensure_future(asyncio.to_thread(call.do, work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not call.call_off():  # it waits for a thread, which others may keep for long
            task.cancel()
        await ended(task)
        raise


async def ended(future: asyncio.Future[Returned]) -> None:
    """Until it has ended, however it did, and however often whoever waits is cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()
