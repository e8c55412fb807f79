"""explain: the one verb. A model and a prompt go in, a result comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from attribution.absence import Replace, check_ablation
from attribution.assembly import assemble, units_of
from attribution.checks import check_count, check_seed
from attribution.errors import InputError
from attribution.estimate import Estimate, estimate
from attribution.evaluations import Evaluations
from attribution.local_problem import LocalProblem
from attribution.method import CHOSEN, Method, build_method, suited
from attribution.models import load_local
from attribution.models.local import LocalModel
from attribution.models.remote import RemoteModel, is_remote
from attribution.models.remote import load as load_remote
from attribution.outputs import nesting as output_nesting
from attribution.parts import Output, Unit
from attribution.problem import OverOutputs, check_budget, check_over_outputs
from attribution.prompts.units import Units, check_units
from attribution.prompts.writing import Written
from attribution.question import Question, ask
from attribution.recorded import ablation_record, target_record
from attribution.remote.explanation import RemoteOptions, explain_remote
from attribution.remote.plan import CallPlan, plan_remote
from attribution.result import Attribution
from attribution.target import Contrast, Semantic

ModelSource = LocalModel | RemoteModel | str | Path | tuple[Any, Any]
"""What names a model, or is one."""


_REMOTE = {
    "ablate_special": "whose special tokens nobody sees",
    "resume": "whose answers are in its cache: asked again, what is known costs nothing",
}
"""Why what goes with a model that runs here does not go with one behind an API."""


class Options(TypedDict, total=False):
    """What `explain` takes besides model and prompt; it says what each means."""

    output: str | Sequence[int] | None
    max_new_tokens: int
    method: str | Method
    units: Units
    target: str | Contrast | Semantic
    per_output: bool
    over_outputs: OverOutputs
    ablation: str | Replace
    ablate_special: bool
    seed: int
    max_forwards: int | None
    max_tokens: int | None
    max_seconds: float | None
    resume: Attribution | None


@overload
def explain(
    model: ModelSource, prompt: Written, *, dry_run: Literal[False] = False, **options: Unpack[Options]
) -> Attribution: ...


@overload
def explain(model: RemoteModel, prompt: Written, *, dry_run: Literal[True], **options: Unpack[Options]) -> CallPlan: ...


@overload
def explain(
    model: LocalModel | Path | tuple[Any, Any] | Literal["demo"],
    prompt: Written,
    *,
    dry_run: Literal[True],
    **options: Unpack[Options],
) -> Estimate: ...


@overload
def explain(
    model: ModelSource, prompt: Written, *, dry_run: Literal[True], **options: Unpack[Options]
) -> Estimate | CallPlan: ...


def explain(
    model: ModelSource,
    prompt: Written,
    *,
    output: str | Sequence[int] | None = None,
    max_new_tokens: int = 20,
    method: str | Method = "default",
    units: Units = "word",
    target: str | Contrast | Semantic = "logprob",
    per_output: bool = True,
    over_outputs: OverOutputs = "sum",
    ablation: str | Replace = "delete",
    ablate_special: bool = False,
    seed: int = 0,
    max_forwards: int | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    resume: Attribution | None = None,
    dry_run: bool = False,
) -> Attribution | Estimate | CallPlan:
    r"""A score for every part of the prompt and every token of the output.

    - `model`: what `attribution.load` gave, or anything it takes.
    - `prompt`: a text; the messages of a chat, `[{"role": "user", "content": "..."}]`, which the tokenizer's own
      template renders; a `Chat`, which has tools and options of the template too; or a `Rendered` prompt.
    - `output`: the text, or the ids, whose causes are asked; None for the greedy continuation of the prompt, of at most
      `max_new_tokens` tokens.
    - `method`: `"default"` or `"careful"`, which the board (docs/board.md) chose: the methods that find planted causes
      best, of those that take at most four passes for one number, and at any cost; a name out of
      `attribution.list_methods()`; or a `Method` with its options. Where the chosen one does not suit the question,
      because `resume` or another meaning of "absent" is asked, or the model does not give what it needs, it is
      `"leave_one_out"` instead, and `result.notes["instead_of"]` says why.
    - `units`: what gets a score: `"token"`, `"word"`, `"sentence"`, `"line"`, `"paragraph"`, `"message"`,
      `"list_item"`, `"code_line"` or `"example"`; a regular expression, whose every match is a unit; or spans,
      `{"document 2": (310, 842)}`, in a chat `(message, start, end)`. What lies outside of matches or spans stays. With
      `"token"` earlier output tokens are units too, and are ablated as well.
    - `target`: what is explained of each output token, `"logprob"` (nats), `"prob"`, `"logit"` or `"entropy"`; a
      `Contrast`: why this output and not another; or `Semantic`: whether the model still says the same in other words.
    - `per_output`: False for one row of scores, those of the output as a whole, that is of the sum of its tokens'
      targets, or with `over_outputs` of their `"mean"` or `"min"`, the least likely token. Gradient methods then take
      one product instead of one for every output token.
    - `ablation`: what an absent unit means: `"delete"` (its ids are removed and later ones move up), `"mask"` (nothing
      looks at it, and all others stay where they were) or a `Replace` (a neutral text stands in its place).
    - `ablate_special`: True to ablate special tokens (BOS) too.
    - `seed`: of all randomness; the same call gives the same numbers.
    - `max_forwards`, `max_tokens`, `max_seconds`: a budget for methods that ask ablated prompts, and for these alone.
      Where it ends, they stop and say what they know so far; `result.notes["partial"]` is then True.
    - `resume`: a result for the same question, maybe one that a budget has ended. What was asked for it is not asked
      again, by whatever method; only the whole prompt is, to see that the model is the same.
    - `dry_run`: True for what it would cost, an `Estimate`, instead of a result. Where no output is given, one of
      `max_new_tokens` tokens is assumed. Of a model behind an API it is a `CallPlan`, and nothing is sent for it.

    Of a model behind an API (`RemoteModel`) the endpoint decides what the scores rest on, which
    `result.notes["evidence"]` says: log-probabilities of the output itself; those of the likeliest tokens, so that some
    values are bounds (`notes["censored"]`); or texts alone, which are compared as by `Semantic`, and scores below the
    endpoint's own noise are 0 (`notes["noise"]`). Methods that need gradients refuse.

    Raises `InputError` for an argument that is not as above, `CapabilityError` where the method needs what the model
    cannot give, `BudgetError` where the budget does not suffice for anything, `ContextWindowError` where prompt and
    output are too long for the model, `ApiError` where an endpoint fails, and `ModelError` where the model cannot be
    used as it is.

    >>> import attribution as at
    >>> result = at.explain("demo", "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?")
    >>> result.output
    '\n\nThe answer is 3.<eos>'
    """
    chosen = build_method(method)
    for name, flag in (("per_output", per_output), ("ablate_special", ablate_special), ("dry_run", dry_run)):
        if not isinstance(flag, bool):
            raise InputError(f"Expected {name}=True or {name}=False, got {flag!r}.")
    absent = check_ablation(ablation)
    budget = check_budget(max_forwards, max_tokens, max_seconds)
    tokens_allowed = check_count("max_new_tokens", max_new_tokens)
    division = check_units(units)
    reduction = check_over_outputs(over_outputs)
    if reduction != "sum" and (per_output or isinstance(target, Semantic)):
        raise InputError(
            f"Expected over_outputs={reduction!r} where one number is made of those of the output tokens. Type "
            "per_output=False with it, and another target than Semantic, which is of the whole output already."
        )
    seed = check_seed(seed)
    is_chosen = isinstance(method, str) and method in CHOSEN
    if is_remote(model):
        for name, given, allowed in (("ablate_special", ablate_special, False), ("resume", resume, None)):
            if given != allowed:
                raise InputError(f"Expected no {name} for a model behind an API, {_REMOTE[name]}. Leave it out.")
        options = RemoteOptions(
            output, tokens_allowed, chosen, is_chosen, division, target, per_output, reduction, absent, seed, budget
        )
        remote = load_remote(model)
        return plan_remote(remote, prompt, options) if dry_run else explain_remote(remote, prompt, options)
    local = load_local(model, "explain")
    question = ask(local, prompt, division, target, output, tokens_allowed, guess_output=dry_run)
    ids = question.output
    problem = LocalProblem(
        local,
        question.prompt,
        question.reading,
        output_units=division.name == "token",
        per_output=per_output,
        over_outputs=reduction,
        semantic=question.semantic,
        ablation=absent,
        ablate_special=ablate_special,
        budget=budget,
    )
    if is_chosen:
        of_ablations = {
            f"ablation={ablation!r}": ablation != "delete",
            "ablate_special=True": ablate_special,
            "resume": resume is not None,
        }
        chosen = suited(chosen, problem, [name for name, is_asked in of_ablations.items() if is_asked])
    if dry_run:
        chosen.check(problem)
        return estimate(problem, chosen, np.random.default_rng(seed))
    if isinstance(target, Contrast) and not target.alternatives:  # the model was asked for its runners-up
        problem.cost.forwards += 1
        problem.cost.tokens += len(question.prompt.encoding.ids) + len(ids) - 1
    per_output = per_output and question.semantic is None
    asked_units = units_of(question.prompt, division.name, local.codec.decode)
    record: dict[str, Any] = {
        "prompt": question.prompt.text,
        "prompt_ids": question.prompt.encoding.ids,
        "granularity": division.name,
        "target": str(target) if per_output or reduction == "sum" else f"{reduction} of {target}",
        "per_output": per_output,
        "ablation": str(absent) if "value" in chosen.needs else None,
        "question": {
            **question.chat,
            "target": target_record(target),
            "ablation": ablation_record(absent),
            "ablate_special": ablate_special,
            "over_outputs": reduction,
        },
        "model": local.describe(),
    }
    if resume is not None:
        problem.remember(_evaluations(resume, record, ids, asked_units, chosen))
        own = problem.logprobs().numpy()
        theirs = np.array([output.logprob for output in resume.outputs], dtype=np.float64)
        if not np.allclose(own, theirs, rtol=0.02, atol=0.02):
            raise InputError(
                "Expected the model that the result to resume from was computed with: this one finds the output as "
                f"likely as {own.sum():.3f} nats, that one {theirs.sum():.3f}."
            )
    chosen.check(problem)
    scores = chosen.attribute(problem, np.random.default_rng(seed)).numpy()
    outputs = tuple(_outputs(question, problem))
    return assemble(problem, chosen, scores, asked_units, outputs, record, question.notes, seed)


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


def _outputs(question: Question, problem: LocalProblem) -> Iterator[Output]:
    """The output's tokens as the result keeps them."""
    ids, texts, logprobs = question.output, question.output_texts, problem.logprobs().tolist()
    levels = output_nesting(texts)
    likeliest = problem.likeliest()
    others = question.model.codec.alternative_texts(
        question.prompt.encoding.ids, ids, [[token for token, _ in row] for row in likeliest]
    )
    for index, (text, token, logprob) in enumerate(zip(texts, ids, logprobs, strict=True)):
        # The token that was written has the text and the number that it has in the result, to the last digit.
        alternatives = [
            (text or said, logprob) if other == token else (said, likely)
            for said, (other, likely) in zip(others[index], likeliest[index], strict=True)
        ]
        inside = {level: owners[index] for level, owners in levels.items()}
        ranked = sorted(alternatives, key=lambda alternative: -alternative[1])
        yield Output(text, token, logprob, tuple(ranked), inside)
