"""Files: what is written is there whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from attribution.errors import InputError, ResultFileError


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path that a file can be written to; `InputError` for a folder, and where the file's folder is missing."""
    file = Path(path)
    if not str(path) or file.is_dir():
        raise InputError(f"Expected the name of a file, got {str(path)!r}. Add a name such as result.safetensors.")
    if not file.parent.is_dir():
        raise InputError(
            f"Expected a file in a folder that exists, got {str(path)!r}. Create {str(file.parent)!r} first."
        )
    return file


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file in one go; one that is there already is replaced once the new one is whole.

    Raises `InputError` as `check_file` does, `ResultFileError` where the file cannot be written.
    """
    file = check_file(path)
    unfinished = file.with_name(f".{uuid4().hex}.part")  # not of the file's own name, which may be as long as allowed
    try:
        try:
            unfinished.write_bytes(content)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ResultFileError(f"The result cannot be written to {str(file)!r}: {error}") from error
