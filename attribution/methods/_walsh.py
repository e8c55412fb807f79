"""Values of random masks as a sum of products of signs: which products matter, and how much each does."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from attribution.methods._trees import Spectrum, boosted_spectrum

Pairs = dict[tuple[int, int], float]
ROUNDING = 1e-5
"""Below this share of how far the values are apart, a pair is rounding: values are float32."""
PENALTY = 1e-9
"""Of the ridge fit, for each mask: it only keeps the fit solvable, since there are far fewer products than masks."""


@dataclass(eq=False)
class Found:
    """Banzhaf values of the players and Banzhaf interactions of pairs, for one target; standard errors of the former.

    `fit` is the share of the variance of masks held out that the products explain; None where there is none.
    """

    first: Float64[np.ndarray, " player"]
    errors: Float64[np.ndarray, " player"]
    pairs: Pairs = field(default_factory=dict)
    fit: float | None = None


def random_halves(n_players: int, samples: int, rng: np.random.Generator) -> Bool[np.ndarray, "row player"]:
    """So many random masks, none twice where players are few; a longer draw begins with a shorter one."""
    if n_players > 20:
        return rng.random((samples, n_players)) < 0.5
    order = rng.permutation(2**n_players)[:samples]
    return (order[:, None] >> np.arange(n_players) & 1).astype(bool)


def exact(keep: Bool[np.ndarray, "row player"], values: Float64[np.ndarray, " row"]) -> Found:
    """From the values of all masks."""
    signs = 2.0 * keep - 1
    second = 4 * (signs * values[:, None]).T @ signs / len(values)
    apart = ROUNDING * float(np.ptp(values))
    players = combinations(range(keep.shape[1]), 2)
    pairs = {(i, j): float(second[i, j]) for i, j in players if abs(second[i, j]) > apart}
    return Found(2 * values @ signs / len(values), np.zeros(keep.shape[1]), pairs)


def sampled(keep: Bool[np.ndarray, "row player"], values: Float64[np.ndarray, " row"], seed: int) -> Found:
    """From the values of random masks, each player there in half of them.

    The products are those of the strongest sets of boosted trees and of all of their subsets, and pairs of which the
    rest still shows something: trees do not see two players neither of which does anything alone. A fifth of the masks
    is held out until the products are chosen. A pair is named from so many standard errors on that among all pairs of
    a prompt without any, one would be named in one of 20 prompts, at least 3.
    """
    n_rows, n_players = keep.shape
    if not np.ptp(values):
        return Found(np.zeros(n_players), np.zeros(n_players))
    signs, held = 2.0 * keep - 1, np.arange(n_rows) % 5 == 4
    spectrum = boosted_spectrum(keep[~held], values[~held], seed)
    sets = _choose(spectrum, n_players, n_rows)
    rest = values[~held] - _predict(signs[~held], values[~held], sets, signs[~held])
    sets += _overlooked(signs[~held], rest, sets)[: n_rows // 16]
    missed = values[held] - _predict(signs[~held], values[~held], sets, signs[held])
    variance = float(values[held].var())
    coefficients, errors, lone = _fit(_products(signs, sets), values)
    found = Found(np.zeros(n_players), np.full(n_players, 2 * lone))
    found.fit = 1 - float((missed**2).mean()) / variance if variance else None
    bar = max(3.0, NormalDist().inv_cdf(1 - 0.025 / max(1, n_players * (n_players - 1) // 2)))
    apart = ROUNDING * float(np.ptp(values))
    for players, coefficient, error in zip(sets, coefficients.tolist(), errors.tolist(), strict=True):
        if len(players) == 1:
            (player,) = players
            found.first[player], found.errors[player] = 2 * coefficient, 2 * error
        elif len(players) == 2 and abs(coefficient) > bar * error and 4 * abs(coefficient) > apart:
            first, second = sorted(players)
            found.pairs[first, second] = 4 * coefficient
    return found


def _choose(spectrum: Spectrum, n_players: int, n_rows: int) -> list[frozenset[int]]:
    """All players, or where masks are few the strongest; the strongest sets with their subsets, far fewer than masks.

    Sets of equal strength are taken in a set order, so that the same seed gives the same numbers.
    """
    order = sorted(spectrum, key=lambda players: (-abs(spectrum[players]), len(players), sorted(players)))
    lone = [frozenset({player}) for player in range(n_players)]
    if n_players > n_rows // 4:
        lone = [players for players in order if len(players) == 1][: n_rows // 4] or lone[: n_rows // 4]
    chosen = dict.fromkeys(lone)
    for players in order:
        subsets = (combinations(sorted(players), size) for size in range(2, len(players) + 1))
        chosen |= dict.fromkeys(frozenset(subset) for of_size in subsets for subset in of_size)
        if len(chosen) >= len(lone) + n_rows // 16:
            break
    return list(chosen)


def _overlooked(
    signs: Float64[np.ndarray, "row player"], rest: Float64[np.ndarray, " row"], sets: list[frozenset[int]]
) -> list[frozenset[int]]:
    """The pairs that what is left of the values goes with, from 3 standard errors on, the strongest first."""
    shares = np.triu(np.abs((signs * rest[:, None]).T @ signs) / len(rest), 1)
    known = np.array([sorted(players) for players in sets if len(players) == 2]).reshape(-1, 2)
    shares[known[:, 0], known[:, 1]] = 0
    rows, columns = np.nonzero(shares > 3 * float(rest.std()) / np.sqrt(len(rest)))
    order = np.argsort(-shares[rows, columns], kind="stable")
    return [frozenset({int(rows[k]), int(columns[k])}) for k in order]


def _products(
    signs: Float64[np.ndarray, "row player"], sets: list[frozenset[int]]
) -> Float64[np.ndarray, "row product"]:
    return np.stack([signs[:, sorted(players)].prod(1) for players in sets], axis=1)


def _ridge(design: Float64[np.ndarray, "row product"], values: Float64[np.ndarray, " row"]) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=PENALTY * len(design)).fit(design, values)


def _predict(
    signs: Float64[np.ndarray, "row player"],
    values: Float64[np.ndarray, " row"],
    sets: list[frozenset[int]],
    elsewhere: Float64[np.ndarray, "other player"],
) -> Float64[np.ndarray, " other"]:
    return _ridge(_products(signs, sets), values).predict(_products(elsewhere, sets))


def _fit(
    design: Float64[np.ndarray, "row product"], values: Float64[np.ndarray, " row"]
) -> tuple[Float64[np.ndarray, " product"], Float64[np.ndarray, " product"], float]:
    """The coefficients, their standard errors (sandwich, HC3), and that of a product which is not among them."""
    model = _ridge(design, values)
    whole = np.concatenate([design, np.ones((len(design), 1))], axis=1)
    inverse = np.linalg.inv(whole.T @ whole + PENALTY * len(design) * np.eye(whole.shape[1]))
    weights = whole @ inverse
    leverage = np.minimum((weights * whole).sum(1), 1 - 1e-6)
    residuals = (values - model.predict(design)) / (1 - leverage)
    errors = np.sqrt((weights**2).T @ residuals**2)
    return model.coef_, errors[:-1], float(np.sqrt((residuals**2).mean() / len(values)))
