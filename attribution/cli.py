"""The command line: `attribution explain PROMPT`, `show`, `whatif`, `compare`, `verify`, `evaluate`, `methods`.

`--help` needs no torch, and neither does `show`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import attribution
from attribution.commands.evaluation import evaluate
from attribution.commands.explanation import explain
from attribution.errors import AttributionError, InputError
from attribution.printing import check_files, console, refuse, show_found, write_results
from attribution.typed import (
    Ablations,
    AsJson,
    ChatFile,
    Csv,
    Full,
    Instead,
    MaxNewTokens,
    Model,
    Output,
    Page,
    Prompt,
    Seed,
    TargetAsked,
    UnitsAsked,
    Why,
    for_both,
    typed_ablation,
    typed_pair,
    typed_part,
    typed_prompt,
    typed_target,
)
from attribution.views.words import visible

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


app.command()(explain)


@app.command()
def show(
    result: Annotated[Path, typer.Argument(help="A result that `explain --save` wrote.")],
    why: Annotated[str | None, typer.Option("--why", "--target", help="Look only at this part of the output.")] = None,
    full: Full = False,
    as_json: AsJson = False,
    html: Page = None,
    table: Csv = None,
) -> None:
    """Show a saved RESULT again; no model is needed for it."""
    from attribution.result import Attribution

    check_files(html, table)
    found = Attribution.load(result)
    write_results([found], why, html, table)
    show_found(found, as_json, found.text_view(why, full=full))


@app.command()
def whatif(
    prompt: Prompt = None,
    chat: ChatFile = None,
    remove: Annotated[list[str] | None, typer.Option(help="See what changes without this part.")] = None,
    replace: Annotated[list[str] | None, typer.Option(help='"PART=>TEXT": with another text in its place.')] = None,
    swap: Annotated[list[str] | None, typer.Option(help='"PART=>PART": with both in each other\'s place.')] = None,
    move: Annotated[list[str] | None, typer.Option(help='"PART=>PART": with the first before the second.')] = None,
    rewrite: Annotated[list[str] | None, typer.Option(help="With this prompt, written by hand.")] = None,
    output: Output = None,
    model: Model = "demo",
    units: UnitsAsked = "word",
    target: TargetAsked = "logprob",
    why: Why = None,
    instead: Instead = None,
    max_new_tokens: MaxNewTokens = 20,
    as_json: AsJson = False,
    html: Page = None,
) -> None:
    """Change PROMPT, and show what the model answers then.

    A part is a text that stands in the prompt once; /PATTERN/, a regular expression; #N, the unit with that index; or
    @START:END, characters of the prompt, @MESSAGE:START:END of a chat. Every option may be given several times; each
    change is made by itself.
    """
    from attribution.experiments.edits import Edit
    from attribution.experiments.what_if import whatif as change_prompt

    edits = [
        *(Edit.remove(typed_part(part)) for part in remove or ()),
        *(Edit.replace(typed_part(part), text) for part, text in map(typed_pair, replace or ())),
        *(Edit.swap(typed_part(one), typed_part(other)) for one, other in map(typed_pair, swap or ())),
        *(Edit.move(typed_part(part), before=typed_part(other)) for part, other in map(typed_pair, move or ())),
        *(Edit.rewrite(text) for text in rewrite or ()),
    ]
    if not edits:
        raise InputError("Expected a change, got none. Type --remove, --replace, --swap, --move or --rewrite.")
    check_files(html)
    found = change_prompt(
        model,
        typed_prompt(prompt, chat),
        edits,
        output=output,
        outputs=why,
        units=units,
        target=typed_target(target, why, instead),
        max_new_tokens=max_new_tokens,
    )
    if html is not None:
        found.to_html(html)
    show_found(found, as_json)


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(help="A prompt, a chat (FILE.json), or a saved result (FILE.safetensors).")],
    second: Annotated[str | None, typer.Argument(help="Another; left out, FIRST by two methods.")] = None,
    model: Model = "demo",
    method: Annotated[list[str] | None, typer.Option(help="One for both, or one for each.")] = None,
    units: UnitsAsked = "word",
    target: TargetAsked = "logprob",
    ablation: Ablations = "delete",
    seed: Seed = 0,
    max_new_tokens: MaxNewTokens = 20,
    why: Annotated[list[str] | None, typer.Option(help="Ask only about this part of the output; two for two.")] = None,
    instead: Annotated[list[str] | None, typer.Option(help="Why not this instead of --why; two for two.")] = None,
    as_json: AsJson = False,
    html: Page = None,
) -> None:
    """Show where two prompts, or two methods, differ."""
    from attribution.experiments.comparison import compare as compare_results
    from attribution.explainer import explain as explain_prompt
    from attribution.method import build_method, list_methods
    from attribution.models import load
    from attribution.result import Attribution

    check_files(html)
    methods = for_both("--method", method) or ("default", "default")
    is_same = build_method(methods[0]) == build_method(methods[1])
    parts, others = for_both("--why", why) or (None, None), for_both("--instead", instead) or (None, None)
    if second is None and is_same:
        raise InputError("Expected something to compare with. Pass a second prompt, or --method twice.")
    sides = (first, first if second is None else second)
    are_saved = [side.endswith(".safetensors") for side in sides]
    if all(are_saved) or (second is None and any(are_saved)):
        reason = "with saved results, which are what they are. Explain the prompts again instead"
        refuse(context, reason, "model", "method", "units", "target", "ablation", "seed", "max_new_tokens", "instead")
    prompts = {
        side: typed_prompt(*((None, Path(side)) if side.endswith(".json") else (side, None))) for side in set(sides)
    }
    asked = model if all(are_saved) else load(model)  # which nobody asks where both sides are saved
    saved = [Attribution.load(side) if is_saved else None for side, is_saved in zip(sides, are_saved, strict=True)]
    # Beside a saved result whose method is known here, the other side has the same unless another is named.
    theirs = {each.method["name"] for each in saved if each is not None} & {known.name for known in list_methods()}
    if method is None and theirs:
        methods = (min(theirs), min(theirs))
    results = [
        explain_prompt(
            asked,
            prompts[side],
            method=name,
            units=units,
            target=typed_target(target, part, other),
            ablation=typed_ablation(ablation),
            seed=seed,
            max_new_tokens=max_new_tokens,
        )
        if own is None
        else own
        for side, own, name, part, other in zip(sides, saved, methods, parts, others, strict=True)
    ]
    found = compare_results(*results, outputs_a=parts[0], outputs_b=parts[1])
    if html is not None:
        found.to_html(html)
    show_found(found, as_json)


@app.command()
def verify(
    result: Annotated[Path, typer.Argument(help="A result that `explain --save` wrote.")],
    model: Model = "demo",
    top: Annotated[int, typer.Option(help="How many of the strongest units.")] = 5,
    why: Why = None,
    n_random: Annotated[int, typer.Option(help="With how many random sets of units to compare.")] = 100,
    seed: Seed = 0,
    as_json: AsJson = False,
    html: Page = None,
) -> None:
    """Remove the strongest units of RESULT, keep nothing but them, and say whether the explanation holds."""
    from attribution.experiments.verification import verify as verify_result
    from attribution.result import Attribution

    check_files(html)
    found = verify_result(model, Attribution.load(result), top, outputs=why, n_random=n_random, seed=seed)
    if html is not None:
        found.to_html(html)
    show_found(found, as_json)


app.command()(evaluate)


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the attribution methods: what a score is, what they need, promise and cost."""
    from attribution.method import CHOSEN, list_methods

    n_units, n_targets = 20, 7
    known = list_methods()
    roles = {method.name: [role for role, name in CHOSEN.items() if name == method.name] for method in known}
    if as_json:
        rows = [
            {
                "name": method.name,
                "chosen": roles[method.name],
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
        role = f" ({', '.join(roles[method.name])})" if roles[method.name] else ""
        table.add_row(
            Text.assemble((method.name, "bold"), role), Text(" + ".join(passes) + limit), Text(method.summary)
        )
    console().print(table)


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
