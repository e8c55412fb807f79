"""What metrics take as options, checked."""

from __future__ import annotations

import math
from typing import Any, Literal

from attribution.errors import InputError

By = Literal["token", "unit"]
"""What a share is counted in: tokens, so that a long unit costs more than a short one, or units."""


def check_real(name: str, value: Any, *, above: float = 0.0, at_most: float = math.inf) -> float:
    """The value as a float; `InputError` where it is no number above one bound and up to the other."""
    try:
        found = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (above < found <= at_most and math.isfinite(found)):
        bound = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise InputError(f"Expected {name} above {above:g}{bound}, got {value!r}.")
    return found


def check_share(value: Any) -> float:
    """The share as a float; `InputError` where it is no number above 0 and at most 1."""
    return check_real("share", value, at_most=1.0)


def check_choice(name: str, value: object, *known: str) -> None:
    """Raises `InputError` where the value is none of these."""
    if value not in known:
        raise InputError(f"Expected {name} out of {', '.join(map(repr, known))}, got {value!r}.")
