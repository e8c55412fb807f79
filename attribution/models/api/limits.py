"""Limits: how much may be asked of an endpoint at once, in a minute and in total, and how patiently."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field, fields
from typing import Any, cast

from attribution.checks import check_count
from attribution.errors import InputError

_MOST_CONNECTIONS = 1000
"""As many connections as openai's client holds at once."""


@dataclass(frozen=True)
class Backoff:
    """How long is waited before a call is repeated, where the endpoint does not say: seconds.

    `first` before the first repetition, then twice as long each time, up to `longest`; up to `jitter` more at random,
    so that those who failed together do not come back together.
    """

    first: float | int = 0.5
    longest: float | int = 30.0
    jitter: float | int = 1.0

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_number(f"{each.name} of a Backoff", getattr(self, each.name), zero=True)


@dataclass(frozen=True)
class Limits:
    """What may be asked of an endpoint. None is no limit.

    `max_concurrency` calls are under way at once, repeated ones among them; `requests_per_minute` and
    `tokens_per_minute` are spread over the minute. A call is given up after `timeout` seconds and repeated up to
    `retries` times; after `total_timeout` seconds, counted from the first question of an account, nothing more is
    asked.

    `max_calls` and `max_cost` are a hard budget of calls sent, repeated ones among them, and of what they cost at
    prices per million tokens, `input_price` and `output_price`, in whichever currency these are given.

    Raises `InputError` for numbers that are none of these, and for a `max_cost` without prices.
    """

    max_concurrency: int = 8
    requests_per_minute: float | int | None = None
    tokens_per_minute: float | int | None = None
    timeout: float | int = 60.0
    total_timeout: float | int | None = None
    retries: int = 5
    max_calls: int | None = None
    max_cost: float | int | None = None
    input_price: float | int | None = None
    output_price: float | int | None = None
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if check_count("max_concurrency", self.max_concurrency) > _MOST_CONNECTIONS:
            raise InputError(
                f"Expected max_concurrency as at most {_MOST_CONNECTIONS} connections, got {self.max_concurrency}."
            )
        _check_number("timeout", self.timeout)
        for name in ("requests_per_minute", "tokens_per_minute", "total_timeout"):
            _check_number(name, getattr(self, name), optional=True)
        for name in ("max_cost", "input_price", "output_price"):
            _check_number(name, getattr(self, name), zero=True, optional=True)
        _check_retries(self.retries)
        if self.max_calls is not None:
            check_count("max_calls", self.max_calls)
        if (self.input_price is None) != (self.output_price is None):
            raise InputError(
                f"Expected a price for input and for output tokens, got input_price={self.input_price!r} and "
                f"output_price={self.output_price!r}. Give both, per million tokens; 0 is a price."
            )
        if self.max_cost is not None and self.input_price is None:
            raise InputError(
                f"Expected prices with max_cost={self.max_cost!r}, got none. Give input_price and output_price, per "
                "million tokens, or max_calls in place of max_cost."
            )

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """What so many tokens cost, in the prices' currency; None where there are no prices."""
        if self.input_price is None or self.output_price is None:
            return None
        return (input_tokens * self.input_price + output_tokens * self.output_price) / 1_000_000


def _check_number(name: str, value: object, *, zero: bool = False, optional: bool = False) -> None:
    if optional and value is None:
        return
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not right or cast(float, value) < 0 or (value == 0 and not zero):
        expected = "from 0 on" if zero else "above 0"
        raise InputError(f"Expected {name} as a number {expected}{', or None' * optional}, got {value!r}.")


def _check_retries(value: object) -> None:
    try:
        found = -1 if isinstance(value, bool) else operator.index(cast(Any, value))
    except TypeError:
        found = -1
    if found < 0:
        raise InputError(f"Expected retries as a whole number from 0 on, got {value!r}.")
