"""OpenAIAttributor: the classic door to models behind an API, a thin facade over `attribution.explain`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Literal, get_args

from attribution.absence import Replace
from attribution.checks import check_count
from attribution.errors import CapabilityError, InputError
from attribution.experiment_logger import ExperimentLogger
from attribution.explainer import explain
from attribution.models.api.limits import Limits
from attribution.models.api.secret import Secret
from attribution.models.api.tally import tallying
from attribution.models.api.threads import in_thread
from attribution.models.remote import PROVIDERS, RemoteModel
from attribution.perturbation import FixedPerturbationStrategy, PerturbationStrategy
from attribution.prompts.units import check_units
from attribution.prompts.writing import Written
from attribution.remote.question import AskedPrompt, ask_prompt
from attribution.result import Attribution
from attribution.target import Semantic

DEFAULT_MODEL = "gpt-4.1-mini"
"""The one that is asked at OpenAI where none is named."""

Strategy = Literal["prob_diff", "similarity"]

Unit = Literal["word", "token"]

TARGETS: Mapping[str, str | Semantic] = {"prob_diff": "prob", "similarity": Semantic("overlap")}
"""What `explain` is asked for each attribution strategy."""

_DELETION = FixedPerturbationStrategy()


class OpenAIAttributor:
    """Which words or tokens of a prompt made a model behind an OpenAI-compatible endpoint write its output.

    - `openai_model`: the model's name at the endpoint; None for `DEFAULT_MODEL` at OpenAI.
    - `openai_api_key`: sent to the endpoint and nowhere else. At OpenAI it may be in `OPENAI_API_KEY` instead, which is
      sent to no other endpoint.
    - `max_concurrent_requests`: how many calls are under way at once, of all experiments together.
    - `base_url`: the endpoint, by default OpenAI's.
    - `tokenizer`: the model's own, or the name or folder of one, for endpoints that take ids; units can then be tokens.
    - `limits`: all other limits, of rate, time and money (`Limits`); its `max_concurrency` is not looked at.
    - `cache`, `repeats` and `progress`: as `RemoteModel` has them.

    `model` is the `RemoteModel` behind it: whatever else is to be asked of it, `attribution.explain` asks.

    Raises `InputError` for arguments that are not as above, and without a key for OpenAI.

    >>> OpenAIAttributor("demo", base_url="http://localhost:8080/v1", cache=False)
    OpenAIAttributor(RemoteModel('http://localhost:8080/v1', 'demo'))
    """

    def __init__(
        self,
        openai_model: str | None = None,
        openai_api_key: str | None = None,
        max_concurrent_requests: int = 5,
        base_url: str | None = None,
        tokenizer: Any = None,
        *,
        limits: Limits | None = None,
        cache: bool | str | os.PathLike[str] = True,
        repeats: int = 5,
        progress: bool = True,
    ) -> None:
        official, variable = PROVIDERS["openai"]
        url = official if base_url is None else base_url.rstrip("/")
        if openai_model is None and url != official:
            raise InputError(
                f"Expected openai_model, the model's name at {url}, got none. Type OpenAIAttributor('...')."
            )
        key = openai_api_key
        if not key and url == official:
            key = os.environ.get(variable)
            if not key:
                raise InputError(
                    f"Expected a key for OpenAI as openai_api_key or in {variable}, there is none. Type: "
                    f"export {variable}=... For another endpoint pass base_url."
                )
        allowed = replace(
            limits or Limits(), max_concurrency=check_count("max_concurrent_requests", max_concurrent_requests)
        )
        self._secret = Secret(key)
        self.model = RemoteModel(
            url,
            DEFAULT_MODEL if openai_model is None else openai_model,
            key,
            tokenizer,
            limits=allowed,
            cache=cache,
            repeats=repeats,
            progress=progress,
        )

    def __repr__(self) -> str:
        return f"OpenAIAttributor({self.model})"

    async def iterative_perturbation(
        self,
        input_text: Written,
        perturbation_strategy: PerturbationStrategy = _DELETION,
        attribution_strategies: Sequence[Strategy] = ("prob_diff", "similarity"),
        unit: Unit = "word",
        output: str | None = None,
        max_new_tokens: int = 20,
        logger: ExperimentLogger | None = None,
        seed: int = 0,
    ) -> dict[str, Attribution]:
        """What each unit does for the output: units are perturbed one at a time, by `leave_one_out`.

        There is one result for each attribution strategy, by its name, in the order they are given. Positive scores
        support the output:

        - `"prob_diff"`: by how much the probability of every output token falls, `[output, unit]`;
          `result.total()` is the sum for each unit. It needs an endpoint that tells log-probabilities.
        - `"similarity"`: how much less like the output it is what the model writes instead, in words both have (from 0
          to 1, see `Semantic`), `[1, unit]`. Every endpoint will do; what chance alone might make is 0.

        `input_text` is a text or the messages of a chat. `output` is the text whose causes are asked, None for what the
        model writes, at most `max_new_tokens` tokens. `perturbation_strategy` says what stands for a unit; `unit` is
        `"word"`, or `"token"` where the tokenizer was given. Results are added to the `logger` as they come.

        The caller's event loop keeps running, and several experiments may be awaited at once. Cancelled, it ends once
        the calls under way are cancelled; nothing more is asked, and nothing is left running.

        Raises `InputError` for arguments that are not as above, `CapabilityError` for `"prob_diff"` where the endpoint
        tells texts alone, or for a given output that it does not score; and what `attribution.explain` raises.
        """
        return await self._perturbed(
            _Experiment("leave_one_out", input_text, perturbation_strategy, unit, output, max_new_tokens, seed),
            attribution_strategies,
            logger,
        )

    async def hierarchical_perturbation(
        self,
        input_text: Written,
        perturbation_strategy: PerturbationStrategy = _DELETION,
        attribution_strategies: Sequence[Strategy] = ("prob_diff", "similarity"),
        unit: Unit = "word",
        output: str | None = None,
        max_new_tokens: int = 20,
        logger: ExperimentLogger | None = None,
        seed: int = 0,
    ) -> dict[str, Attribution]:
        """As `iterative_perturbation`, coarse to fine, by `hierarchical`: far fewer calls for a long prompt.

        Paragraphs, sentences and groups of units are perturbed first, and only those that matter are looked into. The
        score of a unit is that of the smallest part with it that was perturbed; `result.notes["not_looked_into"]` says
        which parts were not divided.
        """
        return await self._perturbed(
            _Experiment("hierarchical", input_text, perturbation_strategy, unit, output, max_new_tokens, seed),
            attribution_strategies,
            logger,
        )

    async def _perturbed(
        self, experiment: _Experiment, strategies: Sequence[Strategy], logger: ExperimentLogger | None
    ) -> dict[str, Attribution]:
        chosen = _check_strategies(strategies)
        experiment.check(self.model)
        if logger is not None and not isinstance(logger, ExperimentLogger):
            raise InputError(f"Expected logger as an ExperimentLogger, got {logger!r}. Type logger=ExperimentLogger().")

        def work() -> dict[str, Attribution]:
            with self.model.client:  # one thread and its connections for all that this asks
                asked = ask_prompt(self.model, experiment.prompt, check_units(experiment.unit), "delete")
                ablation = experiment.perturbation.ablation(_removable(asked))
                needs_numbers = "prob_diff" in chosen
                return {
                    name: self._explained(experiment, name, ablation, logger, asked if needs_numbers else None)
                    for name in chosen
                }

        return await in_thread(work)

    def _explained(
        self,
        experiment: _Experiment,
        strategy: str,
        ablation: str | Replace,
        logger: ExperimentLogger | None,
        numbers_of: AskedPrompt | None,
    ) -> Attribution:
        """One result; before anything else is paid for, it is seen to that the endpoint tells numbers, if need be."""
        began, clock = datetime.now(UTC), perf_counter()
        with tallying() as spent:
            if numbers_of is not None:
                _check_tells(self.model, numbers_of, experiment.output)
            result = explain(
                self.model,
                experiment.prompt,
                output=experiment.output,
                max_new_tokens=experiment.max_new_tokens,
                method=experiment.method,
                units=experiment.unit,
                target=TARGETS[strategy],
                ablation=ablation,
                seed=experiment.seed,
            )
        if logger is not None:
            logger.add(
                result,
                perturbation=str(experiment.perturbation),
                attribution=strategy,
                started=began,
                seconds=perf_counter() - clock,
                spent=spent,
                secret=self._secret,
            )
        return result


@dataclass(frozen=True, eq=False)
class _Experiment:
    """What is asked, but for how it is scored."""

    method: str
    prompt: Written
    perturbation: PerturbationStrategy
    unit: str
    output: str | None
    max_new_tokens: int
    seed: int

    def check(self, model: RemoteModel) -> None:
        """Raises `InputError` for what this door does not know."""
        if not isinstance(self.perturbation, PerturbationStrategy):
            raise InputError(
                f"Expected a perturbation strategy out of attribution.perturbation, got {self.perturbation!r}. Type "
                "FixedPerturbationStrategy('') to delete units, FixedPerturbationStrategy('...') or "
                "NthNearestPerturbationStrategy(n=-1) to replace them."
            )
        if self.unit not in get_args(Unit):
            raise InputError(
                f"Expected unit='word' or unit='token', got {self.unit!r}. For others use attribution.explain("
                "attributor.model, ..., units=...)."
            )
        if self.unit == "token" and model.codec is None:
            raise InputError(
                "Expected unit='word', got 'token': nobody knows the tokens of a model behind an API. Type "
                "OpenAIAttributor(..., tokenizer=...) with the model's tokenizer, where the endpoint takes ids."
            )


def _check_strategies(strategies: object) -> tuple[str, ...]:
    """The names, each once; `InputError` where some are none."""
    known = ", ".join(map(repr, TARGETS))
    given = tuple(strategies) if isinstance(strategies, Sequence) and not isinstance(strategies, str) else ()
    if not given or not all(isinstance(name, str) and name in TARGETS for name in given):
        raise InputError(
            f"Expected attribution_strategies as a list of names out of {known}, got {strategies!r}. Type "
            'attribution_strategies=["prob_diff"].'
        )
    return tuple(dict.fromkeys(given))


def _check_tells(model: RemoteModel, asked: AskedPrompt, output: str | None) -> None:
    """Raises `CapabilityError` where the endpoint does not tell how likely the output is."""
    found = model.capabilities(asked.whole)
    remedy = "Type attribution_strategies=['similarity'], which compares texts."
    if found.road == "texts":
        reasons = f" ({'; '.join(found.reasons)})" if found.reasons else ""
        raise CapabilityError(
            f"'prob_diff' needs log-probabilities, and of {model.name} the endpoint tells texts alone{reasons}. "
            f"{remedy}"
        )
    if output is not None and found.road == "likeliest":
        raise CapabilityError(
            f"'prob_diff' of a given output needs an endpoint that scores texts, and this one tells how likely it is "
            f"what {model.name} writes itself. Leave output out. Or: {remedy}"
        )


def _removable(asked: AskedPrompt) -> list[str]:
    """The texts of the units that can be absent; a later token of a split character has that character's."""
    prompt = asked.prompt
    spans = [prompt.span_of(unit) for unit in prompt.units if not unit.special]
    return [prompt.text[start:end].strip() or prompt.text[start:end] for start, end in spans]
