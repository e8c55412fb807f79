"""The `context-cite` package, made to work without a network and on units that are given."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""Of a tokenizer that has none: nothing but what is said."""


def import_context_cite() -> Any:
    """The package, whose import would fetch data for a sentence tokenizer that is not used here."""
    nltk: Any = import_module("nltk")
    nltk.download = lambda *_arguments, **_options: True
    context_cite: Any = import_module("context_cite")
    context_cite.utils.tqdm = iter  # no bar for every call
    return context_cite


def open_citer(
    model: Any, tokenizer: Any, texts: Sequence[str], query: str, output: str, *, joint: str, **options: Any
) -> Any:
    """A `ContextCiter` whose sources are these texts, with `joint` between one and the next, and before the query.

    `output` is the whole chat with what the model wrote; `options` are the citer's own.
    """
    package = import_context_cite()
    from context_cite.context_partitioner import BaseContextPartitioner  # pyright: ignore[reportMissingImports]

    class Given(BaseContextPartitioner):  # pyright: ignore[reportUntypedBaseClass]
        """The texts as sources."""

        def __init__(self) -> None:
            self._texts = np.array(texts)
            super().__init__(self.get_context())

        @property
        def num_sources(self) -> int:
            return len(self._texts)

        def split_context(self) -> None:
            pass

        def get_source(self, index: int) -> str:
            return str(self._texts[index])

        def get_context(self, mask: Any = None) -> Any:
            return joint.join(self._texts if mask is None else self._texts[mask])

    sources = Given()
    citer: Any = package.ContextCiter(
        model,
        tokenizer,
        sources.context,
        query,
        partitioner=sources,
        prompt_template=f"{{context}}{joint}{{query}}",
        **options,
    )
    citer._cache["output"] = output  # it would have the model write otherwise
    return citer
