"""What neuroHarmonize does not refuse but returns NaN or wrong numbers for; all of it is checked before the library is called.

The errors are ``ValueError``; they name the site, the subject, the feature or the column, and what can be done.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["check_features", "check_labels", "check_rank", "check_scatter", "check_sites", "check_subjects", "site_names"]

logger = logging.getLogger(__name__)

# part of a column's length that has to remain when site and the columns before it are taken out. The library casts
# covariates to float32, so less than that would be its rounding
RANK_TOLERANCE = 1e-4


def check_features(features: np.ndarray, subjects: Sequence[str], feature_names: Sequence[str]) -> np.ndarray:
    """Return the features as (n, F) float64.

    Raises:
        ValueError: no table of real numbers, one row per subject; NaN or infinity, which makes every output NaN.
    """
    table = np.asarray(features)
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        raise ValueError(f"features of shape (n, F) and a real dtype wanted, not {table.shape} of {table.dtype}.")
    if table.shape != (len(subjects), len(feature_names)):
        raise ValueError(f"{len(subjects)} subjects and {len(feature_names)} feature names, but features of {table.shape}.")
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"feature {feature_names[column]} of subject {subjects[row]} is {table[row, column]} ({len(bad)} such values): "
            "repair the scan or leave the subject out."
        )
    return table.astype(np.float64)


def check_subjects(subjects: Sequence[str]) -> list[str]:
    """Return the subjects as texts.

    Raises:
        ValueError: one is listed twice (a duplicate that a sampler padded in changes the scales), or has no name.
    """
    names = pd.Series([str(subject) for subject in subjects], dtype=object)
    if (names == "").any():
        raise ValueError("a row has no subject: gather the features of real samples only.")
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(f"subject {', '.join(twice[:5])} is listed twice: keep one row per subject.")
    return names.tolist()


def site_names(sites: Sequence[str], subjects: Sequence[str]) -> np.ndarray:
    """Return the sites as an array of texts; 1 and ``"1"`` are one site.

    Raises:
        ValueError: a subject has no site.
    """
    if len(sites) != len(subjects):
        raise ValueError(f"{len(sites)} sites for {len(subjects)} subjects.")
    missing = [who for site, who in zip(sites, subjects, strict=True) if pd.isna(site) or str(site) == ""]
    if missing:
        raise ValueError(f"subject {missing[0]} has no site: complete the study's table or leave the subject out.")
    return np.array([str(site) for site in sites], dtype=object)


def check_sites(sites: np.ndarray, min_site_n: int, reference_site: str | None) -> None:
    """Raise unless ComBat can be fitted to these sites.

    Raises:
        ValueError: fewer than two sites, a site with too few subjects, or no such reference site.
    """
    if min_site_n < 2:
        raise ValueError(f"min_site_n is {min_site_n}: the variance of a site needs two subjects.")
    names, counts = np.unique(sites.astype(str), return_counts=True)
    if len(names) < 2:
        raise ValueError(f"ComBat needs at least two sites, and there is {', '.join(names) or 'none'}.")
    small = [f"{name} ({n})" for name, n in zip(names, counts, strict=True) if n < min_site_n]
    if small:
        raise ValueError(
            f"fewer than {min_site_n} subjects at site {', '.join(small)}: leave the site out of the fit and treat its scans "
            "as those of an unseen site, or lower min_site_n (not below 2)."
        )
    if reference_site is not None and str(reference_site) not in names:
        raise ValueError(f"the reference site {reference_site} is not among the sites {', '.join(names)}.")


def check_labels(labels: Sequence[int], sites: np.ndarray, subjects: Sequence[str]) -> pd.Series:
    """Return the labels; warn of sites with a single class, whose site effect and diagnosis are one and the same.

    Raises:
        ValueError: a label is missing.
    """
    if len(labels) != len(subjects):
        raise ValueError(f"{len(labels)} labels for {len(subjects)} subjects.")
    series = pd.Series(list(labels))
    if series.isna().any():
        raise ValueError(f"subject {subjects[int(series.isna().argmax())]} has no label: leave it out of the fit.")
    classes = series.groupby(sites).nunique()
    if (classes == 1).any():
        logger.warning("one class only at site %s: there site and diagnosis cannot be told apart.", _names(classes == 1))
    return series


def check_rank(design: pd.DataFrame, sites: np.ndarray) -> None:
    """Raise unless site and every column of the design can be told apart.

    Args:
        design: (n, K) float64 covariates.
        sites: (n,) site of each row.

    Raises:
        ValueError: a column is constant, determined by site or by the columns before it, or there are too few subjects.
    """
    centred = design.to_numpy() - design.to_numpy().mean(0)
    constant = np.ptp(design.to_numpy(), axis=0) == 0
    within = centred - design.groupby(sites).transform("mean").to_numpy() + design.to_numpy().mean(0)
    n_sites = len(np.unique(sites.astype(str)))
    check_scatter(list(design.columns), constant, within.T @ within, (centred**2).sum(0), len(sites), n_sites)


def check_scatter(
    columns: Sequence[str], constant: np.ndarray, within: np.ndarray, total: np.ndarray, n: int, n_sites: int
) -> None:
    """Raise as :func:`check_rank`, from sums over the subjects.

    Args:
        columns: names of the columns.
        constant: (K,) bool, which are the same for everybody.
        within: (K, K) sums of products of the columns, each less its mean at the site.
        total: (K,) sums of squares of the columns, each less its mean over all.
        n: number of subjects.
        n_sites: number of sites.
    """
    size = np.sqrt(np.where(constant, 1, total))
    left = within / np.outer(size, size)
    for k, name in enumerate(columns):
        if constant[k]:
            raise ValueError(f"{name} is the same for every subject of the fit: leave it out.")
        if left[k, k] < RANK_TOLERANCE**2:
            raise ValueError(f"{name} is determined by site, so neither effect can be estimated: leave it out.")
        if left[k, k] - left[k, :k] @ np.linalg.solve(left[:k, :k], left[:k, k]) < RANK_TOLERANCE**2:
            raise ValueError(f"{name} is determined by site and {', '.join(columns[:k])} together: leave one of them out.")
    if n <= n_sites + len(columns):
        raise ValueError(
            f"{n} subjects for {n_sites + len(columns)} columns (sites and covariates): give more subjects or fewer columns."
        )


def _names(mask: pd.Series) -> str:
    return ", ".join(map(str, mask.index[mask]))
