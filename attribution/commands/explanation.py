"""The command `explain`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attribution.errors import InputError
from attribution.printing import check_files, refuse, show_found, write_results
from attribution.typed import (
    Ablations,
    AsJson,
    ChatFile,
    Csv,
    Full,
    Instead,
    MaxNewTokens,
    Output,
    Page,
    Prompt,
    Seed,
    TargetOrPart,
    UnitsAsked,
    Why,
    check_part,
    typed_ablation,
    typed_prompt,
    typed_target,
    typed_target_or_part,
)

if TYPE_CHECKING:
    from attribution.models.remote import RemoteModel


def explain(
    context: typer.Context,
    prompt: Prompt = None,
    chat: ChatFile = None,
    output: Output = None,
    model: Annotated[
        str, typer.Option(help='"demo", a Hugging Face id, a folder, "openai:NAME", or a name at --base-url.')
    ] = "demo",
    base_url: Annotated[
        str | None,
        typer.Option(
            help="The API that serves the model, such as http://localhost:8080/v1. Its key is in ATTRIBUTION_API_KEY."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer of a model behind an API; prompts are then sent as ids.")
    ] = None,
    max_calls: Annotated[int | None, typer.Option(help="Send at most this many calls to an API.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Spend at most this much at an API.")] = None,
    prices: Annotated[
        tuple[float, float] | None,
        typer.Option(help="What a million input tokens and a million output tokens cost.", metavar="INPUT OUTPUT"),
    ] = None,
    cache: Annotated[bool, typer.Option(help="Keep what an API answered, and ask nothing twice.")] = True,
    method: Annotated[
        list[str] | None,
        typer.Option(help="default, careful, or a name that `attribution methods` lists; several are shown in turn."),
    ] = None,
    units: UnitsAsked = "word",
    target: TargetOrPart = "logprob",
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
    full: Full = False,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this file (safetensors).")] = None,
    html: Page = None,
    table: Csv = None,
) -> None:
    """Show which words of PROMPT made the model write its answer."""
    from attribution.checks import check_count
    from attribution.explainer import Options
    from attribution.explainer import explain as explain_prompt
    from attribution.method import CHOSEN, build_method
    from attribution.models import load, load_local
    from attribution.problem import check_over_outputs
    from attribution.prompts.units import check_units
    from attribution.question import ask
    from attribution.result import Attribution

    asked = typed_prompt(prompt, chat)
    # One that is named twice, by its name and as the default, is asked once.
    names = list({CHOSEN.get(name, name): name for name in method or ("default",)}.values())
    if len(names) > 1:
        refuse(context, "with several methods. Give --method once", "save", "table", "resume", "dry_run")
    for name in names:
        build_method(name)  # a slip in the last is told before the first is computed
    check_files(save, html, table)  # said before the work, not after it
    scalar, part = typed_target_or_part(target, why)
    question: Options = {
        "output": output,
        "max_new_tokens": max_new_tokens,
        "method": names[0],
        "units": units,
        "target": typed_target(scalar, part, instead),
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
    behind = _behind_api(context, model, base_url, tokenizer, max_calls, max_cost, prices, cache)
    if dry_run:
        costs = explain_prompt(behind or model, asked, dry_run=True, **question)
        typer.echo(json.dumps(asdict(costs)) if as_json else str(costs))
        return
    source = behind or (load(model) if len(names) > 1 or part != why else model)
    if part is not None and part != why and behind is None:
        # A slip in a target's name is told before the scores are computed, which may take long.
        allowed = check_count("max_new_tokens", max_new_tokens)
        first = ask(load_local(source, "--target"), asked, check_units(units), "logprob", output, allowed)
        check_part(part, "".join(first.output_texts))
        question["output"] = first.output
    results = [explain_prompt(source, asked, **question)]
    for name in names[1:]:
        question["method"] = name
        if behind is None:  # which otherwise answers as before, out of the cache
            question["output"] = [token.id for token in results[0].outputs]
        found = explain_prompt(source, asked, **question)
        # What stands in for the default may have been named as well.
        if all(found.method != other.method for other in results):
            results.append(found)
    # Everything is written before anything is said about parts of it, which may fail.
    if save is not None:
        results[0].save(save)
    write_results(results, part, html, table)
    views = [result.text_view(part, full=full) for result in results]
    if as_json and len(names) > 1:
        typer.echo(json.dumps([result.to_dict() for result in results]))
        return
    for place, (result, view) in enumerate(zip(results, views, strict=True)):
        if place:
            typer.echo()
        show_found(result, as_json, view)


def _behind_api(
    context: typer.Context,
    model: str,
    base_url: str | None,
    tokenizer: str | None,
    max_calls: int | None,
    max_cost: float | None,
    prices: tuple[float, float] | None,
    cache: bool,
) -> RemoteModel | None:
    """The model behind an API that was named; None where it runs here."""
    from attribution.models.api.limits import Limits
    from attribution.models.remote import PROVIDERS, RemoteModel, key_of

    provider, _, name = model.partition(":")
    if base_url is None and provider not in PROVIDERS:
        refuse(
            context,
            f'for {model!r}, which runs here. Give --base-url, or --model "openai:..."',
            *("tokenizer", "max_calls", "max_cost", "prices", "cache"),
        )
        return None
    if base_url is not None and provider in PROVIDERS:
        raise InputError(f"Expected --base-url or a name such as {model!r}, got both. Leave one out.")
    given: dict[str, Any] = {} if prices is None else {"input_price": prices[0], "output_price": prices[1]}
    limits = Limits(max_calls=max_calls, max_cost=max_cost, **given)
    key = os.environ.get("ATTRIBUTION_API_KEY") if base_url is not None else key_of(model)
    if base_url is None:
        base_url, model = PROVIDERS[provider][0], name
    return RemoteModel(base_url, model, key, tokenizer, limits=limits, cache=cache)
