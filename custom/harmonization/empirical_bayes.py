"""The effect of one site on standardized features, with neuroCombat's own empirical Bayes."""

from __future__ import annotations

import numpy as np

__all__ = ["site_effect", "varies"]

# relative to a feature's size: the rounding of float32, in which extractors compute
ROUNDING = 8 * float(np.finfo(np.float32).eps)


def varies(features: np.ndarray) -> np.ndarray:
    """Which features of (n, F) differ between rows by more than float32's rounding; (F,) bool."""
    return np.ptp(features, axis=0) > ROUNDING * np.abs(features).max(0)


def site_effect(standardized: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior location γ* and squared scale δ* of a site (Johnson et al. 2007, equations 3.1-3.2).

    The priors are those of the site's own estimates over features, so no other site is needed.

    Args:
        standardized: (n, F) features of the site's scans, less α and divided by σ; at least two features.

    Returns:
        γ* and δ*, each (F,) float64.

    Raises:
        ValueError: fewer than two features, or estimates that are not finite.
    """
    from neuroCombat.neuroCombat import aprior, bprior, it_sol

    if standardized.shape[1] < 2:
        raise ValueError("empirical Bayes borrows strength across features: at least two that vary are needed.")
    data = standardized.T
    location, variance = data.mean(1), data.var(1, ddof=1)
    prior = location.mean(), location.var(ddof=1), aprior(variance), bprior(variance)
    gamma, delta = it_sol(data, location, variance, *prior)
    if not (np.isfinite(gamma).all() and np.isfinite(delta).all()):
        raise ValueError("the effect of the site has no finite estimate: are its features copies of each other?")
    return gamma, delta
