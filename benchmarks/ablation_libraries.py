"""What is asked of each library about ablated prompts, in the way its own documentation asks it.

They do not mean the same by a unit that is absent. Ours is deleted. Captum and Inseq put `<unk>` in the place of a
token; a part of a template Captum deletes. The `context-cite` package deletes sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from attribution.absence import Replace
from attribution.explainer import explain
from attribution.local_problem import LocalProblem
from attribution.method import Method
from attribution.methods.context_cite import ContextCite
from attribution.methods.hierarchical import Hierarchical
from attribution.methods.leave_one_out import LeaveOneOut
from attribution.models.local import LocalModel
from attribution.prompts.prompt import Prompt, PromptUnit
from attribution.result import Attribution
from attribution.target import TARGETS, read_output
from benchmarks.context_cite_package import CHAT_TEMPLATE, open_citer
from benchmarks.desk import Desk, Work
from benchmarks.inseq_work import inseq_work
from benchmarks.questions import Question, text_of

ABLATIONS = 64
"""How many masks ContextCite draws."""


def open_desk(library: str, device: str, threads: int) -> Desk:
    """A desk for the library of this name, on a device; 0 threads are as many as torch chooses."""
    libraries = {
        "attribution": attribution_works,
        "Captum": captum_works,
        "Inseq": inseq_works,
        "context-cite": context_cite_works,
    }
    return Desk(libraries[library], device, threads)


def attribution_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """Ours."""
    local = LocalModel(model, tokenizer, name="random")

    def leave_one_out(question: Question, ablation: str | Replace = "delete") -> Attribution:
        # A word is a token with this tokenizer. With units="token" output tokens would be units too.
        return explain(
            local,
            question.prompt_text,
            output=question.output,
            method="leave_one_out",
            units="word",
            ablation=ablation,
        )

    def instead(question: Question) -> Attribution:
        return leave_one_out(question, Replace("<unk>"))

    def of_units(method: Method, rng: type[np.random.Generator] = np.random.Generator, *, per_output: bool) -> Work:
        def ask(question: Question) -> tuple[Tensor, LocalProblem]:
            prompt = divided(local, question)
            reading = read_output(question.output, TARGETS["logprob"])
            problem = LocalProblem(local, prompt, reading, per_output=per_output)
            return method.attribute(problem, rng(np.random.PCG64(0))), problem

        return Work(
            ask,
            lambda given, question: given[0].numpy()[:, : len(question.units)],
            lambda given, _question: given[1].cost.tokens,
        )

    exact = of_units(LeaveOneOut(), per_output=True)
    return {
        "leave-one-out": Work(leave_one_out, lambda result, _question: result.scores),
        "leave-one-out, <unk> instead": Work(instead, lambda result, _question: result.scores),
        "leave-one-out, <unk> instead, up or down": Work(instead, lambda result, _question: np.abs(result.scores)),
        "leave-one-out of units": exact,
        "ContextCite": of_units(ContextCite(ablations=ABLATIONS), TheirMasks, per_output=False),
        "hierarchical": of_units(Hierarchical(), per_output=True),
        # The answer is the engine's, the tokens are those of who reads every prompt whole.
        "naive leave-one-out": Work(exact.ask, exact.read, lambda _given, question: naive_tokens(question)),
    }


class TheirMasks(np.random.Generator):
    """Draws the masks that the `context-cite` package draws; a generator as any other otherwise."""

    def random(self, size: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - ours asks no more
        """Numbers that are below a half where its mask keeps a source."""
        masks, sources = size
        # With p given, numpy draws other masks than without.
        draws = [np.random.RandomState(seed).choice([False, True], sources, p=[0.5, 0.5]) for seed in range(masks)]
        return np.where(draws, 0.0, 1.0)


def divided(model: LocalModel, question: Question) -> Prompt:
    """The prompt with the question's units; what belongs to none is one that cannot be removed."""
    encoding = model.codec.encode(question.prompt_text)
    spans = [*question.units, (question.n - question.query, question.n)]
    units = [
        PromptUnit(
            (encoding.offsets[start][0], encoding.offsets[end - 1][1]), (start, end), special=index == len(spans) - 1
        )
        for index, (start, end) in enumerate(spans)
        if start < end
    ]
    return Prompt(question.prompt_text, encoding, tuple(units))


def naive_tokens(question: Question) -> int:
    """What leave-one-out reads where every prompt is read from its beginning, the whole one included."""
    whole = question.n + question.t - 1
    return whole + sum(whole - (end - start) for start, end in question.units)


def captum_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """Captum's LLM wrapper: a forward for every output token, as it does by itself, or one for them all.

    By itself it keeps a cache from one output token to the next, but transformers 5 no longer cuts off what the cache
    holds unless it is told how much is new, and Captum 0.9.0 does not tell it. The model then reads the prompt again
    behind itself, and says something else. Without the cache Captum's numbers are right. What it would take with one
    is asked too, with a model that is told.
    """
    from captum.attr import (  # pyright: ignore[reportMissingImports] - of the bench group
        FeatureAblation,
        LLMAttribution,
        TextTemplateInput,
        TextTokenInput,
    )

    wrapper: Any = LLMAttribution(FeatureAblation(model), tokenizer)

    def ask(question: Question, **options: Any) -> Any:
        return wrapper.attribute(
            TextTokenInput(question.prompt_text, tokenizer), target=question.output_text, **options
        )

    def ask_units(question: Question) -> Any:
        texts = [text_of(question.prompt[start:end]) for start, end in question.units]
        template = TextTemplateInput(" ".join(["{}"] * len(texts)), texts)
        return wrapper.attribute(template, target=question.output_text, forward_in_tokens=False)

    def read(result: Any, _question: Question) -> np.ndarray:
        return _numpy(result.token_attr)

    as_it_comes = model.prepare_inputs_for_generation

    def told(*arguments: Any, past_key_values: Any = None, **options: Any) -> Any:
        new = None if past_key_values is None else 1
        return as_it_comes(*arguments, past_key_values=past_key_values, next_sequence_length=new, **options)

    def ask_told(question: Question) -> Any:
        model.prepare_inputs_for_generation = told
        try:
            return ask(question)
        finally:
            model.prepare_inputs_for_generation = as_it_comes

    return {
        "token by token": Work(lambda question: ask(question, use_cached_outputs=False), read),
        "token by token, cache mended": Work(ask_told, read),
        "one call": Work(lambda question: ask(question, forward_in_tokens=False), read),
        "one call of units": Work(ask_units, read),
    }


def inseq_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """Inseq's occlusion, which tells sizes without their signs."""
    return {"leave-one-out": inseq_work(model, tokenizer, "occlusion", lambda scores: scores)}


def context_cite_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """The `context-cite` package, told where the sentences are and what the output is."""
    tokenizer.chat_template = CHAT_TEMPLATE

    def ask(question: Question) -> Any:
        citer = open_citer(
            model,
            tokenizer,
            [text_of(question.prompt[start:end]) for start, end in question.units],
            text_of(question.prompt[question.n - question.query :]),
            f"{question.prompt_text} {question.output_text}",
            num_ablations=ABLATIONS,
            joint=" ",
        )
        return citer.get_attributions(verbose=False)

    return {"ContextCite": Work(ask, lambda scores, _question: np.asarray(scores)[None])}


def _numpy(scores: Tensor) -> np.ndarray:
    return scores.detach().float().cpu().numpy()
