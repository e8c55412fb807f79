"""Perturbation strategies: what a person who knows the classic API door says of what stands for a part of a prompt."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attribution.absence import Replace
from attribution.errors import CapabilityError, InputError
from attribution.models import load_local
from attribution.models.local import LocalModel

_AT_ONCE = 32
"""Words whose similarity to every token is computed at the same time."""

_ROWS = 65_536
"""Tokens whose vectors are made float32 at the same time."""


class PerturbationStrategy(ABC):
    """What stands for each unit of a prompt while it is absent."""

    @abstractmethod
    def ablation(self, units: Sequence[str]) -> str | Replace:
        """What `explain` takes as `ablation`, for a prompt of which these units can be absent."""


@dataclass(frozen=True)
class FixedPerturbationStrategy(PerturbationStrategy):
    """The same text stands for every unit; by default none, so that units are deleted.

    White space before a unit stays before the text that stands for it.

    >>> FixedPerturbationStrategy().ablation(["Sam", "has"])
    'delete'
    >>> print(FixedPerturbationStrategy("...").ablation(["Sam", "has"]))
    Replace('...')
    """

    replacement_token: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.replacement_token, str):
            raise InputError(
                f"Expected replacement_token as a text, got {self.replacement_token!r}. Type "
                'FixedPerturbationStrategy(""), and units are deleted.'
            )

    def ablation(self, units: Sequence[str]) -> str | Replace:
        return Replace(self.replacement_token) if self.replacement_token else "delete"


@dataclass(frozen=True, eq=False)
class NthNearestPerturbationStrategy(PerturbationStrategy):
    """For each unit the text of a token that is its `n`-th nearest neighbour: 1 the nearest, -1 the farthest.

    Near is what has a large cosine with it in the embedding layer of a `model` that runs here (what `attribution.load`
    takes), which need not be the model that is asked. The vector of a word is that of the token it is in running text,
    with the space before it; the mean of its tokens' vectors where it is several.

    Neighbours are the vocabulary's ordinary tokens: no special ones, no white space, no parts of characters. Tokens
    that differ in case or in a space before them count as one, and one that differs from the unit in no more than that
    is the unit itself, and no neighbour. They are written as the token is, without the space before it: the white space
    of the unit stays. The same model gives the same neighbours; of two as near, the one with the lower id comes first.

    Raises `InputError` for `n=0` and for an `n` beyond the vocabulary, `CapabilityError` for a model behind an API or
    without its embeddings at hand, `ModelLoadError` where nothing can be loaded.

    >>> print(NthNearestPerturbationStrategy(n=1, model="demo").ablation(["3", "oranges"]))
    Replace(['2', 'orange'])
    """

    n: int = -1
    model: LocalModel | str | Path | tuple[Any, Any] = "demo"

    def __post_init__(self) -> None:
        try:
            found = 0 if isinstance(self.n, bool) else operator.index(cast(Any, self.n))
        except TypeError:
            found = 0
        if found == 0:
            raise InputError(
                f"Expected n as a whole number other than 0, got {self.n!r}. Type n=1 for the nearest neighbour, n=-1 "
                "for the farthest."
            )
        object.__setattr__(self, "n", found)

    def __repr__(self) -> str:
        named = self.model.name if isinstance(self.model, LocalModel) else self.model
        shown = str(named) if isinstance(named, (str, Path)) else type(self.model).__name__
        return f"NthNearestPerturbationStrategy(n={self.n}, model={shown!r})"

    def ablation(self, units: Sequence[str]) -> str | Replace:
        return Replace(self.neighbours(units))

    def neighbours(self, units: Sequence[str]) -> list[str]:
        """The text that stands for each unit."""
        vocabulary = self._vocabulary
        words = list(dict.fromkeys(units))
        found: dict[str, str] = {}
        for start in range(0, len(words), _AT_ONCE):
            some = words[start : start + _AT_ONCE]
            for word, row in zip(some, vocabulary.similarities(some), strict=True):
                found[word] = self._neighbour(vocabulary, word, row)
        return [found[unit] for unit in units]

    @cached_property
    def _vocabulary(self) -> _Vocabulary:
        return _Vocabulary(load_local(self.model, "The nearest neighbour of a word"))

    def _neighbour(self, vocabulary: _Vocabulary, word: str, similarities: Float[Tensor, " vocabulary"]) -> str:
        """The one of this rank, counted from the near or from the far end."""
        order = similarities.sort(descending=self.n > 0, stable=True).indices
        known = {_bare(word)}
        # What has no direction is near to nothing and far from nothing.
        for token in order[similarities[order].isfinite()].tolist():
            text = vocabulary.ordinary(token)
            if text and _bare(text) not in known:
                known.add(_bare(text))
                if len(known) > abs(self.n):
                    return text
        raise InputError(
            f"Expected n as at most the {len(known) - 1} tokens of {vocabulary.model.name} that are others than "
            f"{word!r}, got n={self.n}. Type a smaller one."
        )


class _Vocabulary:
    """A model's tokens, by their vectors and by their texts."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self._weight: Tensor = cast(Any, model.embedding_layer).weight.detach()
        if self._weight.is_meta:
            raise CapabilityError(
                f"The embeddings of {model.name} are offloaded, and neighbours are looked for among them. Load the "
                "model without device_map, or name another one."
            )
        # Both are made anew whenever a tokenizer is asked for them.
        self._others = {*getattr(model.tokenizer, "all_special_ids", ())}
        self._others |= {*getattr(model.tokenizer, "added_tokens_decoder", ())}

    def similarities(self, words: Sequence[str]) -> Float[Tensor, "word vocabulary"]:
        """The cosine of each word with each token; NaN for a token that has no direction."""
        own = torch.nn.functional.normalize(torch.stack(list(map(self._vector, words))), dim=1)
        parts: list[Tensor] = []
        for part in self._weight.split(_ROWS):
            rows = part.cpu().float()
            parts.append(own @ (rows / rows.norm(dim=1, keepdim=True)).T)
        return torch.cat(parts, dim=1)

    def ordinary(self, token: int) -> str:
        """The text of an ordinary token, without white space around it; empty for any other."""
        if token in self._others:
            return ""
        try:
            text = self.model.codec.decode([token]).replace("▁", " ").strip()
            spelled = str(self.model.tokenizer.convert_ids_to_tokens([token])[0])
        except (IndexError, KeyError, TypeError, ValueError):  # the embedding has more rows than there are tokens
            return ""
        is_byte = spelled.startswith("<0x") and spelled.endswith(">")
        return "" if is_byte or "\N{REPLACEMENT CHARACTER}" in text or not text.isprintable() else text

    def _vector(self, word: str) -> Float[Tensor, " embed"]:
        """The mean of the vectors of a word's tokens, as these are in running text."""
        bare = word.strip() or word
        # With a space before it, as most words have, unless the word alone takes fewer tokens.
        spellings = [ids for text in (f" {bare}", bare) if (ids := self.model.codec.ids_of(text))]
        if not spellings:
            raise InputError(f"Expected units that {self.model.name} has tokens for, got {word!r}. Name another model.")
        ids = torch.tensor(min(spellings, key=len), device=self._weight.device)
        return self._weight[ids].float().mean(0).cpu()


def _bare(text: str) -> str:
    """What a text is but for its case and the white space around it."""
    return text.strip().casefold()
