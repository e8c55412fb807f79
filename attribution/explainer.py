"""explain: the one verb. A model and a prompt go in, a result comes out."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from jaxtyping import Float, Float32

import attribution
from attribution.absence import Replace, check_ablation
from attribution.errors import InputError
from attribution.estimate import Estimate, estimate
from attribution.evaluations import Evaluations
from attribution.local_problem import LocalProblem
from attribution.method import Method, build_method
from attribution.models import load
from attribution.models.local import LocalModel
from attribution.problem import check_budget
from attribution.prompt import Prompt, check_count, check_prompt, check_text, divide
from attribution.result import Attribution, Interaction, Output, Unit, indices_of_text
from attribution.target import Contrast, Reading, named_target, read_contrast, read_output, read_runner_up

Source = LocalModel | str | Path | tuple[Any, Any]
"""What names a model, or is one."""


class Options(TypedDict, total=False):
    """What `explain` takes besides model and prompt; it says what each means."""

    output: str | Sequence[int] | None
    max_new_tokens: int
    method: str | Method
    units: str
    target: str | Contrast
    per_output: bool
    ablation: str | Replace
    ablate_special: bool
    seed: int
    max_forwards: int | None
    max_tokens: int | None
    max_seconds: float | None
    resume: Attribution | None


@overload
def explain(
    model: Source, prompt: str, *, dry_run: Literal[False] = False, **options: Unpack[Options]
) -> Attribution: ...


@overload
def explain(model: Source, prompt: str, *, dry_run: Literal[True], **options: Unpack[Options]) -> Estimate: ...


def explain(
    model: Source,
    prompt: str,
    *,
    output: str | Sequence[int] | None = None,
    max_new_tokens: int = 20,
    method: str | Method = "leave_one_out",
    units: str = "word",
    target: str | Contrast = "logprob",
    per_output: bool = True,
    ablation: str | Replace = "delete",
    ablate_special: bool = False,
    seed: int = 0,
    max_forwards: int | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    resume: Attribution | None = None,
    dry_run: bool = False,
) -> Attribution | Estimate:
    r"""A score for every part of the prompt and every token of the output.

    - `model`: what `attribution.load` gave, or anything it takes.
    - `prompt`: the text that the model reads.
    - `output`: the text, or the ids, whose causes are asked; None for the greedy continuation of the prompt, of at most
      `max_new_tokens` tokens.
    - `method`: a name out of `attribution.list_methods()`, or a `Method` with its options.
    - `units`: what gets a score, `"token"` or `"word"`. With `"token"` earlier output tokens are units too, and are
      ablated as well.
    - `target`: what is explained of each output token, `"logprob"` (nats), `"prob"`, `"logit"` or `"entropy"`; or a
      `Contrast`: why this output and not another.
    - `per_output`: False for one row of scores, those of the output as a whole, that is of the sum of its tokens'
      targets. Gradient methods then take one product instead of one for every output token.
    - `ablation`: what an absent unit means: `"delete"` (its ids are removed and later ones move up), `"mask"` (nothing
      looks at it, and all others stay where they were) or a `Replace` (a neutral text stands in its place).
    - `ablate_special`: True to ablate special tokens (BOS) too.
    - `seed`: of all randomness; the same call gives the same numbers.
    - `max_forwards`, `max_tokens`, `max_seconds`: a budget for methods that ask ablated prompts. Where it ends, they
      stop and say what they know so far; `result.notes["partial"]` is then True.
    - `resume`: a result for the same question, maybe one that a budget has ended. What was asked for it is not asked
      again, by whatever method; only the whole prompt is, to see that the model is the same.
    - `dry_run`: True for what it would cost, an `Estimate`, instead of a result. Where no output is given, one of
      `max_new_tokens` tokens is assumed.

    Raises `InputError` for an argument that is not as above, `CapabilityError` where the method needs what the model
    cannot give, `BudgetError` where the budget does not suffice for anything, `ContextWindowError` where prompt and
    output are too long for the model, and `ModelError` where the model cannot be used as it is.

    >>> import attribution as at
    >>> result = at.explain("demo", "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?")
    >>> result.output
    '\n\nThe answer is 3.<eos>'
    """
    chosen = build_method(method)
    wanted = target if isinstance(target, Contrast) else named_target(target)
    for name, flag in (("per_output", per_output), ("ablate_special", ablate_special), ("dry_run", dry_run)):
        if not isinstance(flag, bool):
            raise InputError(f"Expected {name}=True or {name}=False, got {flag!r}.")
    absent = check_ablation(ablation)
    budget = check_budget(max_forwards, max_tokens, max_seconds)
    text = check_prompt(prompt)
    tokens_allowed = check_count("max_new_tokens", max_new_tokens)
    seed = _check_seed(seed)
    local = load(model)
    divided = divide(text, local.encode(text), units)
    guessed = dry_run and output is None
    if guessed and isinstance(wanted, Contrast):
        raise InputError("Expected an output for a dry run of a Contrast, got none. Pass output=...")
    ids = divided.encoding.ids[-1:] * tokens_allowed if guessed else _output_ids(local, divided, output, tokens_allowed)
    reading = _read_contrast(local, divided, ids, wanted) if isinstance(wanted, Contrast) else read_output(ids, wanted)
    problem = LocalProblem(
        local,
        divided,
        reading,
        output_units=units == "token",
        per_output=per_output,
        ablation=absent,
        ablate_special=ablate_special,
        budget=budget,
    )
    if dry_run:
        chosen.check(problem)
        return estimate(problem, chosen, np.random.default_rng(seed))
    if isinstance(wanted, Contrast) and not wanted.alternatives:  # the model was asked for its runners-up
        problem.cost.forwards += 1
        problem.cost.tokens += len(divided.encoding.ids) + len(ids) - 1
    record: dict[str, Any] = {
        "prompt": text,
        "granularity": units,
        "target": str(target),
        "per_output": per_output,
        "ablation": str(absent) if "value" in chosen.needs else None,
        "model": local.describe(),
    }
    if resume is not None:
        record_units = tuple(_prompt_units(local, divided))
        problem.remember(_evaluations(resume, record, ids, record_units, chosen))
        own, theirs = problem.logprobs().numpy(), np.array([output.logprob for output in resume.outputs])
        if not np.allclose(own, theirs, rtol=0.02, atol=0.02):
            raise InputError(
                "Expected the model that the result to resume from was computed with: this one finds the output as "
                f"likely as {own.sum():.3f} nats, that one {theirs.sum():.3f}."
            )
    chosen.check(problem)
    scores = chosen.attribute(problem, np.random.default_rng(seed)).numpy()
    errors = None if problem.errors is None else problem.errors.numpy().astype(np.float32)
    logprobs = problem.logprobs().tolist()
    n_prompt = len(divided.units)
    return Attribution(
        scores=scores[:, :n_prompt].astype(np.float32),
        output_scores=_earlier(scores[:, n_prompt:], per_output) if units == "token" else None,
        units=tuple(_prompt_units(local, divided)),
        outputs=tuple(map(Output, local.output_texts(divided.encoding.ids, ids), ids, logprobs)),
        method={
            "name": chosen.name,
            "options": chosen.options,
            "signed": chosen.signed,
            "unit": chosen.unit.format(target=reading.target.unit),
        },
        seed=seed,
        cost=asdict(problem.cost),
        notes=problem.notes | ({"partial": True} if problem.is_partial else {}),
        errors=None if errors is None else errors[:, :n_prompt],
        interactions=_interactions(problem, n_prompt),
        evaluations=problem.evaluations if "value" in chosen.needs else None,
        versions={
            "attribution": attribution.__version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        **record,
    )


def _evaluations(
    resume: Attribution, record: dict[str, Any], ids: tuple[int, ...], units: tuple[Unit, ...], method: Method
) -> Evaluations:
    """What was asked for an earlier result; `InputError` where that was another question."""
    if "value" not in method.needs:
        raise InputError(
            f"{method.name} asks no ablated prompts, so that there is nothing to resume. Leave resume out."
        )
    if not isinstance(resume, Attribution):
        raise InputError(f"Expected the result to resume from, got {type(resume).__name__}.")
    if resume.evaluations is None:
        raise InputError(f"Expected a result with evaluations to resume from, {resume.method['name']} asks for none.")
    other = [name for name, own in record.items() if getattr(resume, name) != own]
    if tuple(output.id for output in resume.outputs) != ids:
        other.append("output")
    if resume.units != units:
        other.append("units")
    if other:
        raise InputError(
            f"Expected a result for the same question to resume from, got one with another {', '.join(other)}."
        )
    return resume.evaluations


def _check_seed(seed: object) -> int:
    """The seed as an int; `InputError` where it is no whole number from 0 on."""
    try:
        found = -1 if isinstance(seed, bool) else operator.index(cast(Any, seed))
    except TypeError:
        found = -1
    if found < 0:
        raise InputError(f"Expected the seed as an int from 0 on, got {seed!r}.")
    return found


def _interactions(problem: LocalProblem, n_prompt: int) -> tuple[Interaction, ...]:
    """The pairs within the prompt, the strongest first."""
    found = [
        Interaction(first, second, tuple(values.tolist()))
        for (first, second), values in problem.interactions.items()
        if second < n_prompt
    ]
    return tuple(sorted(found, key=lambda pair: -max(map(abs, pair.values))))


def _earlier(scores: Float[np.ndarray, "target output"], per_output: bool) -> Float32[np.ndarray, "target output"]:
    """What each output token did for later ones: for itself and for earlier ones there is only rounding."""
    return (np.tril(scores, -1) if per_output else scores).astype(np.float32)


def _read_contrast(model: LocalModel, prompt: Prompt, output: tuple[int, ...], contrast: Contrast) -> Reading:
    """Where the contrast is read; the model itself says what its runners-up are."""
    ids = prompt.encoding.ids
    if not contrast.alternatives:
        return read_runner_up(output, model.runners_up(ids, output))
    texts = model.output_texts(ids, output)
    if contrast.instead_of is None:
        start, end = 0, len(output)
        written = contrast.alternatives
        ending = output[-1:] if output[-1] in model.stop_ids else ()
    else:
        indices = indices_of_text(texts, contrast.instead_of)
        start, end = indices[0], indices[-1] + 1
        replaced = "".join(texts[start:end])
        written = [replaced.replace(contrast.instead_of, other, 1) for other in contrast.alternatives]
        ending = ()
    before = prompt.text + "".join(texts[:start])
    alternatives: list[tuple[int, ...]] = []
    for other in written:
        added = model.encode_output(before, (*ids, *output[:start]), check_text("other output", other))
        if (*added, *ending) == output[start:end]:
            raise InputError(f"Expected another output than the output itself, got {other!r}.")
        alternatives.append((*output[:start], *added, *ending))
    return read_contrast(output, alternatives, start, end)


def _output_ids(
    model: LocalModel, prompt: Prompt, output: str | Sequence[int] | None, max_new_tokens: int
) -> tuple[int, ...]:
    ids = prompt.encoding.ids
    if output is None:
        model.check_length(len(ids), max_new_tokens)
        return model.generate(ids, max_new_tokens)
    if isinstance(output, str):
        given = model.encode_output(prompt.text, ids, check_text("output", output)) if output else ()
    else:
        given = _check_output_ids(output, model.vocabulary_size)
    if not given:
        raise InputError("Expected an output with at least one token, got none. Leave it out and the model writes.")
    return given


def _check_output_ids(output: object, vocabulary: int) -> tuple[int, ...]:
    """Ids that a person passed, whatever they are held in; `InputError` for anything else."""
    try:
        items = list(cast(Any, output))
        ids = tuple(vocabulary if isinstance(i, (bool, str, bytes)) else operator.index(i) for i in items)
    except TypeError:
        ids = (vocabulary,)
    if isinstance(output, bytes) or not all(0 <= i < vocabulary for i in ids):
        raise InputError(
            f"Expected the output as a text, or as token ids from 0 to {vocabulary - 1} in a flat list, got {output!r}."
        )
    return ids


def _prompt_units(model: LocalModel, prompt: Prompt) -> list[Unit]:
    units: list[Unit] = []
    for unit in prompt.units:
        first, last = unit.tokens
        text = model.decode(prompt.encoding.ids[first:last]) if unit.special else prompt.unit_text(unit)
        units.append(Unit(text, *unit.characters, first, last, "special" if unit.special else "prompt", unit.special))
    return units
