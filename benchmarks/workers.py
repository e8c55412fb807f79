"""Processes that each hold one library and do one piece of work at a time, when they are asked.

The parent imports nothing heavy: a process starts with the peak memory of the one that started it.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pkgutil import resolve_name
from types import TracebackType
from typing import Any

SECONDS_TO_END = 5
"""How long a process may take to end by itself."""


class WorkerError(Exception):
    """A worker could not do what it was asked; the message says why."""


class Worker:
    """A process that answers questions, one after the other, for as long as the `with` block runs.

    `desk` names a function, `"package.module:function"`; the process calls it with `settings`, and what it gives is
    called with every question. Questions and answers are pickled.

    Raises `WorkerError` where the process cannot start.
    """

    def __init__(self, desk: str, *settings: object) -> None:
        self._connection, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(theirs, desk, settings), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except WorkerError:
            self.close()
            raise

    def ask(self, question: object) -> Any:
        """The answer; `WorkerError` where the work failed or the process ended."""
        try:
            self._connection.send(question)
        except BrokenPipeError:
            raise WorkerError("the process has ended") from None
        return self._receive()

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.is_alive()

    def close(self) -> None:
        """Ends the process and waits until it is gone; work that it is at is lost."""
        self._connection.close()
        self._process.join(timeout=SECONDS_TO_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            done, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(timeout=SECONDS_TO_END)
            raise WorkerError(f"the process ended with exit code {self._process.exitcode}") from None
        if not done:
            raise WorkerError(answer)
        return answer


def _serve(connection: Connection, desk: str, settings: tuple[object, ...]) -> None:
    """What the process does: opens its desk, says so, and answers until the parent closes the pipe."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.dup2(2, 1)  # standard output is the parent's alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and closes the pipe
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        answer: Callable[[Any], object] = resolve_name(desk)(*settings)
    except Exception as error:  # whatever goes wrong here is for the parent to report
        connection.send((False, _message(error)))
        return
    connection.send((True, None))
    while True:
        try:
            question = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            reply = (True, answer(question))
        except Exception as error:  # of one question: the next may be answered
            reply = (False, _message(error))
        connection.send(reply)


def _message(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
