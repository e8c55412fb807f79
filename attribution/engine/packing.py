"""Packs: many remainders of a text as branches of one tree, of which what they share is computed once.

A remainder shares its first tokens with the whole text, whose keys and values are known, and perhaps more of them with
its neighbour in the same row. Only what is its own is computed. A row holds the own tokens of several remainders one
after the other; a mask lets each token see its own ancestors, and positions are given. A pack is some rows of one
length, computed in one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from jaxtyping import Bool, Int

from attribution.absence import Remainder

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 5 / 6, 1)
"""Numbers of rows that are tried, in as many as the longest branch makes."""


@dataclass(frozen=True)
class Branch:
    """A remainder of which the first `shared` tokens need not be computed."""

    index: int
    """Which remainder."""
    shared: int
    """How many tokens it begins with that the whole text begins with too."""
    beyond: int
    """How many it begins with that the branch before it begins with too; at least `shared`."""
    length: int
    """How many tokens it has."""


@dataclass(frozen=True)
class Pack:
    """Rows of branches, and the length that all of them are padded to."""

    rows: tuple[tuple[Branch, ...], ...]
    width: int
    prefix: int
    """How many tokens of the whole text its branches look back at."""

    @property
    def tokens(self) -> int:
        """How many tokens are computed, padding counted."""
        return len(self.rows) * self.width

    def cost(self, slope: float) -> float:
        """What it costs, in tokens that look at nothing; each token looked at costs `slope`."""
        return self.tokens * (1 + slope * (self.prefix + self.width))

    @property
    def indices(self) -> list[int]:
        """The remainders in it."""
        return [branch.index for row in self.rows for branch in row]


def branches(remainders: Sequence[Remainder], whole: Remainder | None) -> list[Branch]:
    """The remainders in an order in which neighbours share much: those that differ earliest come first.

    Without the whole text nothing is shared but among neighbours.
    """
    empty = np.empty(0, dtype=np.int64)
    trunk = (empty, empty) if whole is None else (whole.ids, whole.positions)
    shared = [min(_agree(trunk, (r.ids, r.positions)), int(r.rows.min())) for r in remainders]
    # Big-endian bytes sort as the numbers that they are.
    keys = [np.stack([r.ids, r.positions], axis=1).astype(">i4").tobytes() for r in remainders]
    order = sorted(range(len(remainders)), key=lambda i: (shared[i], keys[i]))
    found: list[Branch] = []
    for place, index in enumerate(order):
        mine = remainders[index]
        common = 0
        if place:
            before = remainders[order[place - 1]]
            common = min(_agree((before.ids, before.positions), (mine.ids, mine.positions)), int(mine.rows.min()))
        found.append(Branch(index, shared[index], max(common, shared[index]), len(mine.ids)))
    return found


def packs(found: Sequence[Branch], tokens_at_once: int, slope: float) -> Iterator[Pack]:
    """The branches in packs of at most so many tokens, one branch at least."""
    start = 0
    while start < len(found):
        pack = end = None
        # What is shared within the pack is known only once its rows are: it grows until it is full.
        size = _fill(found, start, tokens_at_once)
        while pack is None:
            end = start + size
            pack = _best(found[start:end], slope)
            if pack.tokens > tokens_at_once and size > 1:
                size, pack = max(1, min(size - 1, size * tokens_at_once // pack.tokens)), None
        yield pack
        start += size


def _agree(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> int:
    """How many tokens two texts have in common at their beginning, in the same positions."""
    length = min(len(a[0]), len(b[0]))
    differing = (a[0][:length] != b[0][:length]) | (a[1][:length] != b[1][:length])
    return int(differing.argmax()) if differing.any() else length


def _fill(found: Sequence[Branch], start: int, tokens_at_once: int) -> int:
    """How many branches from `start` on have so many tokens of their own, were they all in one row."""
    total, size = found[start].length - found[start].shared, 1
    for branch in found[start + 1 :]:
        total += branch.length - branch.beyond
        if total > tokens_at_once:
            break
        size += 1
    return size


def _best(found: Sequence[Branch], slope: float) -> Pack:
    """The branches in as many rows as cost least."""
    longest = max(branch.length - branch.shared for branch in found)
    total = sum(branch.length - branch.shared for branch in found)
    most = -(-total // longest)
    counts = sorted({max(1, round(most * share)) for share in SHARES} | {most})
    return min((_rows(found, count, max(longest, -(-total // count))) for count in counts), key=lambda p: p.cost(slope))


def _rows(found: Sequence[Branch], count: int, width: int) -> Pack:
    """The branches in at most `count` rows of about this length: longest chain first, each into the emptiest row."""
    rows: list[list[Branch]] = [[] for _ in range(count)]
    loads = [(0, row) for row in range(count)]
    for chain in sorted(_chains(found, width), key=_own, reverse=True):
        load, row = heappop(loads)
        rows[row] += chain
        heappush(loads, (load + _own(chain), row))
    filled = tuple(tuple(row) for row in rows if row)
    return Pack(filled, max(load for load, _ in loads), max(branch.shared for branch in found))


def _chains(found: Sequence[Branch], width: int) -> list[list[Branch]]:
    """Neighbours that share more with each other than with the whole text, as far as they fit into a row."""
    chains: list[list[Branch]] = []
    size = 0
    for branch in found:
        if not chains or branch.beyond == branch.shared or size + branch.length - branch.beyond > width:
            # At the beginning of a chain there is no neighbour to share with.
            branch = Branch(branch.index, branch.shared, branch.shared, branch.length)
            chains.append([])
            size = 0
        chains[-1].append(branch)
        size += branch.length - branch.beyond
    return chains


def _own(chain: Sequence[Branch]) -> int:
    """How many tokens of a chain are to be computed."""
    return sum(branch.length - branch.beyond for branch in chain)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model is given for a pack; the last axis of `sees` has the whole text's tokens and then the row's."""

    ids: Int[np.ndarray, "row token"]
    positions: Int[np.ndarray, "row token"]
    sees: Bool[np.ndarray, "row token seen"]
    reads: Int[np.ndarray, " item"]
    """Where the items of all its branches are predicted, in the rows laid end to end."""


def inputs(pack: Pack, remainders: Sequence[Remainder]) -> Inputs:
    """The pack's rows written out. Padding sees itself alone."""
    count, width, prefix = len(pack.rows), pack.width, pack.prefix
    ids = np.zeros((count, width), dtype=np.int64)
    positions = np.zeros((count, width), dtype=np.int64)
    sees = np.zeros((count, width, prefix + width), dtype=bool)
    sees[:, np.arange(width), prefix + np.arange(width)] = True
    reads: list[np.ndarray] = []
    for number, row in enumerate(pack.rows):
        used, path = 0, np.arange(0)
        for branch in row:
            mine = remainders[branch.index]
            own = np.arange(used, used + branch.length - branch.beyond)
            ids[number, own] = mine.ids[branch.beyond :]
            positions[number, own] = mine.positions[branch.beyond :]
            # Where each of its tokens stands among what is seen: in the whole text, in its neighbours, in itself.
            known = np.arange(branch.shared) if branch.beyond == branch.shared else path[: branch.beyond]
            first = int(own[0])
            sees[number, first : first + len(own), known] = True
            sees[number, first : first + len(own), prefix + first : prefix + first + len(own)] |= np.tri(
                len(own), dtype=bool
            )
            path = np.concatenate([known, prefix + own])
            reads.append(number * width + path[mine.rows] - prefix)
            used += len(own)
    return Inputs(ids, positions, sees, np.concatenate(reads))
