"""CallPlan: what asking an endpoint would take, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attribution.errors import BudgetError
from attribution.estimate import Rehearsal
from attribution.method import Method, suited
from attribution.models.api.request import Request
from attribution.models.dialects.completion import Piece
from attribution.models.dialects.dialect import CHAT, COMPLETIONS, Dialect, Put
from attribution.models.dialects.probing import LIKELIEST, MOST, Capabilities
from attribution.models.remote import RemoteModel
from attribution.problem import Problem
from attribution.prompts.writing import Written
from attribution.remote.asking import Asking, Likeliest, Rewritten, Scored
from attribution.remote.explanation import RemoteOptions, problem_of
from attribution.remote.question import Answer, AskedPrompt, ask_prompt, find_answer
from attribution.target import Contrast, Semantic


@dataclass(frozen=True)
class CallPlan:
    """What a method would ask an endpoint at most; `method` is its name. Nothing was sent to find this out.

    `prompts` counts ablated prompts, `calls` what would be sent for them and for the output, calls that are repeated
    after a failure not counted in; `cached` answers are on the disk already and cost nothing. `cost` is the most that
    the calls can cost, in the prices' currency, None without prices.

    Where nothing is known of the endpoint yet, `probing` calls come first, and it is assumed that one call tells of
    one ablated prompt. By what the endpoint then tells it may be up to `times` as many: one for each of several texts,
    or for each token of an output.
    """

    method: str
    prompts: int
    calls: int
    cached: int
    cost: float | None
    probing: int = 0
    times: int = 1

    def __str__(self) -> str:
        parts = [f"{self.prompts:,} ablated prompts", f"{self.calls:,} calls"]
        parts += [] if self.cost is None else [f"cost {self.cost:.4g}"]
        told = f"{self.method}: at most {', '.join(parts)}"
        told += f"; {self.cached:,} answers are in the cache already" * bool(self.cached)
        if not self.probing:
            return told
        return (
            f"{told}; before that at most {self.probing} calls that find out what the endpoint tells, by which it may "
            f"be up to {self.times} times as many"
        )


def plan_remote(model: RemoteModel, prompt: Written, options: RemoteOptions) -> CallPlan:
    """What `explain_remote` would ask at most. Nothing is sent: what the cache knows is used, the rest assumed."""
    client = model.client
    with client.offline():
        asked = ask_prompt(model, prompt, options.division, options.ablation)
        known = model.known_capabilities(asked.whole)
        try:
            answer = find_answer(model, asked, options.target, options.output, options.max_new_tokens)
            first = [] if answer.asking.road != "texts" else _measuring(answer.asking, asked.whole)
        except BudgetError:
            answer = _assumed(model, asked, options, known)
            first = _finding(model, asked, answer, options, known)
        problem = problem_of(asked, answer, options)
        method = suited(options.method, problem, ()) if options.is_chosen else options.method
        method.check(problem)
        masks, more = _rehearsed(problem, method, options.seed)
        prompts = problem.prompts(masks)
        most_prompts = math.ceil(len(prompts) * more)
        ablated = answer.asking.requests(prompts) if known else _guessed(model, prompts, options)
        if isinstance(answer.asking, Rewritten) and client.cache is None:
            # Asked once, once more where that differs, and then all again.
            more *= (answer.asking.repeats + 2) / answer.asking.repeats
        calls, cached, cost = 0, 0, 0.0
        for requests, times in ((first, 1.0), (ablated, more)):
            is_known = client.known(requests)
            missing = [request for request, there in zip(requests, is_known, strict=True) if not there]
            most = client.most_cost(missing)
            calls, cached = calls + math.ceil(len(missing) * times), cached + sum(is_known)
            cost = None if cost is None or most is None else cost + most * times
    return CallPlan(
        method=method.name,
        prompts=most_prompts,
        calls=calls,
        cached=cached,
        cost=cost,
        probing=0 if known else MOST,
        times=1 if known else _most_times(model, options),
    )


def _most_times(model: RemoteModel, options: RemoteOptions) -> int:
    """How many calls one ablated prompt may take, by what an endpoint tells."""
    length = options.max_new_tokens if options.output is None else len(options.output)
    others = len(options.target.alternatives) if isinstance(options.target, Contrast) else 0
    # One for each token that is forced, and one for the template; or texts, twice more where none are kept.
    return max((length + 1) * (1 + others), model.repeats + 2)


def _assumed(model: RemoteModel, asked: AskedPrompt, options: RemoteOptions, known: Capabilities | None) -> Answer:
    """An output as long as may be, and the road that the endpoint allows, as far as that is known."""
    length = options.max_new_tokens if options.output is None else len(options.output)
    pieces = (Piece("?", -1.0, (), 0),) * length
    road = "likeliest" if known is None else known.road
    if isinstance(options.target, Semantic) or (options.output is not None and road == "likeliest"):
        road = "texts"
    if road == "texts":
        semantic = options.target if isinstance(options.target, Semantic) else Semantic()
        written = semantic.max_new_tokens or options.max_new_tokens
        asking: Asking = Rewritten(model, "?", semantic, written, model.repeats)
        return Answer(pieces[:1], asking, Semantic.name, Semantic.unit, {})
    others = (pieces,) * (len(options.target.alternatives) if isinstance(options.target, Contrast) else 0)
    asking = Scored(model, pieces, others) if road == "scored" else Likeliest(model, pieces)
    return Answer(pieces, asking, "logprob", "nats", {})


def _finding(
    model: RemoteModel, asked: AskedPrompt, answer: Answer, options: RemoteOptions, known: Capabilities | None
) -> list[Request]:
    """What is to be asked before the output is known."""
    found = [] if answer.asking.road != "texts" or known is None else _measuring(answer.asking, asked.whole)
    if known is not None and answer.asking.road == "scored":
        texts = (options.output is not None) + len(getattr(answer.asking, "others", ()))
        # Where a text is given, its tokens are read first, in up to three calls.
        found += _guessed(model, [asked.whole], options) * (3 * texts)
    if options.output is not None:
        return found
    if known is None:
        return _guessed(model, [asked.whole], options)
    return model.writing([asked.whole], options.max_new_tokens) + found


def _measuring(asking: Asking, whole: Put) -> list[Request]:
    """What is to be asked to know how much the answers to one and the same prompt differ."""
    if not isinstance(asking, Rewritten):
        return []
    return replace(asking, repeats=2 * asking.repeats).requests([whole])


def _guessed(model: RemoteModel, prompts: Sequence[Put], options: RemoteOptions) -> list[Request]:
    """One call for each prompt, of about the form that it will have."""
    found: list[Request] = []
    for prompt in prompts:
        path = COMPLETIONS if isinstance(prompt, (str, tuple)) else CHAT
        found.append(Dialect(model.name, path).write(prompt, options.max_new_tokens, LIKELIEST[0]))
    return found


def _rehearsed(problem: Problem, method: Method, seed: int) -> tuple[list[np.ndarray], float]:
    """The masks that a method asks where values are random, and how many times as many it might ask at most."""
    rehearsal = Rehearsal(problem)
    method.attribute(rehearsal, np.random.default_rng(seed))
    masks = [mask for batch in rehearsal.rounds for mask in batch.numpy()]
    expected = method.cost(int(problem.removable.sum()), problem.n_targets).forwards
    return masks, max(1.0, expected / max(1, len(masks)))
