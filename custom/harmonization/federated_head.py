"""The linear head over sites that send sums, no rows: the pooled logistic ridge by Newton's method.

The regression is that of :func:`.logistic_ridge` on standardised features: ½|w|² + C Σ_i c_i log(1 + exp(-y_i (w·x_i + b))),
with balanced class weights c. What leaves a site, of its training subjects' harmonized features: number, mean (F,) and sum of
squares less the mean (F,); then at every step the weighted loss (a number), its gradient (F + 1,) and its Hessian
(F + 1, F + 1), summed over the subjects. The sums of the sites are those of all rows, so the minimum is that of the pooled fit,
found to rounding; scikit-learn's lbfgs stops a little before (5e-5 of a standardised coefficient on a phantom).

Sums are not anonymous: of a site with at most F + 1 subjects two Hessians have the subjects' rows as their common directions,
and the gradients then give the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

__all__ = ["logistic_sums", "pool_scaler", "scaler_sums", "solve_logistic_ridge"]

MAX_STEPS = 100
TOLERANCE = 1e-10  # of the gradient, relative to the one at the start

Sums = Mapping[str, Any]


def scaler_sums(features: np.ndarray) -> dict[str, Any]:
    """At a site: (n, F) features → what the server needs for mean and scale."""
    mean = features.mean(0)
    return {"count": len(features), "mean": mean, "scatter": ((features - mean) ** 2).sum(0)}


def pool_scaler(sums: Sequence[Sums]) -> tuple[np.ndarray, np.ndarray]:
    """On the server: mean and scale (F,) of all rows, as of ``sklearn.preprocessing.StandardScaler``: 1 for a constant."""
    count = np.array([s["count"] for s in sums], dtype=float)
    means = np.stack([s["mean"] for s in sums])
    n = count.sum()
    mean = count @ means / n
    variance = (np.sum([s["scatter"] for s in sums], axis=0) + count @ (means - mean) ** 2) / n
    rounding = n * np.finfo(float).eps
    constant = variance <= rounding * variance + (rounding * mean) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))


def logistic_sums(x: np.ndarray, labels: np.ndarray, class_weights: np.ndarray, coefficients: np.ndarray) -> dict[str, Any]:
    """At a site: loss, gradient and Hessian of its subjects at some coefficients.

    Args:
        x: (n, F) standardised features.
        labels: (n,) 0 or 1.
        class_weights: (2,).
        coefficients: (F + 1,), the intercept last.
    """
    rows = np.column_stack([x, np.ones(len(x))])
    weight, margin = np.asarray(class_weights)[labels], rows @ coefficients
    p = expit(margin)
    return {
        "loss": float(weight @ (np.logaddexp(0, margin) - labels * margin)),
        "gradient": rows.T @ (weight * (p - labels)),
        "hessian": (rows * (weight * p * (1 - p))[:, None]).T @ rows,
    }


def solve_logistic_ridge(ask: Callable[[np.ndarray], Sequence[Sums]], num_features: int, strength: float) -> np.ndarray:
    """On the server: coefficients (F + 1,), the intercept last.

    Args:
        ask: returns every site's :func:`logistic_sums` at the coefficients given.
        num_features: F.
        strength: C, small is strong.

    Raises:
        ValueError: no minimum was found.
    """
    penalty = np.r_[np.ones(num_features), 0.0] / strength
    coefficients = np.zeros(num_features + 1)
    loss, gradient, hessian = _total(ask(coefficients), penalty, coefficients)
    start = np.abs(gradient).max()
    for _ in range(MAX_STEPS):
        if np.abs(gradient).max() <= TOLERANCE * start:
            return coefficients
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        trial = coefficients - step
        found = _total(ask(trial), penalty, trial)
        while found[0] > loss + abs(loss) * 1e-12 and np.abs(step).max() > 1e-12:  # too far: half of it
            step = step / 2
            trial = coefficients - step
            found = _total(ask(trial), penalty, trial)
        coefficients, (loss, gradient, hessian) = trial, found
    raise ValueError(f"the head did not converge in {MAX_STEPS} steps: give a smaller --ridge.")


def _total(sums: Sequence[Sums], penalty: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    loss = sum(s["loss"] for s in sums) + penalty @ w**2 / 2
    gradient = np.sum([s["gradient"] for s in sums], axis=0) + penalty * w
    hessian = np.sum([s["hessian"] for s in sums], axis=0) + np.diag(penalty)
    return float(loss), gradient, hessian
