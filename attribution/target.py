"""Target: the number that is explained, of every output token or of the whole output, and where it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attribution.errors import InputError
from attribution.prompts.segments import word_spans

Ids = tuple[int, ...]

Likeness = Literal["overlap", "exact", "embedding"]
"""How two texts are compared (see `Semantic`)."""


def _logit(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    return logits.gather(-1, ids.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def _logprob(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    # Against all other tokens, so that it is exact also where its probability is all but 1.
    own = _logit(logits, ids)
    index = ids.expand(logits.shape[:-1]).unsqueeze(-1)
    others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    return -torch.nn.functional.softplus(others - own)


def _prob(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    return _logit(logits.softmax(-1), ids)


def _entropy(logits: Float[Tensor, "*batch output vocabulary"], ids: Int[Tensor, " output"]) -> Tensor:
    # xlogy semantics without its gradient's infinity: a token of probability 0 adds nothing.
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)


@dataclass(frozen=True)
class Target:
    """A scalar of the model's next-token distribution at each output token.

    `name` is what a person types, `unit` is what the scalar is measured in, `score` computes it.
    """

    name: str
    unit: str
    score: Callable[[Tensor, Tensor], Tensor]
    """`(logits [*batch, output, vocabulary], ids [output]) -> [*batch, output]`, differentiable."""
    reads_all_positions: bool = False
    """Whether `score` needs the logits of every position before the last token, not only of those that predict an
    output; it then gets `[token - 1, vocabulary]` and works for gradients alone."""


TARGETS = {
    target.name: target
    for target in (
        Target("logprob", "nats", _logprob),
        Target("prob", "probability", _prob),
        Target("logit", "logits", _logit),
        Target("entropy", "nats", _entropy),
    )
}


def named_target(name: str) -> Target:
    """The target of this name.

    - `"logprob"`: the log-probability of the output token, in nats.
    - `"prob"`: its probability, from 0 to 1.
    - `"logit"`: its logit, before the softmax.
    - `"entropy"`: the entropy of the whole next-token distribution at that place, in nats.

    Raises `InputError` for any other name.
    """
    if not isinstance(name, str) or name not in TARGETS:
        known = ", ".join(map(repr, TARGETS))
        raise InputError(f"Expected a target out of {known}, or in Python a Contrast(...), got {name!r}.")
    return TARGETS[name]


@dataclass(frozen=True, init=False)
class Contrast:
    """Why this output and not that one: the difference of their log-probabilities, in nats.

    - `Contrast("The answer is 5.")`: the whole output against another text. Where the output ends with the
      end-of-sequence token, so does the other text. Of several other texts the mean is taken.
    - `Contrast("5", instead_of="3")`: a part of the output against another text in its place.
    - `Contrast()`: every output token against the model's runner-up, the likeliest token but that one.

    The difference is counted where it arises: output token t gets its own log-probability minus that of token t of the
    other text, and what a longer other text has left over goes to the last output token. So the sum over the output
    tokens is the whole difference, and tokens that both texts begin with get 0. Yin and Neubig, "Interpreting Language
    Models with Contrastive Explanations" (2022).

    Raises `InputError` for anything but texts, and for `instead_of` without one.
    """

    alternatives: tuple[str, ...]
    instead_of: str | None

    def __init__(self, *alternatives: str, instead_of: str | None = None) -> None:
        given = (*alternatives, *(() if instead_of is None else (instead_of,)))
        if not all(isinstance(text, str) and text for text in given):
            raise InputError(f"Expected the other outputs as texts, got {given!r}.")
        if instead_of is not None and not alternatives:
            raise InputError(
                f'Expected a text to stand for {instead_of!r}, got none. Type Contrast("...", instead_of=...).'
            )
        object.__setattr__(self, "alternatives", alternatives)
        object.__setattr__(self, "instead_of", instead_of)

    def __str__(self) -> str:
        if not self.alternatives:
            return "logprob - runner-up"
        others = " or ".join(map(repr, self.alternatives))
        place = "" if self.instead_of is None else f" instead of {self.instead_of!r}"
        return f"logprob - {others}{place}"


@dataclass(frozen=True)
class Semantic:
    """Whether the model still says the same, in whatever words: a similarity of texts, from 0 to 1.

    After an ablated prompt the model writes again, greedily, and what it writes is compared with the output; tokens
    that are special or end a text do not count. `by` says how:

    - `"overlap"`: the F1 of the words that both have, as often as they have them, whatever their case. Rajpurkar et
      al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (2016).
    - `"exact"`: 1 where both texts are the same but for white space around them, else 0.
    - `"embedding"`: the cosine of the means of the tokens' vectors in the model's own embedding layer, 0 where that is
      negative. It hears synonyms, and neither order nor negation.

    A text with nothing in it is like another such text only. `max_new_tokens` is how much is written at most, None for
    as many tokens as the output has. The model writes for every ablated prompt, so that this takes longer than a
    target that is read of the output; and it has no gradients.

    Raises `InputError` for anything else.
    """

    name: ClassVar[str] = "semantic"
    unit: ClassVar[str] = "similarity"

    by: Likeness = "overlap"
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        known = get_args(Likeness)
        if self.by not in known:
            raise InputError(f"Expected a similarity out of {', '.join(map(repr, known))}, got {self.by!r}.")
        count = cast(object, self.max_new_tokens)
        if count is not None:
            if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
                raise InputError(f"Expected max_new_tokens as a whole number from 1 on, got {count!r}.")
            object.__setattr__(self, "max_new_tokens", int(count))

    def __str__(self) -> str:
        return f"semantic {self.by}" + (f" of {self.max_new_tokens} tokens" if self.max_new_tokens else "")


def sameness(one: str, other: str) -> float:
    """1 where both texts are the same but for white space around them, else 0."""
    return float(one.strip() == other.strip())


def overlap(one: str, other: str) -> float:
    """The F1 of the words of both texts, each counted as often as it is there; of the signs where a text has no words.

    1 where both texts are empty.
    """
    counts = [Counter(_words(text.casefold())) for text in (one, other)]
    total = sum(map(Counter.total, counts))
    return 2 * (counts[0] & counts[1]).total() / total if total else 1.0


def _words(text: str) -> list[str]:
    """The words and numbers of a text, or where it has none its signs."""
    found = [text[start:end] for start, end in word_spans(text)]
    return [word for word in found if any(map(str.isalnum, word))] or found


@dataclass(frozen=True, eq=False)
class Reading:
    """Where a target is read, and how what is read makes one number for every output token.

    `texts` are what the model reads after the prompt, the output first. At each of the `places` (text, position in it)
    the `target` of one of the `ids` is read, given all that comes before; the numbers for the output tokens are
    `weights`, `[output, place]`, times what was read.
    """

    target: Target
    texts: tuple[Ids, ...]
    places: tuple[tuple[int, int], ...]
    ids: Ids
    weights: Float[Tensor, "output place"]
    shared: tuple[int, ...]
    """How many tokens of each text are the output's own: the inputs that change with it."""

    @property
    def output(self) -> Ids:
        """The ids of the output itself."""
        return self.texts[0]

    @property
    def is_plain(self) -> bool:
        """Whether the number of every output token is what is read of that token itself."""
        return self.ids == self.output and self.places == tuple((0, t) for t in range(len(self.output)))


