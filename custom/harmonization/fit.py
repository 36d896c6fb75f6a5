"""ComBat's fit by neuroHarmonize, exported as an affine map per site.

The model is x = α + zβ + σ(γ_s + δ_s^½ ε) with covariates z. Covariates are centred before the fit, so that α is the mean at
the mean covariates, and the map is that of a scan with mean covariates: x* = x a_s + α (1 - a_s) - σ γ*_s a_s,
a_s = δ*_s^-½. It needs no covariate and cannot be given a diagnosis; harmonized by it, a scan differs from what its own
covariates would give by zβ(1 - a_s).

Fit on the training subjects only, anew in every fold. Labels may enter the fit: it then keeps what the diagnosis explains
out of the site effects where the classes are unevenly spread over sites.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from .affine import SiteAffine, affine_of
from .checks import check_features, check_labels, check_rank, check_sites, check_subjects, site_names
from .design import code_covariates, code_labels
from .empirical_bayes import varies

__all__ = ["CombatEstimates", "estimate_combat", "fit_combat"]

logger = logging.getLogger(__name__)

# share of a feature's variance that must be left when site and covariates are taken out
RESIDUAL_TOLERANCE = 1e-10


@dataclass(frozen=True)
class CombatEstimates:
    """What ComBat estimated; all arrays float64.

    A feature that was passed through has σ = 0, β = 0, γ* = 0 and δ* = 1.

    Attributes:
        sites: (S,) names, sorted.
        count: (S,) subjects per site.
        columns: (K,) names of the columns of the design, texts coded as by :func:`.code_covariates`.
        centre: (K,) their means, which were subtracted.
        feature_names: (F,) names, empty if none were given.
        alpha: (F,) mean at mean covariates, averaged over the sites by their size, or that of the reference site.
        beta: (K, F) effects of the columns.
        sigma: (F,) residual standard deviation.
        gamma_star: (S, F) location of the sites in units of σ.
        delta_star: (S, F) variance of the sites in units of σ².
    """

    sites: tuple[str, ...]
    count: np.ndarray
    columns: tuple[str, ...]
    centre: np.ndarray
    feature_names: tuple[str, ...]
    alpha: np.ndarray
    beta: np.ndarray
    sigma: np.ndarray
    gamma_star: np.ndarray
    delta_star: np.ndarray

    def affine(self) -> SiteAffine:
        """The covariate-free map of these estimates."""
        affine = SiteAffine(len(self.alpha), self.sites)
        alpha, sigma, gamma, delta = map(torch.from_numpy, (self.alpha, self.sigma, self.gamma_star, self.delta_star))
        affine.scale, affine.shift = affine_of(alpha, sigma, gamma, delta)
        affine.mean, affine.sigma = alpha.clone(), sigma.clone()
        affine.count = torch.as_tensor(self.count, dtype=torch.int64)
        affine.origins = ["fitted"] * len(self.sites)
        affine.covariates, affine.feature_names = list(self.columns), list(self.feature_names)
        return affine


def fit_combat(
    features: np.ndarray,
    sites: Sequence[str],
    covariates: pd.DataFrame | None = None,
    labels: Sequence[int] | None = None,
    *,
    subjects: Sequence[str],
    feature_names: Sequence[str] | None = None,
    min_site_n: int = 3,
    reference_site: str | None = None,
) -> SiteAffine:
    """Fit parametric empirical Bayes ComBat (Johnson et al. 2007; Fortin et al. 2018) and return it as an affine map.

    Args:
        features: (n, F), one row per training subject.
        sites: (n,) site of each row.
        covariates: (n, K) table whose effect is kept, such as age and sex; numbers, or texts of two values.
        labels: (n,) classes of the training subjects; they enter the fit as one more covariate and nothing else.
        subjects: (n,) names, each once.
        feature_names: (F,) names for messages and for the state.
        min_site_n: fewest subjects of a site, not below 2.
        reference_site: site that is left as it is and to which the others are moved; None: the mean of all.

    Returns:
        The map, with one row per site. A feature that is constant at some site is passed through (as by ``sva::ComBat``);
        its index is in ``unadjusted``.

    Raises:
        ValueError: whatever neuroHarmonize would answer with NaN or wrong numbers; see :mod:`.checks`.
    """
    return estimate_combat(
        features, sites, covariates, labels, subjects=subjects, feature_names=feature_names, min_site_n=min_site_n,
        reference_site=reference_site,
    ).affine()  # fmt: skip


def estimate_combat(
    features: np.ndarray,
    sites: Sequence[str],
    covariates: pd.DataFrame | None = None,
    labels: Sequence[int] | None = None,
    *,
    subjects: Sequence[str],
    feature_names: Sequence[str] | None = None,
    min_site_n: int = 3,
    reference_site: str | None = None,
) -> CombatEstimates:
    """Return the estimates from which :func:`fit_combat` builds its map; the arguments are the same."""
    names = check_subjects(subjects)
    shown = list(feature_names) if feature_names is not None else [f"#{i}" for i in range(np.shape(features)[-1])]
    x = check_features(features, names, shown)
    site = site_names(sites, names)
    check_sites(site, min_site_n, reference_site)
    design = _design(covariates, labels, site, names)
    check_rank(design, site)
    used = usable([varies(x[site == s]) for s in np.unique(site)], shown)
    model = _learn(x[:, used], site, design - design.mean(), reference_site)
    names = [shown[i] for i in np.flatnonzero(used)]
    check_residual(model["var_pooled"].ravel(), x[:, used].var(0), names)
    check_effects(model["gamma_star"], model["delta_star"], names)
    return _estimates(model, x, used, site, design, tuple(feature_names or ()))


def _design(
    covariates: pd.DataFrame | None, labels: Sequence[int] | None, site: np.ndarray, subjects: list[str]
) -> pd.DataFrame:
    parts = [pd.DataFrame(index=range(len(subjects)))]
    if covariates is not None:
        parts.append(code_covariates(covariates, subjects))
    if labels is not None:
        parts.append(code_labels(check_labels(labels, site, subjects)))
    design = pd.concat(parts, axis=1)
    twice = design.columns[design.columns.duplicated()]
    if len(twice):
        raise ValueError(f"the covariates name {twice[0]} twice: keep one of them (labels go in as 'labels').")
    return design


def usable(varying: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return which features vary at every site, from (F,) per site.

    The library turns the others to NaN, or lets them move their neighbours.

    Raises:
        ValueError: fewer than two do.
    """
    used = np.all(varying, axis=0)
    if used.sum() < 2:
        raise ValueError(f"{used.sum()} of {len(used)} features vary at every site: ComBat's empirical Bayes needs two.")
    if not used.all():
        passed = ", ".join(names[i] for i in np.flatnonzero(~used)[:10])
        logger.warning("%d features are constant at some site and are passed through: %s.", (~used).sum(), passed)
    return used


def _learn(x: np.ndarray, site: np.ndarray, centred: pd.DataFrame, reference_site: str | None) -> dict:
    from neuroHarmonize import harmonizationLearn  # brings statsmodels, a second of import

    table = pd.DataFrame({"SITE": site, **{f"c{k}": centred[name] for k, name in enumerate(centred.columns)}})
    reference = None if reference_site is None else str(reference_site)
    # the library divides before it checks; what is not finite is refused by _check_model
    with np.errstate(divide="ignore", invalid="ignore"):
        return harmonizationLearn(x, table, ref_batch=reference)[0]


def check_residual(residual: np.ndarray, total: np.ndarray, names: Sequence[str]) -> None:
    """Raise ValueError naming a feature whose variance, ``total``, site and covariates explain to the last digit."""
    explained = residual <= RESIDUAL_TOLERANCE * total
    if explained.any():
        raise ValueError(f"feature {names[int(explained.argmax())]} is determined by site and covariates: leave it out.")


def check_effects(gamma_star: np.ndarray, delta_star: np.ndarray, names: Sequence[str]) -> None:
    """Raise ValueError naming a feature without finite site effects, (S, F) each."""
    good = np.isfinite(gamma_star).all(0) & np.isfinite(delta_star).all(0) & (delta_star > 0).all(0)
    if not good.all():
        raise ValueError(f"no finite site effects for feature {names[int((~good).argmax())]}: leave it out of the fit.")


def _estimates(
    model: dict, x: np.ndarray, used: np.ndarray, site: np.ndarray, design: pd.DataFrame, names: tuple[str, ...]
) -> CombatEstimates:
    sites, count = np.unique(site.astype(str), return_counts=True)
    n_sites = len(sites)

    alpha = x.mean(0)
    alpha[used] = model["stand_mean"][:, 0]
    return CombatEstimates(
        sites=tuple(sites.tolist()),
        count=count,
        columns=tuple(design.columns),
        centre=design.mean().to_numpy(float),
        feature_names=names,
        alpha=alpha,
        beta=spread(model["B_hat"][n_sites:], used, 0.0),
        sigma=spread(np.sqrt(model["var_pooled"].ravel()), used, 0.0),
        gamma_star=spread(model["gamma_star"], used, 0.0),
        delta_star=spread(model["delta_star"], used, 1.0),
    )


def spread(values: np.ndarray, used: np.ndarray, neutral: float) -> np.ndarray:
    """Return (..., F) of the values of the features used, (..., U), and a neutral value for the others."""
    full = np.full((*values.shape[:-1], len(used)), neutral)
    full[..., used] = values
    return full
