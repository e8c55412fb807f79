"""Chunks of a prompt, from the whole of it down to single players, and what is lost without each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

LEAST, SHARE = 50, 4
"""How many prompts a search may take, and what leave-one-out's are divided by where that is more."""


def most_prompts(n_players: int, threshold: float, limit: int | None) -> int:
    """How many prompts a search takes at most, the whole one included: never more than leave-one-out.

    Without a limit it is `LEAST`, or a share of leave-one-out's where that is more, unless all is looked into.
    """
    every = n_players + 1
    if limit is None:
        limit = max(LEAST, every // SHARE) if threshold else every
    return min(every, limit)


@dataclass(eq=False)
class Chunk:
    """The players from `start` up to `stop`, and the drop of every target without them; None where it is not known."""

    start: int
    stop: int
    drop: Float64[np.ndarray, " target"] | None = None
    parts: list[Chunk] = field(default_factory=list)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def span(self) -> tuple[int, int]:
        """Its start and stop."""
        return self.start, self.stop

    @property
    def size(self) -> float:
        """How much it matters: the largest drop or rise over the targets; 0 where it is not known."""
        return 0.0 if self.drop is None else float(np.abs(self.drop).max())

    def walk(self) -> Iterator[Chunk]:
        """Itself and all chunks within, in the order of the prompt, the larger first."""
        yield self
        for part in self.parts:
            yield from part.walk()


class Tree:
    """The chunks of a prompt as far as it is divided. A chunk matters from `threshold` times the largest on.

    `limit` is as in `most_prompts`.
    """

    def __init__(
        self,
        n_players: int,
        levels: Sequence[Int[np.ndarray, " player"]],
        branching: int,
        threshold: float,
        limit: int | None,
    ) -> None:
        self.root = Chunk(0, n_players)
        self._levels, self._branching, self._threshold = levels, branching, threshold
        self._left = most_prompts(n_players, threshold, limit) - 1
        """How many prompts may still be asked, next to the whole one."""

    def begin(self) -> list[Chunk]:
        """What is asked first: the prompt without all of it, or every player where larger parts would save nothing.

        That is where everything is looked into, and up to two players for each of `branching` parts: groups of two save
        nothing where half of them matter, which on short prompts about half of all parts do.
        """
        n_players = len(self.root)
        is_flat = n_players <= 2 * self._branching or not self._threshold
        if not is_flat or n_players > self._left:
            return [self.root]
        self.root.parts = _players(self.root)
        return self.root.parts

    def learn(self, asked: Sequence[Chunk], drops: Float64[np.ndarray, "chunk target"]) -> None:
        """Keeps what is lost without each of these; NaN where a budget has ended, and then nothing more is asked."""
        for chunk, drop in zip(asked, drops, strict=True):
            chunk.drop = drop if np.isfinite(drop).all() else None
        self._left = 0 if any(chunk.drop is None for chunk in asked) else self._left - len(asked)

    def divide(self) -> list[Chunk]:
        """Divides the chunks that matter, the strongest first, into no more parts than may be asked; the parts.

        They are single players at once where groups would cost more, if as many of these matter as of all parts so far.
        A weaker chunk waits until what is left suffices to come down to a player of each that is stronger, and of it.
        """
        bar, left, found = self._bar(), self._left, list[Chunk]()
        share = self._share(bar)
        worth = [chunk for chunk in self.root.walk() if chunk is self.root or chunk.size >= bar]
        for chunk in sorted(worth, key=lambda chunk: -chunk.size):
            if not chunk.parts and chunk.drop is not None and len(chunk) > 1:
                parts = self._parts(chunk)
                if len(parts) + share * len(chunk) > len(chunk) and len(chunk) <= left:
                    parts = _players(chunk)
                whole_way = len(parts) + self._way_down(max(parts, key=len))
                if (whole_way if found else len(parts)) > left:
                    break
                chunk.parts = parts
                found += parts
                left -= whole_way
        return found

    def joint(self) -> list[Chunk]:
        """The chunks that matter though none of their parts does, nor all of them by adding up to half of the whole."""
        bar, found = self._bar(), []
        for chunk in self.root.walk():
            drops = [part.drop for part in chunk.parts if part.drop is not None and part.size < bar]
            if chunk.drop is not None and chunk.size >= bar and drops and len(drops) == len(chunk.parts):
                missing = chunk.drop - np.sum(drops, axis=0)
                found += [chunk] if float(np.abs(missing).max()) > chunk.size / 2 else []
        return found

    def closed(self) -> list[tuple[Chunk, str]]:
        """The chunks whose players are not known one at a time, and why: `"weak"`, or the `"budget"` ended."""
        bar = self._bar()
        ends = [chunk for chunk in self.root.walk() if len(chunk) and not chunk.parts]
        ends = [chunk for chunk in ends if chunk.drop is None or len(chunk) > 1]
        return [(chunk, "weak" if chunk.drop is not None and chunk.size < bar else "budget") for chunk in ends]

    def scores(self, n_targets: int) -> Float64[np.ndarray, "target player"]:
        """The drop of the smallest known chunk with each player, or of a joint one; never that of the whole prompt.

        Where not even a part of the whole prompt is known, it is 0.
        """
        scores = np.zeros((n_targets, self.root.stop))
        for chunk in [*self.root.walk(), *self.joint()]:
            if chunk.drop is not None and chunk is not self.root:
                scores[:, chunk.start : chunk.stop] = chunk.drop[:, None]
        return scores

    def notes(self, players: Sequence[int]) -> dict[str, Any]:
        """What is to be known about the scores, as JSON, where the players are these units."""
        known = [chunk for chunk in self.root.walk() if chunk.drop is not None]
        joint = [(chunk, chunk.drop) for chunk in self.joint() if chunk.drop is not None]

        def units(chunk: Chunk) -> list[int]:
            return [players[chunk.start], players[chunk.stop - 1] + 1]

        return {
            "evaluations": len(known) + 1,  # everything too
            "joint": [{"units": units(c), "drop": drop.tolist(), "scored": c is not self.root} for c, drop in joint],
            "not_looked_into": [{"units": units(chunk), "why": why} for chunk, why in self.closed()],
        }

    def _bar(self) -> float:
        """The size from which on a chunk matters; above 0, so that nothing is not looked into, unless all is."""
        largest = max(chunk.size for chunk in self.root.walk())
        return max(self._threshold * largest, float(np.finfo(float).tiny)) if self._threshold else 0.0

    def _share(self, bar: float) -> float:
        """The share of parts that matter, by those that are known so far; half before any is (Laplace's rule)."""
        known = [chunk for chunk in self.root.walk() if chunk.drop is not None and chunk is not self.root]
        return (1 + sum(chunk.size >= bar for chunk in known)) / (2 + len(known))

    def _way_down(self, chunk: Chunk) -> int:
        """How many prompts it takes to come down to one player of it, through its largest parts."""
        parts = self._parts(chunk) if len(chunk) > 1 else []
        return len(parts) + (self._way_down(max(parts, key=len)) if parts else 0)

    def _parts(self, chunk: Chunk) -> list[Chunk]:
        """Its parts on the coarsest level that divides it, and single players where none does.

        More than `branching` parts are put together into that many contiguous groups of nearly equal numbers of parts.
        """
        cuts = inner = np.arange(chunk.start + 1, chunk.stop)
        for level in self._levels:
            found = inner[level[inner] != level[inner - 1]]
            if len(found):
                cuts = found
                break
        starts = [chunk.start, *cuts.tolist()]
        if len(starts) > self._branching:
            starts = [int(group[0]) for group in np.array_split(starts, self._branching)]
        return [Chunk(start, stop) for start, stop in zip(starts, [*starts[1:], chunk.stop], strict=True)]


def _players(chunk: Chunk) -> list[Chunk]:
    """Each of its players as a part of it."""
    return [Chunk(player, player + 1) for player in range(chunk.start, chunk.stop)]
