"""Other libraries' own implementations as scorers of `attribution.evaluate`, asked as their documentation asks them.

Left out are those of layers other than the embeddings, Captum's exact Shapley values (of all orders of the units), its
gradient SHAP, which takes baselines of its own, Inseq's `value_zeroing` and `reagent`, which raise with this model,
and, for the time that they take, its `lime` (10 to 18 s a prompt) and integrated gradients along paths of words.

Captum's ablations put nothing in the place of a unit, as a template of its own allows; its gradients, and all of Inseq,
know tokens only, whose scores are summed within a unit. Inseq has scores of earlier output tokens too. Captum's
regressions have one score per unit for the output as a whole. Scores are of log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.errors import AttributionError
from attribution.faithfulness.contenders import Scorer
from attribution.models.local import LocalModel
from attribution.result import Attribution
from benchmarks.context_cite_package import CHAT_TEMPLATE, import_context_cite, open_citer

Scores = np.ndarray
SAMPLES = 128
"""How often Captum's regressions ask, of which it does not say what suffices."""

ORDERS = 25
"""Of Captum's Shapley sampling: its default."""

_Function = Callable[[LocalModel, Attribution], Scores]


def peers() -> list[Scorer]:
    """A scorer for each method of each library that runs with the installed transformers."""
    functions: dict[str, tuple[_Function, bool]] = {
        "captum feature_ablation": (_captum_ablation("FeatureAblation"), True),
        "captum shapley_sampling": (_captum_ablation("ShapleyValueSampling", n_samples=ORDERS), True),
        "captum kernel_shap": (_captum_ablation("KernelShap", n_samples=SAMPLES), True),
        "captum lime": (_captum_ablation("Lime", n_samples=SAMPLES), True),
        "captum gradient_x_activation": (_captum_gradient("LayerGradientXActivation"), True),
        "captum integrated_gradients": (_captum_gradient("LayerIntegratedGradients", n_steps=32), True),
        "inseq saliency": (_inseq("saliency", _norms), False),
        "inseq input_x_gradient": (_inseq("input_x_gradient", _sums), True),
        "inseq integrated_gradients": (_inseq("integrated_gradients", _sums, n_steps=32), True),
        "inseq gradient_shap": (_inseq("gradient_shap", _sums), True),
        "inseq deeplift": (_inseq("deeplift", _sums), True),
        "inseq occlusion": (_inseq("occlusion", _as_they_are), False),
        "inseq attention": (_inseq("attention", _averaged), False),
        "context-cite": (_context_cite, True),
    }
    return [Scorer(name, _told(function), signed) for name, (function, signed) in functions.items()]


def import_libraries() -> None:
    """Imports them, which takes long the first time."""
    for library in ("captum.attr", "inseq"):
        import_module(library)
    import_context_cite()


def _told(function: _Function) -> _Function:
    """The function with whatever it raises as an `AttributionError`: the reason of a number that is missing."""

    def score(model: LocalModel, result: Attribution) -> Scores:
        try:
            return function(model, result)
        except Exception as error:  # these libraries raise what they like
            raise AttributionError(f"{type(error).__name__}: {error}") from error

    return score


def _by_unit(tokens: Scores, result: Attribution) -> Scores:
    """Scores of tokens `[output, token]`, summed within units; those of output tokens behind, where these are units."""
    edges = [(unit.first_token, unit.last_token) for unit in result.units]
    units = np.stack([tokens[:, start:end].sum(1) for start, end in edges], axis=1)
    n_prompt = len(result.prompt_ids)
    if result.output_scores is None or tokens.shape[1] == n_prompt:
        return units
    return np.concatenate([units, tokens[:, n_prompt:]], axis=1)


def _texts(result: Attribution) -> list[str]:
    """The text of every unit that is no special one, white space included: together they are the prompt."""
    return [result.prompt[unit.start : unit.end] for unit in result.units if not unit.special]


def _with_special(scores: Scores, result: Attribution) -> Scores:
    """Scores of the other units, with 0 for special ones."""
    found = np.zeros((len(scores), len(result.units)))
    found[:, [not unit.special for unit in result.units]] = scores
    return found


