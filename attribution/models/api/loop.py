"""Loop: one event loop in a thread of its own, there for as long as someone uses it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from attribution.errors import InputError
from attribution.models.api.threads import ended, waiting

Held = TypeVar("Held")
Returned = TypeVar("Returned")


class Loop(Generic[Held]):
    """Runs work in an event loop of its own, on what is open there for as long as the loop is.

    Whoever asks, a script, a notebook whose own loop runs, several threads or loops: their work meets in one place, so
    that limits hold for all of it together. The thread begins with the first user and ends with the last.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Held]]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Held]] = Future()

    def enter(self) -> None:
        """Begins a use; raises what opening raises, and `InputError` for work that would wait for itself."""
        if threading.current_thread() is self._thread:
            raise InputError("Expected no question from inside of check or notice, got one. Ask it before or after.")
        with self._lock:
            if self._users == 0:
                self._ready = Future()
                self._thread = threading.Thread(target=self._live, name="attribution api", daemon=True)
                self._thread.start()
                try:
                    self._ready.result()
                except BaseException:
                    self._thread.join()
                    raise
            self._users += 1

    def leave(self) -> None:
        """Ends a use; after the last nothing is left running."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._thread is not None:
                loop, over, _ = self._ready.result()
                loop.call_soon_threadsafe(over.set)
                self._thread.join()
                self._thread = None

    def run(self, work: Callable[[Held], Coroutine[Any, Any, Returned]]) -> Returned:
        """What the work gives. Interrupted, or called off (see `threads`), it has ended before this raises."""
        self.enter()
        try:
            outcome, cancel = self._begin(work)
            try:
                with waiting(cancel):
                    return outcome.result()
            except BaseException:
                # Whatever came, the interruption of this thread among it: the work is to end before this does.
                cancel()
                _wait(outcome)
                raise
        finally:
            self.leave()

    async def arun(self, work: Callable[[Held], Coroutine[Any, Any, Returned]]) -> Returned:
        """As `run`, for those who wait in an event loop; cancelled, it ends once the work has."""
        self.enter()
        try:
            outcome, cancel = self._begin(work)
            waited = asyncio.wrap_future(outcome)
            try:
                return await asyncio.shield(waited)
            except BaseException:
                cancel()
                await ended(waited)
                raise
        finally:
            self.leave()

    def _begin(
        self, work: Callable[[Held], Coroutine[Any, Any, Returned]]
    ) -> tuple[Future[Returned], Callable[[], None]]:
        """Starts the work, and gives what comes of it and how to cancel it."""
        loop, _, held = self._ready.result()
        outcome: Future[Returned] = Future()
        begun: list[asyncio.Task[Returned]] = []

        def start() -> None:
            begun.append(loop.create_task(work(held)))
            begun[0].add_done_callback(settle)

        def settle(task: asyncio.Task[Returned]) -> None:
            if task.cancelled():
                outcome.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(task.result())

        def cancel() -> None:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in begun])

        loop.call_soon_threadsafe(start)
        return outcome, cancel

    def _live(self) -> None:
        ready = self._ready

        async def stay() -> None:
            over = asyncio.Event()
            async with self._opened() as held:
                ready.set_result((asyncio.get_running_loop(), over, held))
                await over.wait()

        try:
            asyncio.run(stay())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)


def _wait(outcome: Future[Any]) -> None:
    """Until the work has ended, however it did."""
    outcome.exception()
