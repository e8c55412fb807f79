"""Journal: what was measured so far, line by line, so that a run that was stopped goes on where it was.

The first line says what is measured, every other one what one method has on one prompt. A line is on the disk before
the next pair is begun. One that was cut off in the middle of being written is the last, and is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from attribution.errors import InputError, ResultFileError
from attribution.files import check_file

_KIND = "attribution evaluation"
_SCHEMA = 1
_FREE = frozenset({"methods", "prompts"})
"""What a later run may have more of, or less."""


class Value(NamedTuple):
    """One number of a method on a prompt, or why there is none; `absent` is empty where nothing is removed."""

    metric: str
    absent: str
    value: float | None
    reason: str


@dataclass(frozen=True)
class Spent:
    """What explaining one prompt took; counts are None for scores that were computed elsewhere."""

    forwards: int | None
    backwards: int | None
    tokens: int | None
    seconds: float


@dataclass(frozen=True)
class Entry:
    """All that one method has on one prompt; no cost where it failed."""

    values: tuple[Value, ...]
    cost: Spent | None


class Journal:
    """The entries of a run by digest of the prompt and label of the method; with a path each is kept in a file too.

    Raises `InputError` where the file is of a run with other settings, `ResultFileError` where it is no journal, is
    damaged before its last line, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self._known: dict[tuple[str, str], Entry] = {}
        self._file = None if path is None else check_file(path)
        self._header = {"kind": _KIND, "schema": _SCHEMA, **json.loads(json.dumps(settings))}
        if self._file is not None:
            self._open(self._file)

    def get(self, prompt: str, method: str) -> Entry | None:
        """What this method has on the prompt with this digest; None where that is not known yet."""
        return self._known.get((prompt, method))

    def add(self, prompt: str, method: str, entry: Entry) -> None:
        """Keeps an entry; once this returns it is on the disk."""
        self._known[prompt, method] = entry
        self._write(
            {
                "prompt": prompt,
                "method": method,
                "values": [list(value) for value in entry.values],
                "cost": None if entry.cost is None else asdict(entry.cost),
            }
        )

    def _open(self, file: Path) -> None:
        """Reads what is there, cuts off a line that was not written to its end, and begins an empty file."""
        try:
            content = file.read_bytes() if file.exists() else b""
        except OSError as error:
            raise ResultFileError(f"The journal {str(file)!r} cannot be read: {error}") from error
        *lines, torn = content.split(b"\n")
        beginning = json.dumps({"kind": _KIND}).removesuffix("}").encode()
        if not lines and not (torn.startswith(beginning) or beginning.startswith(torn)):
            raise self._foreign(file)
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if number > 1:
                    self._known[record["prompt"], record["method"]] = _entry(record)
                    continue
            except (ValueError, KeyError, TypeError) as error:
                if number == 1:
                    raise self._foreign(file) from error
                raise ResultFileError(
                    f"Line {number} of the journal {str(file)!r} is damaged: {error!r}. Delete that line, and what it "
                    "was about is measured again."
                ) from error
            self._check(record, file)
        if torn:
            try:
                os.truncate(file, len(content) - len(torn))
            except OSError as error:
                raise ResultFileError(f"The journal {str(file)!r} cannot be written: {error}") from error
        if not lines:
            self._write(self._header)

    def _foreign(self, file: Path) -> ResultFileError:
        return ResultFileError(f"Expected a journal that evaluate wrote, got {str(file)!r}. Name a new file.")

    def _check(self, header: Any, file: Path) -> None:
        """Raises where the first line is none of a journal, or of a run that measured something else."""
        if not isinstance(header, dict) or cast("dict[str, Any]", header).get("kind") != _KIND:
            raise self._foreign(file)
        known = cast("dict[str, Any]", header)
        if known.get("schema") != _SCHEMA:
            raise ResultFileError(
                f"The journal {str(file)!r} was written by another version (schema {known.get('schema')!r}, this one "
                f"has {_SCHEMA}). Name a new file."
            )
        other = [name for name in self._header if name not in _FREE and known.get(name) != self._header[name]]
        if other:
            told = "; ".join(f"{name} {_brief(known.get(name))}, now {_brief(self._header[name])}" for name in other)
            raise InputError(
                f"Expected the settings that the journal {str(file)!r} was begun with, got another {', '.join(other)} "
                f"({told}). Name another journal, or delete this one."
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("ab") as written:
                written.write(json.dumps(record, allow_nan=False).encode() + b"\n")
                written.flush()
                os.fsync(written.fileno())
        except OSError as error:
            raise ResultFileError(f"The journal {str(self._file)!r} cannot be written: {error}") from error


def _brief(value: Any) -> str:
    """A setting as an error tells it."""
    if isinstance(value, list):
        return ", ".join(map(_brief, cast("list[Any]", value)))
    if isinstance(value, dict):
        known = cast("dict[str, Any]", value)
        return str(known.get("label") or known.get("name") or known)
    return repr(value)


def _entry(record: Mapping[str, Any]) -> Entry:
    """The entry that a line holds; `ValueError`, `KeyError` or `TypeError` where it holds none."""
    values = tuple(Value(*value) for value in record["values"])
    if not all(isinstance(value.metric, str) and isinstance(value.value, (float, int, type(None))) for value in values):
        raise TypeError("values are no numbers")
    return Entry(values, None if record["cost"] is None else Spent(**record["cost"]))
