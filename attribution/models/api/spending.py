"""Spending: what was sent to an endpoint, and what it cost; every call is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast


@dataclass
class Spending:
    """Calls sent, and what became of each: `calls == answered + sum(failures.values()) + cut_off`.

    `retried` of them repeated one that had failed. `failures` counts those by what went wrong, `"429"` or `"timeout"`
    for instance, and `cut_off` those that ended with the run they belonged to. Rows that took no call: `cached` ones
    were on the disk, `shared` ones were asked by another row or another run.

    Tokens are as the replies' `usage` counts them, and `cost` is of these, in the prices' currency, None without
    prices. `unmetered` calls may have cost something that no reply tells, and `unmetered_cost` is the most that it can
    be. `peak` is how many calls were under way at once.
    """

    calls: int = 0
    retried: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter[str])
    cut_off: int = 0
    cached: int = 0
    shared: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    unmetered: int = 0
    unmetered_cost: float = 0.0
    peak: int = 0

    @property
    def most_cost(self) -> float | None:
        """The most that it can have cost; None without prices."""
        return None if self.cost is None else self.cost + self.unmetered_cost

    def copy(self) -> Spending:
        """What is true now; it does not change when more is spent."""
        return replace(self, failures=self.failures.copy())

    def __str__(self) -> str:
        failed = ", ".join(f"{count} x {name}" for name, count in sorted(self.failures.items()))
        parts = [
            f"{self.calls} calls" + (f" ({self.retried} of them again: {failed})" if failed else ""),
            f"{self.cached} answered from the cache" if self.cached else "",
            f"{self.input_tokens} input and {self.output_tokens} output tokens",
            f"cost {self.cost:.6g}" if self.cost is not None else "",
        ]
        return "; ".join(part for part in parts if part)


def usage(reply: Mapping[str, Any]) -> tuple[int, int] | None:
    """Input and output tokens that a reply says it took; None where it does not say both."""
    told = reply.get("usage")
    # llama.cpp's server has the counts of its own paths beside the text.
    counts = cast("dict[str, Any]", told) if isinstance(told, dict) else _llama(reply)
    taken = counts.get("prompt_tokens", counts.get("input_tokens"))
    # Replies that only read, embeddings for instance, count no output.
    given = counts.get("completion_tokens", counts.get("output_tokens", 0))
    found = tuple(each for each in (taken, given) if type(each) is int and each >= 0)
    return (found[0], found[1]) if len(found) == 2 else None


def _llama(reply: Mapping[str, Any]) -> dict[str, Any]:
    if "tokens_predicted" not in reply:
        return {}
    return {"prompt_tokens": reply.get("tokens_evaluated"), "completion_tokens": reply["tokens_predicted"]}
