"""What `explain` does where the model is behind an endpoint: the same result, as exact as the endpoint allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from attribution.absence import Replace
from attribution.assembly import assemble, units_of
from attribution.errors import BudgetError, InputError
from attribution.method import Method, suited
from attribution.models.api.tally import Tally, tallying
from attribution.models.dialects.completion import Piece
from attribution.models.remote import RemoteModel
from attribution.outputs import nesting
from attribution.parts import Output
from attribution.problem import Budget, OverOutputs
from attribution.prompts.units import Division
from attribution.prompts.writing import Written
from attribution.recorded import ablation_record, target_record
from attribution.remote.asking import Rewritten
from attribution.remote.noise import noise_floor
from attribution.remote.problem import RemoteProblem
from attribution.remote.question import Answer, AskedPrompt, Target, ask_prompt, check_target, find_answer
from attribution.result import Attribution

ALTERNATIVES = 5
"""How many tokens are told that are likeliest in the place of an output token."""


@dataclass(frozen=True, eq=False)
class RemoteOptions:
    """What `explain` was asked, checked; `is_chosen` where the method is the default one."""

    output: str | Sequence[int] | None
    max_new_tokens: int
    method: Method
    is_chosen: bool
    division: Division
    target: Target
    per_output: bool
    over_outputs: OverOutputs
    ablation: str | Replace
    seed: int
    budget: Budget


def explain_remote(model: RemoteModel, prompt: Written, options: RemoteOptions) -> Attribution:
    """See `explain`. Raises `BudgetError` where limits suffice for nothing, `ApiError` where the endpoint fails."""
    _check(options)
    with model.client as client, tallying() as tally:
        asked = ask_prompt(model, prompt, options.division, options.ablation)
        answer = find_answer(model, asked, options.target, options.output, options.max_new_tokens)
        answers, different = measured(answer, asked)
        if different == 1:  # once after each prompt, as long as nothing speaks against that
            answer = _asked(answer, 1)
        problem = problem_of(asked, answer, options)
        method = _method(problem, options)
        scores = method.attribute(problem, np.random.default_rng(options.seed)).numpy()
        others = _doubted(answer, problem, answers)
        if others:
            answer = _asked(answer, model.repeats)
            problem = problem_of(asked, answer, options)
            scores = method.attribute(problem, np.random.default_rng(options.seed)).numpy()
        values = problem.evaluations.values.size
        notes: dict[str, Any] = {"evidence": answer.asking.evidence() | dict(answer.notes) | {"values": values}}
        if answers:
            scores, told = _above_noise(scores, problem, method, answer, [answers, *others], options.seed)
            notes["noise"] = {"similarities": answers, "different": different, "others": others, **told}
        notes |= {"censored": problem.censored} if problem.censored else {}
        problem.cost.tokens = tally.tokens
        notes["calls"] = _spent(tally, has_prices=client.spending.cost is not None)
    decode = (lambda ids: "") if model.codec is None else model.codec.decode
    units = units_of(asked.prompt, options.division.name, decode, has_ids=asked.has_ids)
    record = _record(model, asked, answer, problem, options, method)
    return assemble(
        problem, method, scores, units, outputs_of(answer.output), record, dict(asked.notes) | notes, options.seed
    )


def problem_of(asked: AskedPrompt, answer: Answer, options: RemoteOptions) -> RemoteProblem:
    """What methods may ask."""
    return RemoteProblem(
        asked.prompt,
        asked.absent,
        answer.asking,
        len(answer.output),
        target=answer.target,
        unit=answer.unit,
        per_output=options.per_output,
        over_outputs=options.over_outputs,
        budget=options.budget,
    )


def measured(answer: Answer, asked: AskedPrompt) -> tuple[list[float], int]:
    """How like the output several other answers to the whole prompt are, and how many different ones there are.

    None where numbers are told.

    Raises `BudgetError` where a budget ended before.
    """
    asking = answer.asking
    if not isinstance(asking, Rewritten):
        return [], 0
    often = replace(asking, repeats=2 * asking.repeats)
    (texts,) = often.texts([asked.whole])
    found = often.likenesses(texts)
    if len(found) < often.repeats:
        raise BudgetError(
            f"The budget ended ({asking.model.client.exhausted}) before it was known how much the answers to one and "
            "the same prompt differ. Allow more."
        )
    return found, len(set(texts))


def outputs_of(pieces: Sequence[Piece]) -> tuple[Output, ...]:
    """The output's tokens as a result keeps them; -1 is the id of a token whose id is not told."""
    levels = nesting([piece.text for piece in pieces])
    return tuple(
        Output(
            piece.text,
            -1 if piece.id is None else piece.id,
            piece.logprob,
            tuple((_whole(text), logprob) for text, logprob in piece.likeliest[:ALTERNATIVES]),
            {level: owners[index] for level, owners in levels.items()},
        )
        for index, piece in enumerate(pieces)
    )


