"""Client: questions to one endpoint, asked many at once, within limits, and none of them paid for twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, cast
from urllib.parse import urlsplit

from attribution.errors import InputError, MissingExtraError
from attribution.models.api.asking import Asking, Notice
from attribution.models.api.budget import Budget
from attribution.models.api.cache import Cache
from attribution.models.api.limits import Limits
from attribution.models.api.loop import Loop
from attribution.models.api.pace import Rate
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret
from attribution.models.api.session import Check, Session, open_session
from attribution.models.api.spending import Spending

_is_offline: ContextVar[bool] = ContextVar("is_offline", default=False)

Row = dict[str, Any] | None
"""A reply, or None where the budget ended before there was one."""


class Client:
    """Asks the endpoint at `base_url`, whose paths follow after it: `https://api.openai.com/v1`.

    All questions meet in one event loop in a thread of its own, whoever asks them: limits hold for all of them
    together. The thread and the connections end with the call; `with client:` keeps them open in between. What is asked
    twice at the same time is sent once, and what is in `cache` is not sent. `progress` shows a bar on standard error.

    The key is sent to the endpoint's own host only, and is in no message, log, file or picture of this.

    Raises `InputError` for an URL or a key that is none, `MissingExtraError` where openai, stamina or aiolimiter is not
    installed.
    """

    def __init__(
        self,
        base_url: str,
        api_key: Secret | str | None = None,
        limits: Limits | None = None,
        cache: Cache | None = None,
        *,
        progress: bool = False,
    ) -> None:
        for package in ("openai", "stamina", "aiolimiter"):
            if find_spec(package) is None:
                raise MissingExtraError(
                    f'A model behind an API needs the package {package}. Type: pip install "llm-attribution[api]"'
                )
        self.base_url = _checked(base_url)
        self._secret = api_key if isinstance(api_key, Secret) else Secret(api_key)
        self.limits = limits or Limits()
        self.cache = cache
        self.progress = progress
        self._budget = Budget(self.limits, Spending())
        requests, tokens = self.limits.requests_per_minute, self.limits.tokens_per_minute
        self._rates = (Rate(requests) if requests else None, Rate(tokens) if tokens else None)
        self._loop = Loop(self._open)

    def __repr__(self) -> str:
        bare = urlsplit(self.base_url)._replace(query="", fragment="").geturl()
        return f"Client({bare!r}, {self.limits}, {self.cache})"

    def __enter__(self) -> Client:
        self._loop.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.leave()

    @property
    def spending(self) -> Spending:
        """What was spent until now, since the client was made or `begin_account` was called."""
        return self._budget.spending.copy()

    @property
    def exhausted(self) -> str | None:
        """Which limit ended before all was asked: `"max_calls"`, `"max_cost"` or `"total_timeout"`; else None."""
        return self._budget.ended

    @property
    def is_exhausted(self) -> bool:
        """Whether a limit ended before all was asked."""
        return self.exhausted is not None

    def begin_account(self) -> None:
        """Counts anew: nothing is spent, the budget is whole, and the time begins with the next question.

        Calls that are under way belong to the account that they were begun in.
        """
        self._budget = Budget(self.limits, Spending())

    @contextmanager
    def offline(self) -> Generator[None]:
        """Within it this thread sends nothing: what the cache does not know is None, as where a budget ended."""
        before = _is_offline.set(True)
        try:
            yield
        finally:
            _is_offline.reset(before)

    def known(self, requests: Sequence[Request]) -> list[bool]:
        """For each request whether the cache has a reply: what would cost nothing."""
        if self.cache is None:
            return [False] * len(requests)
        keys = [request.digest(self.base_url) for request in requests]
        found = self.cache.find(dict.fromkeys(keys))
        return [key in found for key in keys]

    def most_cost(self, requests: Sequence[Request]) -> float | None:
        """The most that these can cost where each takes one call; None without prices.

        Raises `InputError` for a request that does not say how much may be written.
        """
        return self._budget.most_of(requests)

    async def ask(
        self, requests: Sequence[Request], check: Check | None = None, notice: Notice | None = None
    ) -> list[Row]:
        """The replies, in the order of the requests; None for those that the budget was not enough for.

        `check` says what a reply lacks, or None; incomplete ones are asked again. `notice` is told after every reply
        how many are known, and of how many. Both are called in another thread. Requests that are the same share one
        reply: change none.

        Raises `ApiError` where the endpoint refuses a request, or fails for longer than the limits allow; what was
        under way is cancelled then, as it is when this is. What came before is in the cache.
        """
        if _is_offline.get():
            return self._remembered(requests, check)
        return await self._loop.arun(self._asking(requests, check, notice))

    def ask_sync(
        self, requests: Sequence[Request], check: Check | None = None, notice: Notice | None = None
    ) -> list[Row]:
        """As `ask`, for scripts, and for notebooks whose own event loop runs; it returns when all is known."""
        if _is_offline.get():
            return self._remembered(requests, check)
        return self._loop.run(self._asking(requests, check, notice))

    def _remembered(self, requests: Sequence[Request], check: Check | None) -> list[Row]:
        """What the cache knows of these; None for the rest."""
        if self.cache is None:
            return [None] * len(requests)
        keys = [request.digest(self.base_url) for request in requests]
        known = self.cache.find(dict.fromkeys(keys))
        found = [known.get(key) for key in keys]
        return [None if row is None or (check is not None and check(row)) else row for row in found]

    def _asking(
        self, requests: Sequence[Request], check: Check | None, notice: Notice | None
    ) -> Callable[[Session], Coroutine[Any, Any, list[Row]]]:
        """The work of one `ask`."""
        for request in requests:
            self._budget.check(request)
        keys = [request.digest(self.base_url) for request in requests]
        questions = dict(zip(keys, requests, strict=True))

        async def work(session: Session) -> list[Row]:
            self._budget.begin()
            self._budget.spending.shared += len(keys) - len(questions)
            asking = Asking(session, questions, check or _whole, notice, self.progress)
            rows = await asking.run(self.limits.max_concurrency)
            return [rows.get(key) for key in keys]

        return work

    def _open(self) -> AbstractAsyncContextManager[Session]:
        return open_session(self.base_url, self._secret, self.limits, self.cache, self._rates, lambda: self._budget)


def _whole(_: Any) -> None:
    """Any reply is."""


def _checked(base_url: str) -> str:
    try:
        whole = urlsplit(base_url if isinstance(cast(object, base_url), str) else "")
        _ = whole.port
    except ValueError:
        whole = urlsplit("")
    if whole.username is not None or whole.password is not None:
        raise InputError("Expected base_url without a password in it. Give the password as api_key.")
    if whole.scheme not in ("http", "https") or not whole.hostname:
        # Whatever stands there may hold a key.
        bare = str(base_url).rpartition("@")[2].partition("?")[0]
        raise InputError(f"Expected base_url as a URL such as http://localhost:8080/v1, got {bare!r}.")
    return base_url.rstrip("/")
