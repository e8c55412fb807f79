"""Typed: what a person types at the command line, read as what the library takes. Needs no torch until it is asked."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from attribution.errors import InputError

if TYPE_CHECKING:
    from attribution.absence import Replace
    from attribution.experiments.edits import Where
    from attribution.prompts.writing import Written
    from attribution.target import Contrast, Semantic


_TARGETS = "logprob, prob, logit, entropy, semantic:overlap|exact|embedding"

# Options that several commands have

Prompt = Annotated[str | None, typer.Argument(help="The text that the model reads; - reads it from standard input.")]
ChatFile = Annotated[
    Path | None,
    typer.Option(
        "--chat",
        help="Read messages, - from standard input: a JSON list, or a dict of messages, tools and options.",
    ),
]
Model = Annotated[str, typer.Option(help='"demo", a Hugging Face id, or a folder.')]
UnitsAsked = Annotated[
    str,
    typer.Option(
        help="What gets a score: token, word, sentence, line, paragraph, message, list_item, code_line, example, or a "
        "regular expression."
    ),
]
TargetAsked = Annotated[str, typer.Option(help=f"What is explained: {_TARGETS}.")]
TargetOrPart = Annotated[
    str,
    typer.Option(help=f"What is explained: {_TARGETS}; or a part of the output, as with --why."),
]
Why = Annotated[str | None, typer.Option(help="Ask only about this part of the output.")]
Instead = Annotated[
    str | None, typer.Option(help="Why not this: in the place of what --why names, or of the whole output.")
]
Ablations = Annotated[
    str,
    typer.Option(
        help='What an absent unit means: delete, mask, or "replace:TEXT", a neutral text for it. With mask or replace '
        "the default method is leave_one_out."
    ),
]
Output = Annotated[str | None, typer.Option(help="The text whose causes are asked; by default what the model writes.")]
MaxNewTokens = Annotated[int, typer.Option(help="How many tokens the model may write.")]
Page = Annotated[
    Path | None, typer.Option("--html", help="Also write a page to this file, which a browser opens without a network.")
]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the scores to this file, as a table (CSV).")]
Full = Annotated[bool, typer.Option("--full", help="Show all of a long prompt, not only around what matters.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Seed = Annotated[int, typer.Option(help="Of all randomness.")]

# What is typed there


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


def typed_target_or_part(typed: str, why: str | None) -> tuple[str, str | None]:
    """The target, and the part of the output that is meant: what is no target's name is such a part.

    Raises `InputError` where `why` names a part already.
    """
    from attribution.target import TARGETS

    if typed in TARGETS or typed.partition(":")[0] == "semantic":
        return typed, why
    if why is not None:
        raise InputError(
            f"Expected a target out of {_TARGETS} beside --why {why!r}, got {typed!r}. Name a part of the output once."
        )
    return "logprob", typed


def check_part(part: str, output: str) -> None:
    """Raises `InputError` where what was typed as a target is none, and no part of the output either."""
    if not part or part not in output:
        raise InputError(f"Expected a target out of {_TARGETS}, or a part of the output {output!r}, got {part!r}.")


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
