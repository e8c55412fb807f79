"""Typed: what a person types at the command line, read as what the library takes. Needs no torch until it is asked."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attribution.errors import InputError

if TYPE_CHECKING:
    from attribution.absence import Replace
    from attribution.experiments.edits import Where
    from attribution.prompts.writing import Written
    from attribution.target import Contrast, Semantic


def typed_prompt(prompt: str | None, chat: Path | None) -> Written:
    """The prompt as a person gives it: typed, on standard input, or as the messages of a file."""
    if (prompt is None) == (chat is None):
        raise InputError("Expected either a prompt or --chat FILE. Type the prompt as an argument, or - to read it.")
    if chat is None:
        return _standard_input() if prompt == "-" else cast(str, prompt)
    from attribution.prompts.chat import Chat

    try:
        given = json.loads(_standard_input() if str(chat) == "-" else chat.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Expected messages as JSON in {str(chat)!r}: {error}") from error
    if not isinstance(given, dict):
        return Chat(given)
    known = cast("dict[str, Any]", given)
    unknown = set(known) - {"messages", "tools", "options"}
    if unknown or "messages" not in known:
        raise InputError(f"Expected messages, tools and options in {str(chat)!r}, got {', '.join(known) or 'nothing'}.")
    return Chat(known["messages"], known.get("tools"), known.get("options") or {})


def typed_target(typed: str, why: str | None, instead: str | None) -> str | Contrast | Semantic:
    """The target as a person types it; with `instead` it is a contrast."""
    from attribution.target import Contrast, Semantic

    kind, _, by = typed.partition(":")
    if instead is not None:
        if typed != "logprob":
            raise InputError(f"Expected --instead without --target, got --target {typed}. A contrast is in nats.")
        return Contrast(instead, instead_of=why)
    return Semantic(cast(Any, by or "overlap")) if kind == "semantic" else typed


def typed_part(typed: str) -> Where:
    """A part of the prompt as a person types it."""
    if len(typed) > 2 and typed.startswith("/") and typed.endswith("/"):
        try:
            return re.compile(typed[1:-1])
        except re.error as error:
            raise InputError(f"Expected a regular expression between the slashes, got {typed!r}: {error}.") from error
    if re.fullmatch(r"#-?\d+", typed):
        return int(typed[1:])
    if re.fullmatch(r"@\d+:\d+(:\d+)?", typed):
        return cast("tuple[int, int]", tuple(map(int, typed[1:].split(":"))))
    return typed


def typed_pair(typed: str) -> tuple[str, str]:
    """The two sides of an arrow."""
    left, arrow, right = typed.partition("=>")
    if not arrow:
        raise InputError(f'Expected two texts with an arrow between them, such as "Tom=>Ann", got {typed!r}.')
    return left.strip(), right.strip()


def for_both(option: str, given: Sequence[str] | None) -> tuple[str, str] | None:
    """One for each side; the same for both where there is one."""
    if not given:
        return None
    if len(given) > 2:
        raise InputError(f"Expected {option} once or twice, got it {len(given)} times.")
    return given[0], given[-1]


def typed_ablation(typed: str) -> str | Replace:
    """The meaning of "absent" as a person types it."""
    from attribution.absence import Replace

    kind, colon, text = typed.partition(":")
    return Replace(text) if kind == "replace" and colon else typed


def _standard_input() -> str:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it is None where it was closed
        raise InputError("Expected a text on standard input, but it is closed. Pass the prompt as an argument.")
    return sys.stdin.read().rstrip("\n")
