"""The command line: `attribution explain PROMPT`, `attribution methods`. `--help` answers without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import attribution
from attribution.errors import AttributionError, InputError
from attribution.views.text import visible

if TYPE_CHECKING:
    from attribution.absence import Replace

app = typer.Typer(
    name="attribution",
    help="Which parts of a prompt made a language model write what it wrote.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"attribution {attribution.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version  # its callback has answered


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="The text that the model reads; - reads it from standard input.")],
    output: Annotated[
        str | None, typer.Option(help="The text whose causes are asked; by default what the model writes.")
    ] = None,
    model: Annotated[str, typer.Option(help='"demo", a Hugging Face id, or a folder.')] = "demo",
    method: Annotated[str, typer.Option(help="A name that `attribution methods` lists.")] = "leave_one_out",
    units: Annotated[str, typer.Option(help="What gets a score: token or word.")] = "word",
    target: Annotated[str, typer.Option(help="What is explained: logprob, prob, logit or entropy.")] = "logprob",
    ablation: Annotated[
        str, typer.Option(help='What an absent unit means: delete, mask, or "replace:TEXT", a neutral text for it.')
    ] = "delete",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    max_forwards: Annotated[int | None, typer.Option(help="Stop after this many ablated prompts.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this many seconds.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on from a result that --save wrote.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens the model may write.")] = 20,
    why: Annotated[str | None, typer.Option(help="Ask only about this part of the output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this file (safetensors).")] = None,
) -> None:
    """Show which words of PROMPT made the model write its answer."""
    from attribution.explainer import Options
    from attribution.explainer import explain as explain_prompt
    from attribution.result import Attribution, check_file

    text = _standard_input() if prompt == "-" else prompt
    if save is not None:
        check_file(save)  # said before the work, not after it
    question: Options = {
        "output": output,
        "max_new_tokens": max_new_tokens,
        "method": method,
        "units": units,
        "target": target,
        "ablation": _ablation(ablation),
        "seed": seed,
        "max_forwards": max_forwards,
        "max_tokens": max_tokens,
        "max_seconds": max_seconds,
        "resume": None if resume is None else Attribution.load(resume),
    }
    if dry_run:
        costs = explain_prompt(model, text, dry_run=True, **question)
        typer.echo(json.dumps(asdict(costs)) if as_json else str(costs))
        return
    result = explain_prompt(model, text, **question)
    view = result.text_view(why)
    if save is not None:
        result.save(save)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        _console().print(view)


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the attribution methods: what a score is, what they need, promise and cost."""
    from attribution.method import list_methods

    n_units, n_targets = 20, 7
    known = list_methods()
    if as_json:
        rows = [
            {
                "name": method.name,
                "summary": method.summary,
                "needs": sorted(method.needs),
                "laws": sorted(method.laws),
                "signed": method.signed,
                "options": method.options,
            }
            for method in known
        ]
        typer.echo(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column(f"passes at most, for {n_units} units and {n_targets} outputs", max_width=24)
    table.add_column("what a score is")
    for method in known:
        allowed = min(n_units, method.max_units or n_units)
        cost = method.cost(allowed, n_targets)
        passes = [f"{n} {kind}" for n, kind in ((cost.forwards, "forward"), (cost.backwards, "backward")) if n]
        limit = f" (up to {allowed} units)" if allowed < n_units else ""
        table.add_row(Text(method.name, "bold"), Text(" + ".join(passes) + limit), Text(method.summary))
    _console().print(table)


def _ablation(typed: str) -> str | Replace:
    """The meaning of "absent" as a person types it."""
    from attribution.absence import Replace

    kind, colon, text = typed.partition(":")
    return Replace(text) if kind == "replace" and colon else typed


def _standard_input() -> str:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it is None where it was closed
        raise InputError("Expected a text on standard input, but it is closed. Pass the prompt as an argument.")
    return sys.stdin.read().rstrip("\n")


def _console() -> Console:
    """Standard output as rich sees it: width, colours, NO_COLOR and pipes are its business."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs the command line and exits; an error of ours is one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a character gets its number, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(arguments)
    except AttributionError as error:
        _fail(str(error), status=2)
    except Exception as error:  # whatever it is, a person at a terminal gets one line
        _fail(f"failed: {type(error).__name__}: {error}", status=1)


def _fail(message: str, status: int) -> None:
    """One message on stderr, with nothing in it that a terminal would act upon, and the exit status."""
    typer.echo(f"attribution: {visible(message, layout=True)}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
