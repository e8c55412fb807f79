"""The command line: `attribution explain PROMPT`, `whatif`, `compare`, `verify`, `methods`. `--help` needs no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

import attribution
from attribution.errors import AttributionError, InputError
from attribution.typed import for_both, typed_ablation, typed_pair, typed_part, typed_prompt, typed_target
from attribution.views.text import visible

if TYPE_CHECKING:
    from attribution.experiments.comparison import Comparison
    from attribution.experiments.verification import Verification
    from attribution.experiments.what_if import WhatIf
    from attribution.result import Attribution

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
TargetAsked = Annotated[
    str, typer.Option(help="What is explained: logprob, prob, logit, entropy, or semantic:overlap|exact|embedding.")
]
Why = Annotated[str | None, typer.Option(help="Ask only about this part of the output.")]
Instead = Annotated[
    str | None, typer.Option(help="Why not this: in the place of what --why names, or of the whole output.")
]
Ablations = Annotated[
    str, typer.Option(help='What an absent unit means: delete, mask, or "replace:TEXT", a neutral text for it.')
]
Output = Annotated[str | None, typer.Option(help="The text whose causes are asked; by default what the model writes.")]
MaxNewTokens = Annotated[int, typer.Option(help="How many tokens the model may write.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Seed = Annotated[int, typer.Option(help="Of all randomness.")]


@app.command()
def explain(
    prompt: Prompt = None,
    chat: ChatFile = None,
    output: Output = None,
    model: Model = "demo",
    method: Annotated[str, typer.Option(help="A name that `attribution methods` lists.")] = "leave_one_out",
    units: UnitsAsked = "word",
    target: TargetAsked = "logprob",
    over_outputs: Annotated[
        str | None, typer.Option(help="One score for the whole output: of the sum, mean or min of its tokens.")
    ] = None,
    ablation: Ablations = "delete",
    seed: Seed = 0,
    max_forwards: Annotated[int | None, typer.Option(help="Stop after this many ablated prompts.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this many seconds.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on from a result that --save wrote.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    max_new_tokens: MaxNewTokens = 20,
    why: Why = None,
    instead: Instead = None,
    as_json: AsJson = False,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this file (safetensors).")] = None,
) -> None:
    """Show which words of PROMPT made the model write its answer."""
    from attribution.explainer import Options
    from attribution.explainer import explain as explain_prompt
    from attribution.problem import check_over_outputs
    from attribution.result import Attribution, check_file

    asked = typed_prompt(prompt, chat)
    if save is not None:
        check_file(save)  # said before the work, not after it
    question: Options = {
        "output": output,
        "max_new_tokens": max_new_tokens,
        "method": method,
        "units": units,
        "target": typed_target(target, why, instead),
        "ablation": typed_ablation(ablation),
        "seed": seed,
        "max_forwards": max_forwards,
        "max_tokens": max_tokens,
        "max_seconds": max_seconds,
        "resume": None if resume is None else Attribution.load(resume),
    }
    if over_outputs is not None:
        question["per_output"] = False
        question["over_outputs"] = check_over_outputs(over_outputs)
    if dry_run:
        costs = explain_prompt(model, asked, dry_run=True, **question)
        typer.echo(json.dumps(asdict(costs)) if as_json else str(costs))
        return
    result = explain_prompt(model, asked, **question)
    if save is not None:
        result.save(save)  # before anything is said about parts of it, which may fail
    _show(result, as_json, result.text_view(why))


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
    _show(found, as_json)


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
) -> None:
    """Show where two prompts, or two methods, differ."""
    from attribution.experiments.comparison import compare as compare_results
    from attribution.explainer import explain as explain_prompt
    from attribution.models import load
    from attribution.result import Attribution

    methods = for_both("--method", method) or ("leave_one_out", "leave_one_out")
    parts, others = for_both("--why", why) or (None, None), for_both("--instead", instead) or (None, None)
    if second is None and methods[0] == methods[1]:
        raise InputError("Expected something to compare with. Pass a second prompt, or --method twice.")
    sides = (first, first if second is None else second)
    saved = [side.endswith(".safetensors") for side in sides]
    if all(saved) or (second is None and any(saved)):
        _refuse(context, "model", "method", "units", "target", "ablation", "seed", "max_new_tokens", "instead")
    prompts = {
        side: typed_prompt(*((None, Path(side)) if side.endswith(".json") else (side, None))) for side in set(sides)
    }
    asked = None if all(saved) else load(model)
    results = [
        Attribution.load(side)
        if is_saved or asked is None
        else explain_prompt(
            asked,
            prompts[side],
            method=name,
            units=units,
            target=typed_target(target, part, other),
            ablation=typed_ablation(ablation),
            seed=seed,
            max_new_tokens=max_new_tokens,
        )
        for side, is_saved, name, part, other in zip(sides, saved, methods, parts, others, strict=True)
    ]
    _show(compare_results(*results, outputs_a=parts[0], outputs_b=parts[1]), as_json)


@app.command()
def verify(
    result: Annotated[Path, typer.Argument(help="A result that `explain --save` wrote.")],
    model: Model = "demo",
    top: Annotated[int, typer.Option(help="How many of the strongest units.")] = 5,
    why: Why = None,
    n_random: Annotated[int, typer.Option(help="With how many random sets of units to compare.")] = 100,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Remove the strongest units of RESULT, keep nothing but them, and say whether the explanation holds."""
    from attribution.experiments.verification import verify as verify_result
    from attribution.result import Attribution

    _show(verify_result(model, Attribution.load(result), top, outputs=why, n_random=n_random, seed=seed), as_json)


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


def _refuse(context: typer.Context, *options: str) -> None:
    """Raises `InputError` where one of these was typed, which would do nothing."""
    sources = {name: context.get_parameter_source(name) for name in options}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if typed:
        names = ", ".join("--" + name.replace("_", "-") for name in typed)
        raise InputError(
            f"Expected no {names} with saved results, which are what they are. Explain the prompts again instead."
        )


def _show(
    found: Attribution | WhatIf | Comparison | Verification, as_json: bool, view: RenderableType | None = None
) -> None:
    """Prints what was found, as JSON or as a terminal shows it."""
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _console().print(found if view is None else view)


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