def _whole(text: str) -> str:
    """A text with a replacement character for what is part of one."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _check(options: RemoteOptions) -> None:
    if options.budget.max_tokens is not None:
        raise InputError(
            "Expected no max_tokens: how many tokens a prompt has only a model that runs here tells beforehand. Give "
            "RemoteModel its limits: Limits(max_calls=...), or Limits(max_cost=...) with prices."
        )
    check_target(options.target)


def _asked(answer: Answer, repeats: int) -> Answer:
    """The same, with the model writing so many times after each prompt."""
    if not isinstance(answer.asking, Rewritten):
        return answer
    return replace(answer, asking=replace(answer.asking, repeats=repeats))


def _doubted(answer: Answer, problem: RemoteProblem, answers: Sequence[float]) -> list[list[float]]:
    """Where all answers to the whole prompt were alike, two answers to each prompt that was answered otherwise.

    None where these too are alike: then it was the prompt that made them other, not chance.
    """
    asking = answer.asking
    if not isinstance(asking, Rewritten) or asking.repeats > 1 or asking.model.repeats == 1:
        return []
    evaluations = problem.evaluations
    is_other = evaluations.values[:, 0] != np.float32(answers[0])
    if not is_other.any():
        return []
    masks = list(evaluations.keep[is_other])
    heard = replace(asking, before=1).hear(problem.prompts(masks)).numbers
    again = heard.reshape(len(masks), -1).mean(1).astype(np.float32)
    pairs = [[float(one), float(two)] for one, two in zip(evaluations.values[is_other, 0], again, strict=True)]
    known = [pair for pair in pairs if np.isfinite(pair[1])]
    return known if any(one != two for one, two in known) else []


def _method(problem: RemoteProblem, options: RemoteOptions) -> Method:
    """The method that was asked for, or what stands in for the default; raises what `explain` raises for it."""
    method = suited(options.method, problem, ()) if options.is_chosen else options.method
    method.check(problem)
    return method


def _above_noise(
    scores: Float[np.ndarray, "target unit"],
    problem: RemoteProblem,
    method: Method,
    answer: Answer,
    answers: Sequence[Sequence[float]],
    seed: int,
) -> tuple[Float[np.ndarray, "target unit"], dict[str, Any]]:
    """The scores, 0 where chance alone might make as much, and what was measured of that."""
    repeats = answer.asking.repeats if isinstance(answer.asking, Rewritten) else 1
    floor = noise_floor(problem, method, answers, repeats, seed)
    below = (np.abs(scores) <= floor) & (scores != 0)
    return np.where(below, 0.0, scores), {"floor": floor, "below": int(below.any(0).sum())}


def _spent(tally: Tally, *, has_prices: bool) -> dict[str, Any]:
    """The calls that were sent, how many of them again, and what was known before; as JSON holds it."""
    found: dict[str, Any] = {"sent": tally.sent, "retried": tally.retried, "cached": tally.cached}
    return found | {"cost": tally.cost} if has_prices else found


def _record(
    model: RemoteModel,
    asked: AskedPrompt,
    answer: Answer,
    problem: RemoteProblem,
    options: RemoteOptions,
    method: Method,
) -> dict[str, Any]:
    """What was asked, as a result keeps it; the target is the one that was read."""
    target: Target = answer.asking.semantic if isinstance(answer.asking, Rewritten) else options.target
    over = options.over_outputs
    return {
        "prompt": asked.prompt.text,
        "prompt_ids": asked.prompt.encoding.ids if asked.has_ids else (),
        "granularity": options.division.name,
        "target": str(target) if problem.per_output or over == "sum" else f"{over} of {target}",
        "per_output": problem.per_output,
        "ablation": str(options.ablation) if "value" in method.needs else None,
        "question": {
            **asked.chat,
            "target": target_record(target),
            "ablation": ablation_record(options.ablation),
            "ablate_special": False,
            "over_outputs": over,
        },
        "model": model.describe(),
    }
