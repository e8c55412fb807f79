"""Recorded: what a result keeps of its question, and the problem it is about, on its model once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from attribution.absence import Replace, check_ablation
from attribution.errors import InputError
from attribution.local_problem import LocalProblem
from attribution.models.local import LocalModel
from attribution.problem import check_over_outputs
from attribution.prompts.prompt import Prompt, PromptUnit
from attribution.question import read_target
from attribution.result import Attribution
from attribution.target import Contrast, Semantic, named_target

_NEEDED = ("target", "ablation", "ablate_special", "over_outputs")


def target_record(target: str | Contrast | Semantic) -> Any:
    """The target as JSON holds it."""
    if isinstance(target, Contrast):
        return {"contrast": list(target.alternatives), "instead_of": target.instead_of}
    if isinstance(target, Semantic):
        return {"semantic": target.by, "max_new_tokens": target.max_new_tokens}
    return target


def recorded_target(record: Any) -> str | Contrast | Semantic:
    """The target that `target_record` wrote down; `InputError` for anything else."""
    if not isinstance(record, Mapping):
        return named_target(record).name
    known = cast("Mapping[str, Any]", record)
    if "contrast" in known:
        return Contrast(*known["contrast"], instead_of=known.get("instead_of"))
    if "semantic" in known:
        return Semantic(known["semantic"], known.get("max_new_tokens"))
    raise InputError(f"Expected the record of a target, got {record!r}.")


def ablation_record(ablation: str | Replace) -> Any:
    """The meaning of "absent" as JSON holds it."""
    if isinstance(ablation, Replace):
        return {"replace": [filler if isinstance(filler, str) else list(filler) for filler in ablation.fillers]}
    return ablation


def recorded_ablation(record: Any) -> str | Replace:
    """The meaning of "absent" that `ablation_record` wrote down."""
    return Replace(*cast("Mapping[str, Any]", record)["replace"]) if isinstance(record, Mapping) else record


def recorded_problem(model: LocalModel, result: Attribution) -> LocalProblem:
    """The problem that a result is about, on a model: the same units, target and meaning of "absent".

    Output tokens are no units of it, so that they all stay. Raises `InputError` where the result does not say what was
    asked, and where the model is another than its own.
    """
    question = result.question
    if not all(name in question for name in _NEEDED):
        raise InputError(
            f"Expected a result that says what was asked, as those of explain do; this one of {result.method['name']} "
            "does not. Type explain(...) again."
        )
    try:
        target = recorded_target(question["target"])
        absent = check_ablation(recorded_ablation(question["ablation"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"Expected a result that says what was asked, but its record is damaged: {error!r}."
        ) from error
    prompt, output = _prompt(model, result), tuple(output.id for output in result.outputs)
    if not all(0 <= i < model.vocabulary_size for i in output):
        raise _other_model(f"this one has no token {max(output)}, which the output has")
    wanted = named_target(target) if isinstance(target, str) else target
    problem = LocalProblem(
        model,
        prompt,
        read_target(model, prompt, output, wanted),
        per_output=result.per_output,
        over_outputs=check_over_outputs(question["over_outputs"]),
        semantic=wanted if isinstance(wanted, Semantic) else None,
        ablation=absent,
        ablate_special=bool(question["ablate_special"]),
    )
    if isinstance(wanted, Contrast) and not wanted.alternatives:  # the model was asked for its runners-up
        problem.cost.forwards += 1
        problem.cost.tokens += len(prompt.encoding.ids) + len(output) - 1
    own = problem.logprobs().numpy()
    theirs = np.array([output.logprob for output in result.outputs], dtype=np.float64)
    if not np.allclose(own, theirs, rtol=0.02, atol=0.02):
        raise _other_model(f"this one finds the output as likely as {own.sum():.3f} nats, that one {theirs.sum():.3f}")
    return problem


def _prompt(model: LocalModel, result: Attribution) -> Prompt:
    """The result's prompt in the result's units, as the model's tokenizer reads it."""
    if not result.prompt_ids:
        raise InputError(
            "Expected a result with the token ids of its prompt, this one has none. Type explain(...) again."
        )
    edges = [0, *(unit.last_token for unit in result.units)]
    if [unit.first_token for unit in result.units] != edges[:-1] or edges[-1] != len(result.prompt_ids):
        raise InputError("Expected a result whose units are made of all tokens of the prompt. Type explain(...) again.")
    units = tuple(
        PromptUnit((u.start, u.end), (u.first_token, u.last_token), u.special, u.role, u.name) for u in result.units
    )
    for adds in (True, False):  # the tokenizer adds nothing to what a template has written
        encoding = model.codec.encode(result.prompt, add_special=adds)
        if encoding.ids == result.prompt_ids:
            return Prompt(result.prompt, encoding, units, tokenizer_adds=adds)
    raise _other_model(f"the tokenizer of this one, {model.describe()['name']}, reads the prompt as other tokens")


def _other_model(why: str) -> InputError:
    return InputError(f"Expected the model that the result was computed with: {why}. Pass that model.")
