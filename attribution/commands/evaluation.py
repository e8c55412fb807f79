"""`attribution evaluate FILE.jsonl`: how faithful methods are on the prompts of a file. `--help` needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from attribution.errors import InputError
from attribution.files import write_file
from attribution.printing import check_files, console
from attribution.surfaces import as_json as to_json
from attribution.surfaces import encoded
from attribution.typed import (
    AsJson,
    MaxNewTokens,
    Model,
    Page,
    Seed,
    TargetAsked,
    UnitsAsked,
    typed_ablation,
    typed_target,
)
from attribution.views.words import visible

if TYPE_CHECKING:
    from attribution.faithfulness.samples import Sample

_FIELDS = ("prompt", "output", "outputs")


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.jsonl",
            help='A prompt a line: {"prompt": a text or messages, "output": "...", "outputs": the part that is asked}.',
        ),
    ],
    model: Model = "demo",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A name that `attribution methods` lists, several times for several; by default all."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric's name, several times for several; by default a quick choice.")
    ] = None,
    units: UnitsAsked = "word",
    target: TargetAsked = "logprob",
    ablation: Annotated[
        list[str] | None,
        typer.Option(help='A meaning of absent: delete, mask, "replace:TEXT"; by default delete and mask.'),
    ] = None,
    seed: Seed = 0,
    max_new_tokens: MaxNewTokens = 20,
    journal: Annotated[
        Path | None,
        typer.Option(help="Where numbers are kept, so that a run goes on; by default FILE.evaluation.jsonl."),
    ] = None,
    as_json: AsJson = False,
    html: Page = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Also write every number to this file, as a table (CSV).")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file, in Markdown.")] = None,
) -> None:
    """Measure how faithful methods are on the prompts of FILE.jsonl.

    Beside a random order, the order of the prompt and exact leave-one-out, under several meanings of absent. A run that
    was stopped goes on when the same is typed again.
    """
    kept = file.with_suffix(".evaluation.jsonl") if journal is None else journal
    samples = read_samples(file)
    check_files(file, kept, html, table, markdown)  # said before the work, not after it

    from attribution.faithfulness.evaluation import evaluate as evaluate_methods

    typer.echo(f"attribution: numbers are kept in {visible(str(kept))}, from which this command goes on", err=True)
    found = evaluate_methods(
        model,
        samples,
        method or None,
        metric or None,
        units=units,
        target=typed_target(target, None, None),
        ablations=tuple(map(typed_ablation, ablation or ("delete", "mask"))),
        max_new_tokens=max_new_tokens,
        seed=seed,
        journal=kept,
    )
    if html is not None:
        found.to_html(html)
    if table is not None:
        found.to_csv(table)
    if markdown is not None:
        write_file(markdown, encoded(found.to_markdown()))
    if as_json:
        typer.echo(to_json(found.to_dict()))
    else:
        console().print(found)


def read_samples(file: Path) -> list[Sample]:
    """The samples in a file of JSON lines; `InputError` with the number of the first line that holds none."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"Expected a file with a prompt a line, {str(file)!r} cannot be read: {error}") from error
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = [_sample(line, f"{str(file)!r}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f'Expected a prompt a line in {str(file)!r}, got none. Write {{"prompt": "..."}}.')
    return found


def _sample(line: bytes, where: str) -> Sample:
    from attribution.faithfulness.samples import Sample
    from attribution.prompts.chat import Chat
    from attribution.prompts.prompt import check_prompt

    try:
        record: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where}: expected JSON such as {{"prompt": "..."}}: {error}') from error
    if not isinstance(record, dict) or "prompt" not in record:
        raise InputError(f'{where}: expected a dict with a prompt, {{"prompt": "..."}}, got {_brief(record)}.')
    known = cast("dict[str, Any]", record)
    if unknown := set(known) - set(_FIELDS):
        raise InputError(f"{where}: expected {', '.join(_FIELDS)}, got {', '.join(map(repr, sorted(unknown)))} too.")
    for name in _FIELDS[1:]:
        if not isinstance(known.get(name), (str, type(None))):
            raise InputError(f"{where}: expected {name} as a text, got {_brief(known[name])}.")
    if not isinstance(known["prompt"], (str, list)):
        raise InputError(
            f"{where}: expected the prompt as a text or a list of messages, got {_brief(known['prompt'])}."
        )
    try:
        prompt = Chat(known["prompt"]) if isinstance(known["prompt"], list) else check_prompt(known["prompt"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return Sample(prompt, known.get("output"), known.get("outputs"))


def _brief(value: Any) -> str:
    """Any JSON, in a few characters."""
    told = json.dumps(value)
    return told if len(told) <= 60 else f"{told[:59]}…"
