"""Planted causes: prompts whose true causes are known because they were put there, for measuring methods.

    from attribution.planted import FAMILIES, draw, score

A family is a way to build prompts: `draw("conjunction", seed=3)` gives one, with the parts of it that decide the answer,
those that do not, and the changes that show it. `confirm` sees whether a model agrees; `score` says how well a result
found the causes.
"""
