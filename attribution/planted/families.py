"""Families: ways to build prompts whose causes are known, from one look-up to written steps.

Every family states facts of the form "Sam has 3 apples." and asks for a number. Which words decide it follows from how
the prompt was built: for each there is a change to another prompt of the same family with another answer, and for the
rest changes after which the answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from attribution.errors import InputError
from attribution.planted.gifts import chain_of_thought, two_hops, written_step
from attribution.planted.lookups import (
    conjunction,
    distractors,
    few_shot,
    hijack,
    redundancy,
    single,
    update,
)
from attribution.planted.needles import needle
from attribution.planted.prompt import Planted
from attribution.planted.shortcuts import shortcut_name, shortcut_thing

SHORTCUTS: Mapping[str, Callable[[Random, bool], Planted]] = {
    family.__name__: family for family in (shortcut_name, shortcut_thing)
}
"""Families of models that were trained to take a shortcut, see `training.shortcuts`; as in `FAMILIES`."""

FAMILIES: Mapping[str, Callable[[Random, bool], Planted]] = {
    family.__name__: family
    for family in (
        single,
        conjunction,
        redundancy,
        two_hops,
        update,
        distractors,
        hijack,
        needle,
        few_shot,
        written_step,
        chain_of_thought,
    )
}
"""Every family of the embedded model by its name: what draws a prompt of it. The second argument is `held_out`."""


def draw(family: str, random: Random | None = None, *, seed: int = 0, held_out: bool = True) -> Planted:
    """A prompt of this family, drawn from `random`, or by default from the seed.

    With `held_out` it asks about a name and a thing that the embedded model never saw together (for a shortcut, one of
    its facts is of such a pair); without, no two that it names were kept from it. Raises `InputError` for a family that
    is none.
    """
    known = {**FAMILIES, **SHORTCUTS}
    if family not in known:
        raise InputError(f"Expected a family out of {', '.join(known)}, got {family!r}.")
    return known[family](Random(f"{family} {seed}") if random is None else random, held_out)
