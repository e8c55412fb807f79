"""Absence: what it means that a unit of the prompt is not there, and what is left of a text without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from attribution.errors import InputError

ABLATIONS = ("delete", "mask")
"""The meanings of "absent" that have a name; the third is `Replace`."""


@dataclass(frozen=True, init=False)
class Replace:
    """An absent unit is replaced by a neutral text.

    - `Replace("...")`: one text for every unit.
    - `Replace(["Ann", "7", "pears"])`: for every unit its own, as many texts as there are units that can be absent.
      Earlier output tokens, where units are tokens, are then deleted.
    - `Replace("...", "_")`: several texts, or lists of them. Each ablated prompt is asked once with each, and what is
      read is averaged.

    A unit that begins with white space is replaced by the same white space and the text.

    Raises `InputError` for anything but texts with something in them.
    """

    fillers: tuple[str | tuple[str, ...], ...]

    def __init__(self, *fillers: str | Sequence[str]) -> None:
        lists = tuple(filler if isinstance(filler, Sequence) else () for filler in fillers)
        given = tuple(filler if isinstance(filler, str) else tuple(filler) for filler in lists)
        texts = [text for filler in given for text in ([filler] if isinstance(filler, str) else filler)]
        if not all(given) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError(
                f"Expected the texts that stand for an absent unit, got {fillers!r}. Type Replace('...'), or "
                'ablation="delete" to put nothing there.'
            )
        object.__setattr__(self, "fillers", given)

    def __str__(self) -> str:
        return f"Replace({', '.join(repr(list(f) if isinstance(f, tuple) else f) for f in self.fillers)})"

    def texts(self, filler: int, count: int) -> tuple[str, ...]:
        """What stands for each of `count` units in one reading; `InputError` for a list of another length."""
        given = self.fillers[filler]
        if isinstance(given, str):
            return (given,) * count
        if len(given) != count:
            raise InputError(
                f"Expected {count} texts to replace units by, one for each that can be absent, got {len(given)}."
            )
        return given


def check_ablation(ablation: object) -> str | Replace:
    """The meaning itself; `InputError` for anything that is none."""
    if isinstance(ablation, Replace) or (isinstance(ablation, str) and ablation in ABLATIONS):
        return ablation
    names = ", ".join(map(repr, ABLATIONS))
    raise InputError(f"Expected an ablation out of {names}, or a Replace(...), got {ablation!r}.")


@dataclass(frozen=True, eq=False)
class Remainder:
    """What is left of a text: its ids, their positions, and where in it and of which ids the target is read."""

    ids: Int[np.ndarray, " token"]
    positions: Int[np.ndarray, " token"]
    rows: Int[np.ndarray, " item"]
    """The index of the token that predicts each item."""
    items: Int[np.ndarray, " item"]
    """The ids that are read there."""

    @property
    def key(self) -> bytes:
        """The same for two remainders that are the same."""
        return b"|".join(part.tobytes() for part in (self.ids, self.positions, self.rows, self.items))

    @property
    def extent(self) -> int:
        """How many places its tokens stretch over."""
        return int(self.positions[-1]) + 1

    @property
    def has_gaps(self) -> bool:
        """Whether some of these places are empty."""
        return self.extent != len(self.ids)


@dataclass(frozen=True, eq=False)
class Layout:
    """What the model may read of a text: every unit with, behind it, what stands for it when it is absent.

    The text's last token is not in it, for that is only predicted. `unit` says for every token which unit it belongs
    to, -1 for one that always stays; `stand_in` marks the tokens that are there only when their unit is absent. With
    `keeps_positions` what is left stays where it was. `reads` are the indices of the tokens that are predicted, `items`
    the ids that are read in their place; `n_prompt` counts the layout's tokens of the prompt.
    """

    ids: Int[np.ndarray, " token"]
    unit: Int[np.ndarray, " token"]
    stand_in: Bool[np.ndarray, " token"]
    reads: Int[np.ndarray, " item"]
    items: Int[np.ndarray, " item"]
    n_prompt: int
    keeps_positions: bool

    def remainder(self, keep: Bool[np.ndarray, " unit"], start_id: Callable[[], int]) -> Remainder:
        """What is left when only these units are there; `start_id` is asked where nothing of the prompt is."""
        there = np.append(keep, True)[self.unit] != self.stand_in
        ids, positions = self.ids, np.arange(len(self.ids))
        if not there[: self.n_prompt].any():
            ids, there = ids.copy(), there.copy()
            ids[self.n_prompt - 1], there[self.n_prompt - 1] = start_id(), True
        before = np.cumsum(there)[self.reads - 1] - 1
        left = np.flatnonzero(there)
        kept_at = positions[left] if self.keeps_positions else np.arange(len(left))
        return Remainder(ids[left], kept_at, before, self.items)
