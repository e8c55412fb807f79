"""Sentences about a verification and about counterfactuals that every view says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attribution.views.words import kind

_ALLOWANCES = {"max_tries": "more tries", "beam": "a wider beam"}
"""What each option that left something out could be given more of."""


def compared(verification: Mapping[str, Any]) -> str:
    """What the strongest units were compared with, and what that took."""
    result, count = verification["result"], len(verification["strongest"])
    sizes = [unit["last_token"] - unit["first_token"] for unit in result["units"]]
    own = sum(sizes[unit] for unit in verification["strongest"])
    told = "compared with nothing"
    if verification["sets"]:
        each = sorted(sum(sizes[unit] for unit in chosen) for chosen in verification["sets"])
        tokens = f"{each[0]} to {each[-1]}" if each[0] < each[-1] else f"{each[0]}"
        which = "all other" if len(each) == verification["n_sets"] else "random"
        told = f"compared with {which} sets of {count} {kind(result['granularity'], count)}: {len(each)}"
        told += f", of {tokens} tokens (the strongest: {own})"
    forwards = verification["cost"]["forwards"]
    return f"{told} · {forwards} forward{'s' * (forwards != 1)}"


def left_out(counterfactuals: Mapping[str, Any]) -> Iterator[str]:
    """What the search did not look at, and which option would let it."""
    limited = counterfactuals["limited_by"]
    if "keep" in limited:
        yield f"more than {len(counterfactuals['found'])} were found: raise keep"
    allowed = [words for name, words in _ALLOWANCES.items() if name in limited]
    if allowed:
        yield f"not everything was tried: allow {', or '.join(allowed)}"
