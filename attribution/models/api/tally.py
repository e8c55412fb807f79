"""Tally: what one piece of work has spent, where several share a client at the same time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Tally:
    """Calls that were `sent`, those of them that `retried` a failed one, and rows that were in the cache.

    `tokens` and `cost` are as the replies tell, the cost 0 without prices. A call that several pieces of work wait for
    is counted by the one that sent it.
    """

    sent: int = 0
    retried: int = 0
    cached: int = 0
    tokens: int = 0
    cost: float = 0.0


_tallies: ContextVar[tuple[Tally, ...]] = ContextVar("tallies", default=())


@contextmanager
def tallying() -> Generator[Tally]:
    """What is spent by this thread, or this task, while this lasts, whichever loop the calls are sent from."""
    own = Tally()
    token = _tallies.set((*_tallies.get(), own))
    try:
        yield own
    finally:
        _tallies.reset(token)


def tally(*, sent: int = 0, retried: int = 0, cached: int = 0, tokens: int = 0, cost: float = 0.0) -> None:
    """Adds to all tallies of the work that is now done."""
    for each in _tallies.get():
        each.sent += sent
        each.retried += retried
        each.cached += cached
        each.tokens += tokens
        each.cost += cost
