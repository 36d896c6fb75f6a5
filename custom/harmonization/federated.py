"""ComBat over sites that keep their subjects to themselves ("distributed ComBat", Chen et al. 2022, NeuroImage 248:118822).

The estimates are those of the pooled fit, :func:`.estimate_combat`, in three exchanges. Of site and covariates only these sums
leave a site, F features and K columns (covariates, and the label if it is in the fit):

===========  ==================================================================================================================
exchange     what leaves the site
===========  ==================================================================================================================
moments      number of training subjects; mean of every feature and column; sums of products, each factor less its mean at the
             site: columns by columns (K, K), columns by features (K, F), feature by itself (F,); which features are constant
residuals    per feature, the sum of the squared residuals (F,)
effect       per feature, γ* and δ* after the shrinkage (F,), which the site computes alone: the priors are those of its own
             features
===========  ==================================================================================================================

No row of a subject is among them. They are not anonymous for that: means of three subjects say much about three subjects, and
nothing here adds noise (differential privacy).

Centred at the site, the sums are those of the pooled normal equations without the digits that raw X'X and X'Y lose: the effect
of the columns is β = (Σ_s Z_s'Z_s)⁻¹ Σ_s Z_s'X_s (Frisch & Waugh 1933), each site's mean follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .checks import check_scatter, check_sites
from .empirical_bayes import site_effect, varies
from .fit import CombatEstimates, check_effects, check_residual, spread, usable

__all__ = [
    "PooledMoments",
    "combat_of_sites",
    "effect_of_site",
    "moments_of_site",
    "pool_moments",
    "pool_sigma",
    "residuals_of_site",
]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class PooledMoments:
    """What the server makes of the sites' moments, before σ is known.

    Attributes:
        sites: (S,) names, sorted.
        count: (S,) training subjects.
        columns: (K,) names of the columns of the design.
        centre: (K,) their means over all subjects.
        alpha: (F,) mean at mean columns, averaged over the sites by their size, or that of the reference site.
        beta: (K, F) effects of the columns.
        variance: (F,) over all subjects.
        used: (F,) bool, features that vary at every site.
        reference_site: whose residuals alone give σ; None: those of all.
    """

    sites: tuple[str, ...]
    count: np.ndarray
    columns: tuple[str, ...]
    centre: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    variance: np.ndarray
    used: np.ndarray
    reference_site: str | None

    def standard(self, sigma: np.ndarray) -> dict[str, np.ndarray]:
        """What a site needs to standardize its features; nothing of other sites but these pooled estimates."""
        return {"alpha": self.alpha, "beta": self.beta, "centre": self.centre, "used": self.used, "sigma": sigma}


def moments_of_site(features: np.ndarray, design: np.ndarray) -> dict[str, np.ndarray]:
    """At a site: (n, F) features and (n, K) columns of its training subjects → what leaves it in the first exchange."""
    mean_x, mean_z = features.mean(0), design.mean(0)
    x, z = features - mean_x, design - mean_z
    return {
        "count": np.array(len(x)),
        "mean": mean_x,
        "columns": mean_z,
        "zz": z.T @ z,
        "zx": z.T @ x,
        "xx": (x**2).sum(0),
        "varies": varies(features),
    }


def residuals_of_site(features: np.ndarray, design: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """At a site: the sum over its training subjects of the squared residuals (F,), less the columns' effect and its mean."""
    left = features - design @ beta
    return ((left - left.mean(0)) ** 2).sum(0)


