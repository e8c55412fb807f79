"""Numbers as a page carries them: rows of a matrix, in as few bits as their count allows, deflated, in base64."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np

PRECISE = 65_536
"""Up to so many numbers are kept as they are."""

HALF = 1_000_000
"""Up to so many are kept in 16 bits, each to within 0.3%; beyond in 8, to within 0.4% of the strongest of their row."""

ROUNDED = {
    "float16": "numbers are within 0.3% here, since there are so many; a saved result has all their digits",
    "int8": "numbers are within 0.4% of the strongest for their output token here, since there are so many; a saved "
    "result has all their digits",
}
"""What a reader is told of each type that does not keep numbers as they are."""

_DROPPED = 2
"""Bits of each 16 that are rounded away: a reader sees no difference, and a page is a tenth smaller."""

_TYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1"}

Array = np.ndarray


def matrix(rows: Any) -> Array:
    """Float32 `[row, column]` of nested lists."""
    return np.atleast_2d(np.asarray(rows, np.float32))


def type_for(count: int) -> str:
    """The type in which so many numbers are kept."""
    return "float32" if count <= PRECISE else "float16" if count <= HALF else "int8"


def pack(numbers: Array, kept_as: str) -> dict[str, Any]:
    """The numbers `[row, column]` as JSON holds them: each is the raw number times the scale of its row."""
    scale: list[float] | None = None
    raw = numbers
    if kept_as != "float32":
        full = 127.0 if kept_as == "int8" else 1.0
        steps = np.abs(numbers.astype(np.float64)).max(axis=1, initial=0.0) / full
        raw = numbers / np.where(steps > 0, steps, 1.0)[:, None]
        raw = np.rint(raw) if kept_as == "int8" else raw
        scale = steps.tolist()
    raw = np.ascontiguousarray(raw, _TYPES[kept_as])
    if kept_as == "float16":
        # The strongest is 1, so that rounding up never overflows.
        raw = (raw.view("<u2") + np.uint16(1 << (_DROPPED - 1))) >> _DROPPED << _DROPPED
    content = zlib.compress(raw.tobytes(), 9)
    return {
        "type": kept_as,
        "shape": list(numbers.shape),
        "scale": scale,
        "data": b64encode(content).decode("ascii"),
    }


def unpack(packed: Mapping[str, Any]) -> Array:
    """The numbers that were packed; float32 `[row, column]`."""
    content = zlib.decompress(b64decode(packed["data"]))
    raw = np.frombuffer(content, _TYPES[packed["type"]]).reshape(packed["shape"])
    if packed["scale"] is None:
        return raw.astype(np.float32)
    return (raw.astype(np.float64) * np.array(packed["scale"])[:, None]).astype(np.float32)
