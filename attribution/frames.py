"""Frames: tables of whichever library is installed, and as CSV, which needs none."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import StringIO
from typing import Any

from attribution.errors import MissingExtraError


def frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    r"""A table with these columns, of pandas where that is installed, else of polars.

    Half a character, which their columns of text cannot hold, is written as `\ud800`. Raises `MissingExtraError` where
    neither is.
    """
    for library in ("pandas", "polars"):
        try:
            table = import_module(library).DataFrame
        except ImportError:
            continue
        return table({name: list(map(_whole, cells)) for name, cells in columns.items()})
    raise MissingExtraError("A table needs pandas or polars. Type: pip install pandas")


def csv_of(columns: Mapping[str, Sequence[Any]]) -> str:
    """The columns as CSV, their names first."""
    written = StringIO(newline="")
    table = csv.writer(written)
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    return written.getvalue()


def _whole(cell: Any) -> Any:
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell
