"""How well a classifier tells the site from the features, cross-validated within the subjects at hand."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

__all__ = ["FOLDS", "forest_accuracy", "lda_accuracy", "permuted_bound", "site_accuracy"]

FOLDS = 5
SPLIT = StratifiedKFold(FOLDS, shuffle=True, random_state=0)


def site_accuracy(features: np.ndarray, sites: np.ndarray, n_permutations: int = 100) -> dict[str, float]:
    """Balanced accuracy of predicting the site, five-fold cross-validated.

    Args:
        features: (n, F) standardized.
        sites: (n,) with at least five subjects each.
        n_permutations: of the sites, for the bound.

    Returns:
        ``lda``; ``lda_permuted_95``: 95th percentile of the same with permuted sites, below which an accuracy is no evidence
        of a site effect; ``forest``; ``chance``: 1 / number of sites.
    """
    return {
        "lda": lda_accuracy(features, sites),
        "lda_permuted_95": permuted_bound(features, sites, n_permutations),
        "forest": forest_accuracy(features, sites),
        "chance": 1 / len(np.unique(sites)),
    }


def lda_accuracy(features: np.ndarray, sites: np.ndarray) -> float:
    """Of the linear discriminant with Ledoit-Wolf shrinkage; all sites weigh the same, as in the score."""
    n = len(np.unique(sites))
    return _cross_validated(LinearDiscriminantAnalysis("lsqr", shrinkage="auto", priors=np.full(n, 1 / n)), features, sites)


def forest_accuracy(features: np.ndarray, sites: np.ndarray) -> float:
    """Of a random forest, which sees other than linear traces."""
    return _cross_validated(RandomForestClassifier(100, class_weight="balanced", random_state=0), features, sites)


def permuted_bound(features: np.ndarray, sites: np.ndarray, n_permutations: int) -> float:
    """95th percentile of the discriminant's accuracy under permuted sites.

    The covariance within permuted sites is the total one, so that a single whitening serves all permutations and the
    discriminant is the nearest centroid. Fitting it anew each time gives the same bound in a hundred times the time.
    """
    whitened = features @ np.linalg.cholesky(LedoitWolf().fit(features).precision_)
    code, rng = np.unique(sites, return_inverse=True)[1], np.random.default_rng(0)
    return float(np.percentile([_nearest_centroid(whitened, rng.permutation(code)) for _ in range(n_permutations)], 95))


def _nearest_centroid(x: np.ndarray, code: np.ndarray) -> float:
    member, scores = np.eye(code.max() + 1)[code], []
    for train, test in SPLIT.split(x, code):
        centres = member[train].T @ x[train] / member[train].sum(0)[:, None]
        hit = cdist(x[test], centres).argmin(1) == code[test]
        scores.append((hit @ member[test] / member[test].sum(0)).mean())
    return float(np.mean(scores))


def _cross_validated(model: LinearDiscriminantAnalysis | RandomForestClassifier, x: np.ndarray, sites: np.ndarray) -> float:
    return float(cross_val_score(model, x, sites, cv=SPLIT, scoring="balanced_accuracy").mean())