@contextmanager
def _silent() -> Generator[None]:
    """What these libraries print is not ours to show."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def _eager(model: LocalModel) -> Generator[None]:
    """With the attention that tells its weights."""
    before = model.model.config._attn_implementation
    model.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.model.set_attn_implementation(before)


def _captum_ablation(name: str, **options: Any) -> _Function:
    """Captum's LLM wrapper around one of its perturbation methods, in one call for the output."""

    def score(model: LocalModel, result: Attribution) -> Scores:
        import captum.attr as captum  # pyright: ignore[reportMissingImports] - of the bench group

        texts = _texts(result)
        template = captum.TextTemplateInput("{}" * len(texts), texts)
        wrapper: Any = captum.LLMAttribution(getattr(captum, name)(model.model), model.tokenizer)
        torch.manual_seed(0)
        with _silent():
            given = wrapper.attribute(
                template,
                target=torch.tensor([output.id for output in result.outputs]),
                forward_in_tokens=False,
                **options,
            )
        found = given.token_attr if given.token_attr is not None else given.seq_attr[None]
        return _with_special(np.broadcast_to(_numpy(found), (len(result.outputs), len(texts))), result)

    return score


def _captum_gradient(name: str, **options: Any) -> _Function:
    """Captum's LLM wrapper around one of its layer methods at the embeddings."""

    def score(model: LocalModel, result: Attribution) -> Scores:
        import captum.attr as captum  # pyright: ignore[reportMissingImports] - of the bench group

        method = getattr(captum, name)(model.model, model.model.get_input_embeddings())
        wrapper: Any = captum.LLMGradientAttribution(method, model.tokenizer)
        with _silent():
            given = wrapper.attribute(
                captum.TextTokenInput(result.prompt, model.tokenizer),
                target=torch.tensor([output.id for output in result.outputs]),
                **options,
            )
        return _by_unit(_numpy(given.token_attr), result)

    return score


def _inseq(name: str, by_token: Callable[[Tensor], Tensor], **options: Any) -> _Function:
    """Inseq's method of this name, of log-probabilities; `by_token` makes [token, output] of what it gives."""

    def score(model: LocalModel, result: Attribution) -> Scores:
        import inseq  # pyright: ignore[reportMissingImports] - of the bench group
        from inseq.attr.step_functions import probability_fn  # pyright: ignore[reportMissingImports]

        def logprob(args: Any, **_options: Any) -> Any:
            return probability_fn(args, logprob=True)

        torch.manual_seed(0)
        with _silent(), _eager(model) if name == "attention" else nullcontext():
            inseq.register_step_function(logprob, "logprob", overwrite=True)
            loaded: Any = inseq.load_model(model.model, name, tokenizer=model.tokenizer, device=str(model.device))
            asked: dict[str, Any] = {} if name == "attention" else {"attributed_fn": "logprob"}
            given = loaded.attribute(
                result.prompt,
                result.prompt + "".join(output.text for output in result.outputs),
                show_progress=False,
                pretty_progress=False,
                **asked,
                **options,
            )
        scores = _numpy(by_token(given.sequence_attributions[0].target_attributions)).T
        n_prompt, n_output = len(result.prompt_ids), len(result.outputs)
        if scores.shape[1] not in (n_prompt + n_output, n_prompt + n_output + 1) or len(scores) < n_output:
            raise ValueError(f"expected {n_prompt} + {n_output} tokens, Inseq read {scores.shape}")
        return _by_unit(np.nan_to_num(scores[:n_output, : n_prompt + n_output]), result)

    return score


def _sums(scores: Tensor) -> Tensor:
    return scores.sum(-1)


def _norms(scores: Tensor) -> Tensor:
    return scores.norm(dim=-1)


def _as_they_are(scores: Tensor) -> Tensor:
    return scores


def _averaged(scores: Tensor) -> Tensor:
    """Over layers and heads."""
    return scores.mean((-2, -1))


def _context_cite(model: LocalModel, result: Attribution) -> Scores:
    """The `context-cite` package, told where the units are and what the output is, asked about each output token."""
    tokenizer, texts = model.tokenizer, [output.text for output in result.outputs]
    # It adds no special tokens, so that what the prompt begins with is of its template.
    begins = "".join(tokenizer.decode([result.prompt_ids[unit.first_token]]) for unit in result.units if unit.special)
    ends = np.cumsum([len(text) for text in texts])
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = begins + CHAT_TEMPLATE
        citer = open_citer(
            model.model, tokenizer, _texts(result), "", begins + result.prompt + "".join(texts), joint=""
        )
        with _silent():
            rows = [
                citer.get_attributions(int(end) - len(text), int(end), verbose=False)
                for text, end in zip(texts, ends, strict=True)
            ]
    finally:
        tokenizer.chat_template = before
    return _with_special(np.stack([np.asarray(row) for row in rows]), result)


def _numpy(scores: Tensor) -> np.ndarray:
    return scores.detach().float().cpu().numpy()
