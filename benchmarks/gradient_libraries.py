"""What is asked of each library about gradients, in the way its own documentation asks it.

Everywhere the score is input times gradient of log-probabilities, so that the same numbers come out of all of them;
norms of gradients (saliency) cost the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.explainer import explain
from attribution.method import Method
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.models.local import LocalModel
from benchmarks.desk import Desk, Work
from benchmarks.inseq_work import inseq_work
from benchmarks.questions import Question
from benchmarks.shapes import PAD

IG_STEPS = 32


def open_desk(library: str, device: str, threads: int) -> Desk:
    """A desk for the library of this name, on a device; 0 threads are as many as torch chooses."""
    return Desk(
        {"attribution": attribution_works, "Captum": captum_works, "Inseq": inseq_works}[library], device, threads
    )


def attribution_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """Ours."""
    local = LocalModel(model, tokenizer, name="random")

    def work(method: str | Method, *, per_output: bool) -> Work:
        return Work(
            lambda question: explain(
                local,
                question.prompt_text,
                output=question.output,
                method=method,
                units="token",
                per_output=per_output,
            ),
            lambda result, _question: result.scores,
        )

    return {
        "matrix": work("input_x_gradient", per_output=True),
        "span": work("input_x_gradient", per_output=False),
        "integrated gradients": work(
            IntegratedGradients(baseline="zero", steps=IG_STEPS, tolerance=None), per_output=False
        ),
        "AttnLRP": work("attn_lrp", per_output=False),
    }


def captum_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """Captum's LLM wrapper, which takes one output token at a time and sums them for the whole; and its layer IG."""
    from captum.attr import (  # pyright: ignore[reportMissingImports] - of the bench group
        LayerGradientXActivation,
        LayerIntegratedGradients,
        LLMGradientAttribution,
        TextTokenInput,
    )

    layer = model.get_input_embeddings()
    per_token: Any = LLMGradientAttribution(LayerGradientXActivation(model, layer), tokenizer)

    def ask(question: Question) -> Any:
        return per_token.attribute(TextTokenInput(question.prompt_text, tokenizer), target=question.output_text)

    def integrate(question: Question) -> Tensor:
        def summed_logprob(ids: Tensor) -> Tensor:
            logits = model(ids).logits[:, question.n - 1 : -1]
            return logits.log_softmax(-1).gather(-1, ids[:, question.n :, None]).sum((1, 2))

        ids = torch.tensor([[*question.prompt, *question.output]], device=model.device)
        # Baselines are ids too, and PAD is the one whose embedding is zero.
        integrated: Any = LayerIntegratedGradients(summed_logprob, layer)
        return integrated.attribute(ids, baselines=torch.full_like(ids, PAD), n_steps=IG_STEPS)

    return {
        "matrix": Work(ask, lambda result, _question: _numpy(result.token_attr)),
        "span": Work(ask, lambda result, _question: _numpy(result.seq_attr)[None]),
        "integrated gradients": Work(integrate, lambda scores, question: _numpy(scores.sum(-1)[:, : question.n])),
    }


def inseq_works(model: Any, tokenizer: Any) -> Mapping[str, Work]:
    """Inseq's gradient times input, summed over the embedding."""
    return {"matrix": inseq_work(model, tokenizer, "input_x_gradient", lambda scores: scores.sum(-1))}


def _numpy(scores: Tensor) -> np.ndarray:
    return scores.detach().float().cpu().numpy()
