"""Planted causes: prompts whose true causes are known because they were put there, for measuring methods.

    from attribution.planted import FAMILIES, confirm, draw, score

A family is a way to build prompts: `draw("conjunction", seed=3)` gives one, with the parts of it that decide the
answer, those that do not, and the changes that show it. `confirm` sees whether a model agrees; `score` says how well a
result found the causes.
"""

from __future__ import annotations

from attribution.planted.confirmation import Confirmation, confirm
from attribution.planted.families import FAMILIES, SHORTCUTS, draw
from attribution.planted.prompt import Change, Part, Planted
from attribution.planted.scores import score

__all__ = ["FAMILIES", "SHORTCUTS", "Change", "Confirmation", "Part", "Planted", "confirm", "draw", "score"]
