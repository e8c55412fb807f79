"""Printing: what a command has found, on the terminal and in the files that a person asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console, RenderableType

from attribution.errors import InputError
from attribution.files import check_file

if TYPE_CHECKING:
    from attribution.experiments.comparison import Comparison
    from attribution.experiments.verification import Verification
    from attribution.experiments.what_if import WhatIf
    from attribution.result import Attribution


def refuse(context: typer.Context, reason: str, *options: str) -> None:
    """Raises `InputError` where one of these was typed, which would do nothing."""
    called = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in options}
    typed = [called[name] for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if typed:
        raise InputError(f"Expected no {', '.join(typed)} {reason}.")


def check_files(*paths: Path | None) -> None:
    """Raises `InputError` where one of the files to be written cannot be, or two are the same."""
    files = [check_file(path).resolve() for path in paths if path is not None]
    if len(set(files)) < len(files):
        raise InputError(f"Expected another file for each kind, got {str(files[0])!r} more than once.")


def write_results(results: Sequence[Attribution], part: str | None, html: Path | None, table: Path | None) -> None:
    """Writes what is asked of results of one question to files; the table is of the first."""
    first, *others = results
    if table is not None:
        first.to_csv(table)
    if html is None:
        return
    try:
        first.to_html(html, part, others=others)
    except InputError:  # a part that the output does not have, which is said later: nothing is lost for that
        first.to_html(html, others=others)


def show_found(
    found: Attribution | WhatIf | Comparison | Verification, as_json: bool, view: RenderableType | None = None
) -> None:
    """Prints what was found, as JSON or as a terminal shows it."""
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        console().print(found if view is None else view)


def console() -> Console:
    """Standard output as rich sees it: width, colours, NO_COLOR and pipes are its business."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
