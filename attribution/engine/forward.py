"""A text and its alternatives, read by the model at places of embedding space; what engines differentiate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribution.engine import memory
from attribution.engine.probe import probe
from attribution.errors import NonFiniteError
from attribution.models.local import Graph, LocalModel
from attribution.target import TARGETS, Reading

TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 16384}
"""How many tokens, counted once for every text, place and row, keep a kind of device busy; more only take memory."""

Place = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`embeddings [token, embed] -> (where the model is to be read [token, embed], factor)`.

Gradients of all places are multiplied by their factors, each a number or `[token, embed]`, and added up."""

Notice = Callable[[Float[Tensor, "output vocabulary"]], None]
"""Is given the logits that predict the output after the whole prompt, where these are computed anyway."""

Item = TypeVar("Item")


def here(embeddings: Float[Tensor, "token embed"]) -> tuple[Float[Tensor, "token embed"], Float[Tensor, ""]]:
    """The place where the text itself is, with factor 1."""
    return embeddings, embeddings.new_ones(())


def values(
    model: LocalModel,
    prompt: Sequence[int],
    reading: Reading,
    places: Sequence[Place],
    vary: Bool[Tensor, " token"],
    notice: Notice | None = None,
) -> tuple[Float[Tensor, "place output"], Float[Tensor, " output"]]:
    """Every output's target at every place, and the output's log-probabilities at the first of them, on the CPU.

    Tokens that do not `vary` stay where they are. `notice` hears of the first place, if that is `here`. Raises
    `NonFiniteError` where a target is NaN or infinite.
    """
    layout = lay_out(model, prompt, reading)
    readings: list[Forward] = []
    size, done = places_at_once(model, layout), 0
    with torch.no_grad(), model.borrowed():
        while done < len(places):
            part = places[done : done + size]
            try:
                readings.append(read(model, layout, reading, part, vary, cut=False))
            except RuntimeError as error:
                if len(part) == 1 or not memory.is_out_of_memory(error):
                    raise
                size = len(part) // 2
                continue
            done += len(part)
    scores = torch.cat([each.scores for each in readings]).cpu().float()
    if not scores.isfinite().all():
        raise NonFiniteError("A target of this model is NaN or infinite at a place of embedding space off the text.")
    if notice is not None and places[0] is here:
        notice(readings[0].own)
    return scores @ reading.weights.T, readings[0].logprobs.cpu().float()


@dataclass(frozen=True)
class Layout:
    """The prompt with every text after it, as one batch. The last token of a text is only predicted, never read."""

    ids: Int[Tensor, "text token"]
    rows: Int[Tensor, " row"]
    """The positions that predict a token of some text."""
    length: int
    """How many tokens of prompt and output are read."""
    shared: Bool[Tensor, "text length"]
    """Where a text still is what the output is."""


def lay_out(model: LocalModel, prompt: Sequence[int], reading: Reading) -> Layout:
    """The texts of a reading after the prompt."""
    longest = max(map(len, reading.texts))
    length = len(prompt) + len(reading.output) - 1
    # What stands after the end of a shorter text changes nothing before it.
    ids = torch.tensor([[*prompt, *text, *[text[-1]] * (longest - len(text))][:-1] for text in reading.texts])
    shared = torch.arange(length) < len(prompt) + torch.tensor(reading.shared)[:, None]
    rows = torch.arange(len(prompt) - 1, len(prompt) - 1 + longest)
    return Layout(ids.to(model.device), rows, length, shared)


@dataclass(frozen=True)
class Forward:
    """What one forward pass over all texts at some places gave."""

    scores: Float[Tensor, "place item"]
    """The target of each of the reading's places in the texts (here: items)."""
    own: Float[Tensor, "output vocabulary"]
    """The logits that predict the output's tokens at the first place."""
    logprobs: Float[Tensor, " output"]
    """Of the output's tokens there."""
    graph: Graph
    embeddings: Float[Tensor, "length embed"]
    """Where the text itself is, in at least float32."""
    factors: Sequence[Tensor]
    """Of each place."""


def read(
    model: LocalModel,
    layout: Layout,
    reading: Reading,
    places: Sequence[Place],
    vary: Bool[Tensor, " token"],
    *,
    cut: bool,
    around: AbstractContextManager[Any] | None = None,
) -> Forward:
    """One forward pass over all texts at all places; `around` surrounds the model's own computation."""
    stays = all(place is here for place in places)
    exact = None if stays else model.embed(layout.ids[0, : layout.length])
    there = [] if exact is None else [place(exact) for place in places]

    def move(output: Float[Tensor, "batch token embed"]) -> Float[Tensor, "batch token embed"]:
        if stays:
            return output
        texts = output[: len(layout.ids)]
        beyond = texts.shape[1] - layout.length
        moves = torch.nn.functional.pad(layout.shared & vary[: layout.length], (0, beyond))[..., None].to(texts.device)
        ends = [moved_to.to(texts).expand(layout.length, -1) for moved_to, _ in there]
        return torch.cat([torch.where(moves, torch.nn.functional.pad(end, (0, 0, 0, beyond)), texts) for end in ends])

    rows = None if reading.target.reads_all_positions else layout.rows
    with around or nullcontext():
        graph = model.logits_at(layout.ids.repeat(len(places), 1), rows, move, cut=cut)
    output = torch.tensor(reading.output, device=graph.logits.device)
    own_rows = graph.logits.detach()[0, -len(layout.rows) :][: len(output)]
    if exact is None:
        own = graph.leaf.detach()[0, : layout.length]
        exact = own.to(torch.promote_types(own.dtype, torch.float32))
        there = [place(exact) for place in places]
    return Forward(
        scores=_score(graph.logits, reading, len(places)),
        own=own_rows,
        logprobs=TARGETS["logprob"].score(own_rows, output),
        graph=graph,
        embeddings=exact,
        factors=[factor for _, factor in there],
    )


def _score(logits: Float[Tensor, "batch row vocabulary"], reading: Reading, n_places: int) -> Tensor:
    """The target at every place of embedding space and every place of the texts."""
    ids = torch.tensor(reading.ids, device=logits.device)
    if reading.target.reads_all_positions:
        return torch.stack([reading.target.score(one, ids) for one in logits])
    by_place = logits.unflatten(0, (n_places, -1))
    if reading.places == tuple((0, row) for row in range(logits.shape[1])):
        return reading.target.score(by_place[:, 0], ids)
    text, row = torch.tensor(reading.places, device=logits.device).T
    return reading.target.score(by_place[:, text, row], ids)


def places_at_once(model: LocalModel, layout: Layout) -> int:
    """At how many places the texts are read in one pass: enough to keep the device busy, and what memory allows."""
    busy = TOKENS_AT_ONCE.get(model.device.type, TOKENS_AT_ONCE["cuda"]) // layout.ids.numel()
    room = memory.budget(model) / 2 / max(1, probe(model).bytes_kept(*layout.ids.shape))
    return max(1, min(busy, int(room)))


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in parts of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
