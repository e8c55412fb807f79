"""Chunks of a prompt, from the whole of it down to single players, and what is lost without each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int


@dataclass(eq=False)
class Chunk:
    """The players from `start` up to `stop`, and the drop of every target without them; None where it is not known."""

    start: int
    stop: int
    drop: Float64[np.ndarray, " target"] | None = None
    parts: list[Chunk] = field(default_factory=list)

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
    """The chunks of a prompt as far as it is divided. A chunk matters from `threshold` times the largest on."""

    def __init__(
        self, root: Chunk, levels: Sequence[Int[np.ndarray, " player"]], branching: int, threshold: float
    ) -> None:
        self.root = root
        self._levels, self._branching, self._threshold = levels, branching, threshold

    def divide(self, room: float) -> list[Chunk]:
        """Divides the chunks that matter, the strongest first, into no more parts than there is room for; the parts."""
        bar, parts = self._bar(), []
        worth = [chunk for chunk in self.root.walk() if chunk is self.root or chunk.size >= bar]
        for chunk in sorted(worth, key=lambda chunk: -chunk.size):
            if not chunk.parts and chunk.drop is not None and chunk.stop - chunk.start > 1:
                found = self._parts(chunk)
                if len(parts) + len(found) > room:
                    break
                chunk.parts = found
                parts += found
        return parts

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
        ends = [chunk for chunk in self.root.walk() if not chunk.parts]
        ends = [chunk for chunk in ends if chunk.drop is None or chunk.stop - chunk.start > 1]
        return [(chunk, "weak" if chunk.drop is not None and chunk.size < bar else "budget") for chunk in ends]

    def scores(self) -> Float64[np.ndarray, "target player"]:
        """The drop of the smallest known chunk with each player, or of a joint one; never that of the whole prompt.

        Where not even a part of the whole prompt is known, it is 0.
        """
        assert self.root.drop is not None
        scores = np.zeros((len(self.root.drop), self.root.stop))
        for chunk in [*self.root.walk(), *self.joint()]:
            if chunk.drop is not None and (chunk is not self.root or self.root.stop == 1):
                scores[:, chunk.start : chunk.stop] = chunk.drop[:, None]
        return scores

    def notes(self, players: Sequence[int]) -> dict[str, Any]:
        """What is to be known about the scores, as JSON, where the players are these units."""
        known = [chunk for chunk in self.root.walk() if chunk.drop is not None]
        joint = [(chunk, chunk.drop) for chunk in self.joint() if chunk.drop is not None]

        def units(chunk: Chunk) -> list[int]:
            return [players[chunk.start], players[chunk.stop - 1] + 1]

        return {
            "evaluations": len(known) + (len(players) > 0),  # everything too, unless that is nothing
            "joint": [{"units": units(c), "drop": drop.tolist(), "scored": c is not self.root} for c, drop in joint],
            "not_looked_into": [{"units": units(chunk), "why": why} for chunk, why in self.closed()],
        }

    def _bar(self) -> float:
        """The size from which on a chunk matters; above 0, so that nothing is not looked into, unless all is."""
        largest = max(chunk.size for chunk in self.root.walk())
        return max(self._threshold * largest, float(np.finfo(float).tiny)) if self._threshold else 0.0

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
