"""Weighted least squares, with standard errors that hold whatever the residuals are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from attribution.errors import BudgetError


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear fit of every target, and what it was made from."""

    coefficients: Float64[np.ndarray, "target feature"]
    design: Float64[np.ndarray, "row column"]
    """The features, and after them a column of ones where there is an intercept; each row times the root of its
    weight."""
    residuals: Float64[np.ndarray, "row target"]
    penalty: Float64[np.ndarray, " column"]

    def errors(
        self, combine: Float64[np.ndarray, "score feature"], rows_together: int = 1
    ) -> Float64[np.ndarray, "target score"]:
        """Standard errors of combinations of coefficients, over draws of rows, or of so many rows together.

        The sandwich estimator, clustered, which needs no equal variances and no true linear model. A fit comes nearer
        to its own rows than to others, so residuals are divided by the root of 1 minus leverage (CR2 of Bell and
        McCaffrey, "Bias Reduction in Standard Errors for Linear Regression with Multi-Stage Samples", 2002). Raises
        `BudgetError` where a cluster alone decides a coefficient, since nothing then says how far it is off.
        """
        clusters = self.design.reshape(-1, rows_together, self.design.shape[1])
        bread = np.linalg.inv(self.design.T @ self.design + np.diag(self.penalty))
        leverage, axes = np.linalg.eigh(clusters @ bread @ clusters.transpose(0, 2, 1))
        if leverage.max() > 1 - 1e-6:
            raise too_few(len(self.design), self.coefficients.shape[1])
        widen = axes / np.sqrt(1 - leverage)[:, None] @ axes.transpose(0, 2, 1)
        residuals = widen @ self.residuals.reshape(len(clusters), rows_together, -1)
        spread = bread[:, : combine.shape[1]] @ combine.T
        errors = np.empty((residuals.shape[2], len(combine)))
        for target, row in enumerate(errors):
            row[:] = np.linalg.norm(np.einsum("crf,cr->cf", clusters, residuals[..., target]) @ spread, axis=0)
        return errors


def fit(
    features: Float64[np.ndarray, "row feature"],
    values: Float64[np.ndarray, "row target"],
    weights: Float64[np.ndarray, " row"],
    *,
    intercept: bool,
    penalty: float = 0.0,
) -> Fit:
    """The weighted linear fit with the least squares; with a penalty, plus the penalty times the squared coefficients.

    Raises `BudgetError` where the rows do not determine the coefficients.
    """
    ones = np.ones((len(features), int(intercept)))
    design = np.concatenate([features, ones], axis=1) * np.sqrt(weights)[:, None]
    if not penalty and np.linalg.matrix_rank(design) < design.shape[1]:
        raise too_few(len(design), features.shape[1])
    from sklearn import linear_model

    model = (
        linear_model.Ridge(penalty, fit_intercept=intercept)
        if penalty
        else linear_model.LinearRegression(fit_intercept=intercept)
    )
    model.fit(features, values, sample_weight=weights)
    predicted = model.predict(features).reshape(values.shape)  # a single target may have lost its axis
    residuals = (values - predicted) * np.sqrt(weights)[:, None]
    penalties = np.append(np.full(features.shape[1], penalty), ones[0] * 0)
    return Fit(model.coef_.reshape(values.shape[1], -1), design, residuals, penalties)


def too_few(n_known: int, n_scores: int) -> BudgetError:
    """What is raised where masks do not determine scores."""
    return BudgetError(
        f"{n_known} masks do not tell the scores of {n_scores} units apart. Allow more samples, and a budget for them."
    )