def effect_of_site(features: np.ndarray, design: np.ndarray, standard: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """At a site: its γ* and δ*, each (U,) of the features used, given :meth:`PooledMoments.standard`."""
    left = features - standard["alpha"] - (design - standard["centre"]) @ standard["beta"]
    return site_effect(left[:, standard["used"]] / standard["sigma"])


def pool_moments(
    moments: Mapping[str, Arrays],
    columns: Sequence[str],
    *,
    feature_names: Sequence[str] | None = None,
    min_site_n: int = 3,
    reference_site: str | None = None,
) -> PooledMoments:
    """On the server: the moments of every site → the effects of the columns, and the mean.

    Raises:
        ValueError: as :func:`.fit_combat` for too few sites or subjects, columns that cannot be told from site, features that
            vary at fewer than all sites.
    """
    sites = sorted(moments)
    check_sites(np.repeat(sites, [int(moments[s]["count"]) for s in sites]), min_site_n, reference_site)
    count, mean, z, zz, zx, xx = (
        np.stack([np.asarray(moments[s][key], dtype=float) for s in sites])
        for key in ("count", "mean", "columns", "zz", "zx", "xx")
    )
    n = count.sum()
    centre, within = count @ z / n, zz.sum(0)
    total = within.diagonal() + count @ (z - centre) ** 2
    # the minimum and the maximum would tell, and are somebody's: rounding of the mean is all that a constant leaves
    constant = total <= n * (1e-12 * centre) ** 2
    check_scatter(columns, constant, within, total, int(n), len(sites))
    beta = np.linalg.solve(within, zx.sum(0))
    at_centre = mean - (z - centre) @ beta
    shown = feature_names if feature_names is not None else [f"#{i}" for i in range(mean.shape[1])]
    used = usable([np.asarray(moments[s]["varies"]) for s in sites], shown)
    grand = count @ mean / n
    alpha = count @ at_centre / n if reference_site is None else at_centre[sites.index(str(reference_site))]
    return PooledMoments(
        sites=tuple(sites),
        count=count.astype(int),
        columns=tuple(columns),
        centre=centre,
        alpha=np.where(used, alpha, grand),
        beta=np.where(used, beta, 0.0),
        variance=(xx.sum(0) + count @ (mean - grand) ** 2) / n,
        used=used,
        reference_site=None if reference_site is None else str(reference_site),
    )


def pool_sigma(pooled: PooledMoments, residuals: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> np.ndarray:
    """On the server: the sites' sums of squared residuals → σ of the features used, (U,).

    Raises:
        ValueError: site and columns explain a feature to the last digit.
    """
    shown = names if names is not None else [f"#{i}" for i in range(len(pooled.used))]
    sites = pooled.sites if pooled.reference_site is None else (pooled.reference_site,)
    n = sum(int(pooled.count[pooled.sites.index(site)]) for site in sites)
    variance = np.sum([residuals[site] for site in sites], axis=0)[pooled.used] / n
    check_residual(variance, pooled.variance[pooled.used], [shown[i] for i in np.flatnonzero(pooled.used)])
    return np.sqrt(variance)


def combat_of_sites(
    pooled: PooledMoments,
    sigma: np.ndarray,
    effects: Mapping[str, tuple[np.ndarray, np.ndarray]],
    feature_names: Sequence[str] = (),
) -> CombatEstimates:
    """On the server: σ and the effects of every site → the estimates that :func:`.estimate_combat` gives on all rows.

    Raises:
        ValueError: a site has no finite effect.
    """
    gamma, delta = (np.stack([effects[site][k] for site in pooled.sites]) for k in (0, 1))
    if pooled.reference_site is not None:
        reference = pooled.sites.index(pooled.reference_site)
        gamma[reference], delta[reference] = 0.0, 1.0
    shown = feature_names or [f"#{i}" for i in range(len(pooled.used))]
    check_effects(gamma, delta, [shown[i] for i in np.flatnonzero(pooled.used)])
    return CombatEstimates(
        sites=pooled.sites,
        count=pooled.count,
        columns=pooled.columns,
        centre=pooled.centre,
        feature_names=tuple(feature_names),
        alpha=pooled.alpha,
        beta=pooled.beta,
        sigma=spread(sigma, pooled.used, 0.0),
        gamma_star=spread(gamma, pooled.used, 0.0),
        delta_star=spread(delta, pooled.used, 1.0),
    )
