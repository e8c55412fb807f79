"""What methods accept as options: numbers of any library, as Python's own, within bounds."""

from __future__ import annotations

import math
import operator
from typing import Any

from attribution.errors import InputError


def real(name: str, value: Any, *, above: float = 0.0, at_most: float = math.inf) -> float:
    """The value as a float; `InputError` where it is no number above one bound and up to the other."""
    try:
        found = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (above < found <= at_most and math.isfinite(found)):
        bound = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise InputError(f"Expected {name} above {above:g}{bound}, got {value!r}.")
    return found


def whole(name: str, value: Any, *, at_least: int = 1) -> int:
    """The value as an int; `InputError` where it is no whole number from the bound on."""
    try:
        found = at_least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = at_least - 1
    if found < at_least:
        raise InputError(f"Expected {name} as a whole number from {at_least} on, got {value!r}.")
    return found


def check_samples(samples: int, n_players: int) -> None:
    """Raises `InputError` where so many samples cannot tell so many players apart, and are not all that there are."""
    if samples < 2 * n_players and samples < 2**n_players - 2:
        raise InputError(f"Expected at least {2 * n_players} samples for {n_players} units, got {samples}.")
