"""What goes through a model while another library explains, counted by hooks."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
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


def counting(scorer: Scorer, kept: Path) -> Scorer:
    """The same scorer, which keeps the passes that it takes in this file, a line for each prompt."""

    def score(model: Any, result: Any) -> Any:
        with counted(model.model) as tokens:
            found = scorer.function(model, result)
        length = len(result.prompt_ids) + len(result.outputs) - 1
        with kept.open("a") as file:
            file.write(json.dumps([scorer.name, result.prompt, sum(tokens) / length]) + "\n")
        return found

    return replace(scorer, function=score)


def read_passes(kept: Path) -> dict[str, list[float]]:
    """The passes of every scorer, for each prompt that it was asked about."""
    found: dict[tuple[str, str], float] = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        name, prompt, passes = json.loads(line)
        found[name, prompt] = passes
    names = dict.fromkeys(name for name, _ in found)
    return {name: [passes for (own, _), passes in found.items() if own == name] for name in names}
