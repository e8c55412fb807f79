"""What goes through a model while another library explains, counted by hooks."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from attribution.faithfulness.contenders import Scorer


@contextmanager
def counted(module: Any) -> Generator[list[int]]:
    """The tokens that go through the model meanwhile, forwards and backwards, in a list with a number for each pass.

    Products that are batched by `torch.vmap` count once, however many they are; other libraries ask for none.
    """
    tokens: list[int] = []

    def forwards(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs = (named.get("input_ids"), named.get("inputs_embeds"), *arguments)
        given = next(each for each in inputs if each is not None)
        tokens.append(given.shape[0] * given.shape[1])

    def backwards(_module: Any, _arguments: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        count = hidden.shape[0] * hidden.shape[1]
        if hidden.requires_grad:
            hidden.register_hook(lambda _gradient: tokens.append(count))

    handles = [
        module.base_model.register_forward_pre_hook(forwards, with_kwargs=True),
        module.base_model.register_forward_hook(backwards),
    ]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


def counting(scorer: Scorer, passes: dict[str, list[float]]) -> Scorer:
    """The same scorer, which adds the passes that it takes to these."""

    def score(model: Any, result: Any) -> Any:
        with counted(model.model) as tokens:
            found = scorer.function(model, result)
        length = len(result.prompt_ids) + len(result.outputs) - 1
        passes.setdefault(scorer.name, []).append(sum(tokens) / length)
        return found

    return replace(scorer, function=score)
