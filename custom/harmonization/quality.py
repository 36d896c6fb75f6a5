"""What harmonization did to a table of features: how much of the site is left.

Compute these figures on subjects that the map was not fitted on. On its own training subjects a map leaves *less* site
than chance, which is an artefact of fitting; ``fitted`` marks such figures. Even on held-out subjects site does not fall to
chance at the sizes of ABIDE, since a site's effect is known only as well as its subjects allow.

Undefined figures are ``None``, so that the result is valid JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, kruskal
from sklearn.feature_selection import f_classif
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from .checks import check_features, check_subjects, site_names
from .decodability import FOLDS, site_accuracy
from .empirical_bayes import varies

__all__ = ["compare", "site_quality"]

SIGNIFICANT = 0.05


def compare(
    before: np.ndarray,
    after: np.ndarray,
    sites: Sequence[str],
    subjects: Sequence[str],
    labels: Sequence[int] | None = None,
    *,
    fitted: bool = False,
    n_permutations: int = 100,
) -> dict[str, Any]:
    """Return :func:`site_quality` of the features before and after harmonization, of the same subjects.

    Args:
        before: (n, F).
        after: (n, F).
        sites: (n,).
        subjects: (n,) names, each once.
        labels: (n,) class indices, to be counted.
        fitted: whether the map was fitted on these subjects.
        n_permutations: of the bound on site accuracy.

    Returns:
        ``before`` and ``after``; ``fitted``; ``sites``: per site ``n`` and, with labels, ``classes``.
    """
    tables = {"before": before, "after": after}
    found: dict[str, Any] = {
        name: site_quality(x, sites, subjects, n_permutations=n_permutations) for name, x in tables.items()
    }
    return found | {"fitted": fitted, "sites": _counts(sites, labels)}


def site_quality(
    features: np.ndarray, sites: Sequence[str], subjects: Sequence[str], *, n_permutations: int = 100
) -> dict[str, Any]:
    """Figures of one table; features are standardized first, those that are constant are left out.

    Args:
        features: (n, F).
        sites: (n,).
        subjects: (n,) names, each once.
        n_permutations: of the bound on site accuracy.

    Returns:
        ``n``, ``features`` (how many vary); ``sites_left_out``: those with fewer than five subjects, which the following
        ignore; ``site_accuracy``: see :func:`.site_accuracy`; ``omega_squared``: mean and max over features of the variance
        that site explains; ``significant``: shares of features that differ between sites at a false discovery rate of 5 %
        (``anova``, ``kruskal``: location; ``brown_forsythe``: spread); ``silhouette`` by site, in [-1, 1].

    Raises:
        ValueError: NaN, a subject twice, or lengths that disagree.
    """
    names = check_subjects(subjects)
    x = check_features(features, names, [f"#{i}" for i in range(np.shape(features)[-1])])
    site = site_names(sites, names)
    kept = pd.Series(site).map(pd.Series(site).value_counts()).to_numpy() >= FOLDS
    found: dict[str, Any] = {"n": len(x), "sites_left_out": sorted(set(site[~kept]))}
    return found | _site_figures(x[kept], site[kept], n_permutations)


def _site_figures(x: np.ndarray, site: np.ndarray, n_permutations: int) -> dict[str, Any]:
    usable = varies(x) if len(x) else np.zeros(x.shape[1], bool)
    names = ("site_accuracy", "omega_squared", "significant", "silhouette")
    if len(np.unique(site)) < 2 or not usable.any():
        return {"features": int(usable.sum())} | dict.fromkeys(names)
    z = StandardScaler().fit_transform(x[:, usable])
    figures = (site_accuracy(z, site, n_permutations), _omega_squared(z, site), _significant(z, site))
    return {"features": int(usable.sum())} | dict(zip(names, (*figures, float(silhouette_score(z, site))), strict=True))


def _omega_squared(x: np.ndarray, site: np.ndarray) -> dict[str, float]:
    """ω² = (k - 1)(F - 1) / ((k - 1)(F - 1) + n) of a one-way analysis of variance; about 0 without an effect (Hays 1963)."""
    effect = (len(np.unique(site)) - 1) * (f_classif(x, site)[0] - 1)
    omega = effect / (effect + len(x))
    return {"mean": float(omega.mean()), "max": float(omega.max())}


def _significant(x: np.ndarray, site: np.ndarray) -> dict[str, float]:
    groups = [x[site == s] for s in np.unique(site)]
    # Brown & Forsythe (1974): analysis of variance of the distances from the site's median
    distances = np.abs(x - pd.DataFrame(x).groupby(site).transform("median").to_numpy())
    p_values = {
        "anova": f_classif(x, site)[1],
        "kruskal": kruskal(*groups, axis=0).pvalue,
        "brown_forsythe": f_classif(distances, site)[1],
    }
    return {name: float((false_discovery_control(p) < SIGNIFICANT).mean()) for name, p in p_values.items()}


def _counts(sites: Sequence[str], labels: Sequence[int] | None) -> dict[str, dict[str, Any]]:
    table = pd.DataFrame({"site": [str(s) for s in sites]})
    if labels is not None:
        table["label"] = [str(label) for label in labels]
    found: dict[str, dict[str, Any]] = {}
    for site, rows in table.groupby("site"):
        found[str(site)] = {"n": len(rows)}
        if labels is not None:
            found[str(site)]["classes"] = {str(k): int(v) for k, v in rows["label"].value_counts().sort_index().items()}
    return found