def read_output(output: Ids, target: Target) -> Reading:
    """The target of every output token, read where that token is predicted."""
    eye = torch.eye(len(output), dtype=torch.float32)
    return Reading(target, (output,), tuple((0, t) for t in range(len(output))), output, eye, (len(output),))


def read_runner_up(output: Ids, runners_up: Ids) -> Reading:
    """Log-probability of every output token minus that of another token in its place."""
    places = tuple((0, t) for t in range(len(output)))
    own = torch.eye(len(output), dtype=torch.float32)
    weights = torch.cat([own, -own], dim=1)
    return Reading(TARGETS["logprob"], (output,), places * 2, output + runners_up, weights, (len(output),))


def read_contrast(output: Ids, alternatives: Sequence[Ids], start: int, end: int) -> Reading:
    """Log-probability of the output's tokens from `start` to `end` minus that of other texts (see `Contrast`).

    The alternatives are whole texts after the prompt and begin with `output[:start]`.
    """
    texts, shared = [output], [len(output)]
    columns: dict[tuple[int, int, int], dict[int, float]] = {}

    def read(text: int, position: int, token: int, weight: float) -> None:
        row = columns.setdefault((text, position, token), {})
        counted_at = min(position, end - 1)
        row[counted_at] = row.get(counted_at, 0.0) + weight

    for t in range(start, end):
        read(0, t, output[t], 1.0)
    for other in alternatives:
        differing = (i for i, (a, b) in enumerate(zip(other, output, strict=False)) if a != b)
        # Up to here it follows on what the output follows on; what comes after the asked part is its own.
        last_shared = min(next(differing, end), end - 1)
        if len(other) > last_shared + 1:
            texts.append(other)
            shared.append(last_shared)
        for position in range(start, len(other)):
            text = 0 if position <= last_shared else len(texts) - 1
            read(text, position, other[position], -1.0 / len(alternatives))
    weights = torch.zeros(len(output), len(columns), dtype=torch.float32)
    for column, row in enumerate(columns.values()):
        for counted_at, weight in row.items():
            weights[counted_at, column] = weight
    places = tuple((text, position) for text, position, _ in columns)
    return Reading(
        TARGETS["logprob"], tuple(texts), places, tuple(token for *_, token in columns), weights, tuple(shared)
    )
