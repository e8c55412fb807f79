"""How Inseq is asked for scores of log-probabilities, whichever of its methods is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.desk import Work
from benchmarks.questions import Question


def inseq_work(model: Any, tokenizer: Any, method: str, by_token: Callable[[Tensor], Tensor]) -> Work:
    """Inseq's method of this name; `by_token` makes [token, output] of what it calls target attributions.

    Inseq explains probabilities unless it is given a step function of one's own.
    """
    import inseq  # pyright: ignore[reportMissingImports] - of the bench group
    from inseq.attr.step_functions import probability_fn  # pyright: ignore[reportMissingImports]

    def logprob(args: Any, **_options: Any) -> Any:
        return probability_fn(args, logprob=True)

    inseq.register_step_function(logprob, "logprob", overwrite=True)
    loaded: Any = inseq.load_model(model, method, tokenizer=tokenizer, device=str(model.device))

    def ask(question: Question) -> Any:
        return loaded.attribute(
            question.prompt_text,
            f"{question.prompt_text} {question.output_text}",
            attributed_fn="logprob",
            show_progress=False,
            pretty_progress=False,
        )

    def read(given: Any, question: Question) -> np.ndarray:
        scores = by_token(given.sequence_attributions[0].target_attributions)
        if len(scores) != question.n + question.t:
            raise ValueError(f"expected {question.n + question.t} tokens, Inseq read {len(scores)}")
        return scores[: question.n].T.detach().float().cpu().numpy()

    return Work(ask, read)
