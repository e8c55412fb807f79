"""Asking: many questions at once, answered in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from attribution.models.api.request import Request
from attribution.models.api.session import Check, Session
from attribution.models.api.tally import tally

Notice = Callable[[int, int], None]
"""Told after every row how many are known, and of how many."""

_WAITING = 4
"""For each place, how many questions are begun: those that wait for a repetition leave theirs to others."""


@dataclass
class Asking:
    """The questions of one `ask`, by digest, and the rows that are known of them."""

    session: Session
    questions: dict[str, Request]
    check: Check
    notice: Notice | None
    progress: bool

    def __post_init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    async def run(self, places: int) -> dict[str, dict[str, Any]]:
        """The rows that could be known within the budget. Raises the first error, once all others have ended."""
        # A bar that is not seen would leave the thread running that looks after bars.
        shown = self._bar() if self.progress else nullcontext()
        with self.session.wanting(self.questions), shown as bar:
            self._remember(bar)
            missing = iter([key for key in self.questions if key not in self.rows])
            tasks: list[asyncio.Task[None]] = []
            for _ in range(min(places * _WAITING, len(self.questions) - len(self.rows))):
                tasks.append(asyncio.create_task(self._work(missing, bar, tasks)))
            await self._finish(tasks)
        return self.rows

    def _bar(self) -> tqdm[Any]:
        return tqdm(total=len(self.questions), desc="calls", disable=None, delay=1, leave=False)

    def _remember(self, bar: tqdm[Any] | None) -> None:
        """Takes what the cache knows."""
        if self.session.cache is None:
            return
        for key, reply in self.session.cache.find(self.questions).items():
            if not self.check(reply):
                self.session.budget.spending.cached += 1
                tally(cached=1)
                self._tell(key, reply, bar)

    async def _work(self, missing: Iterator[str], bar: tqdm[Any] | None, all_at_work: list[asyncio.Task[None]]) -> None:
        """Asks one after another, as long as there are some that nobody has asked."""
        try:
            for key in missing:
                reply = await self.session.answer(self.questions[key], key, self.check)
                if reply is not None:
                    self._tell(key, reply, bar)
        except BaseException:
            # At once: the place that this one leaves is not to be taken by a call that nobody waits for.
            for task in all_at_work:
                if task is not asyncio.current_task():
                    task.cancel()
            raise

    async def _finish(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Until all have ended, one has failed, or the time is over; then none of them runs any more."""
        if not tasks:
            return
        budget = self.session.budget
        try:
            _, late = await asyncio.wait(tasks, timeout=budget.seconds_left, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [each for each in ended if each is not None and not isinstance(each, asyncio.CancelledError)]
        if errors:
            raise errors[0]
        if late:
            budget.ended = "total_timeout"

    def _tell(self, key: str, reply: dict[str, Any], bar: tqdm[Any] | None) -> None:
        self.rows[key] = reply
        if bar is not None:
            retried = self.session.budget.spending.retried
            again = f", {retried} again" if retried else ""
            bar.set_postfix_str(f"{len(self.questions) - len(self.rows)} left{again}", refresh=False)
            bar.update()
        if self.notice is not None:
            self.notice(len(self.rows), len(self.questions))
