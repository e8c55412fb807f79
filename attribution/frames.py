"""Frames: tables of whichever library is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from attribution.errors import MissingExtraError


def frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """A table with these columns, of pandas where that is installed, else of polars.

    Raises `MissingExtraError` where neither is.
    """
    for library in ("pandas", "polars"):
        try:
            return import_module(library).DataFrame(dict(columns))
        except ImportError:
            continue
    raise MissingExtraError("A table needs pandas or polars. Type: pip install pandas")
