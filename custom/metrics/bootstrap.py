"""95 % intervals by resampling subjects (Efron & Tibshirani 1993, percentile method).

A resample is a weight per subject (how often it was drawn), so that all resamples are computed at once: confusion
matrices and calibration bins are matrix products, and the areas are cumulative sums over scores that are sorted once.
The figures of weight 1 are those of scikit-learn, which the tests demand.

What an interval covers: the choice of test subjects, given the trained models; not the variation of another training.
Measured coverage of a true AUC of 0.76 (1000-1500 simulated studies each): 0.93 at 26 and at 80 subjects, 0.94 at 132
and at 400, 0.94 for the mean of five folds. It is a little less than 0.95, and the misses lean to one side: the lower
bound lies above the truth in 3.5-6 % of the studies where 2.5 % is meant, so a bound just above chance proves little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .figures import ECE_BINS, check, figures

__all__ = ["auc_within", "bootstrap", "paired_difference", "resample", "weighted_figures"]

Interval = dict[str, float]


def bootstrap(
    labels: Sequence[int] | np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    ordinal: bool = True,
    folds: Sequence | None = None,
    clusters: Sequence | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every figure of :func:`figures` with its interval.

    Args:
        labels: (n_units,) class indices.
        probabilities: (n_units, n_classes).
        class_names: names in the order of the indices.
        ordinal: as in :func:`figures`.
        folds: (n_units,) fold, or site, of each unit. Then a figure is the mean over the folds in which it is defined,
            and subjects are resampled within folds.
        clusters: (n_units,) what is drawn as a whole: the subject, where it has several units. None: each unit.
        n: number of resamples.
        seed: of the resamples; the same seed draws the same subjects for every model.

    Returns:
        Figure name -> ``value``, ``low``, ``high``. NaN where undefined; resamples that leave a figure undefined are
        left out of its interval.
    """
    y, p = check(labels, probabilities, class_names)
    values = _over_folds([figures(y[i], p[i], class_names, ordinal) for i in _fold_members(folds, len(y))])
    samples = _samples(y, p, class_names, ordinal, folds, clusters, n, seed)
    return {name: percentile_interval(values[name], samples[name]) for name in values}


def paired_difference(
    probabilities_a: np.ndarray,
    probabilities_b: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    names: Sequence[str] = ("auc", "balanced_accuracy"),
    folds: Sequence | None = None,
    clusters: Sequence | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Figures of a minus figures of b, both on the same subjects and on the same resamples of them."""
    results = []
    for probabilities in (probabilities_a, probabilities_b):
        y, p = check(labels, probabilities, class_names)
        values = _over_folds([figures(y[i], p[i], class_names) for i in _fold_members(folds, len(y))])
        results.append((values, _samples(y, p, class_names, True, folds, clusters, n, seed)))
    (value_a, sample_a), (value_b, sample_b) = results
    return {k: percentile_interval(value_a[k] - value_b[k], sample_a[k] - sample_b[k]) for k in names}


def auc_within(
    labels: np.ndarray,
    score: np.ndarray,
    groups: Sequence,
    folds: Sequence | None = None,
    clusters: Sequence | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """Probability that a positive scores above a negative *of the same group*, such as a site; NaN without such a pair.

    Unlike the AUC over all it gains nothing from knowing which groups have more positives.

    Args:
        labels: (n_units,) true or 1 where positive.
        score: (n_units,).
        groups: (n_units,). Scores of different folds are not compared either.
        folds: as in :func:`bootstrap`.
        clusters: as in :func:`bootstrap`.
        n: number of resamples, which are those of :func:`bootstrap` with the same seed.
        seed: of the resamples.
    """
    positive, drawn = np.asarray(labels) == 1, np.arange(len(labels)) if clusters is None else np.asarray(clusters)
    right, pairs = np.zeros(n + 1), np.zeros(n + 1)
    for k, fold in enumerate(_fold_members(folds, len(positive))):
        weights = np.vstack([np.ones(len(fold)), resample(len(fold), drawn[fold], n, seed + k)])
        for group in np.unique(np.asarray(groups)[fold]):
            inside = np.asarray(groups)[fold] == group
            i, w = fold[inside], weights[:, inside]
            number = (w @ positive[i]) * (w @ ~positive[i])
            right += np.nan_to_num(weighted_auc(positive[i], score[i], w)) * number
            pairs += number
    values = _ratio(right, pairs)
    return percentile_interval(float(values[0]), values[1:])


def resample(n_units: int, clusters: Sequence | None = None, n: int = 1000, seed: int = 0) -> np.ndarray:
    """Weights of shape (n, n_units): how often each unit was drawn; units of one cluster are drawn together."""
    _, member = np.unique(np.arange(n_units) if clusters is None else np.asarray(clusters), return_inverse=True)
    k = member.max() + 1
    drawn = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=n)
    return drawn[:, member].astype(float)


def weighted_figures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, class_names: Sequence[str], ordinal: bool = True
) -> dict[str, np.ndarray]:
    """Figures of many weightings at once.

    Args:
        labels: (n_units,) int.
        probabilities: (n_units, n_classes).
        weights: (n, n_units).
        class_names: names in the order of the indices.
        ordinal: as in :func:`figures`.

    Returns:
        Figure name -> (n,) values, with the names and definitions of :func:`figures`.
    """
    y, p, w = labels, probabilities, weights
    confusion = _confusions(y, p.argmax(1), w, len(class_names))
    aucs = np.stack([weighted_auc(y == c, p[:, c], w) for c in range(len(class_names))])
    areas = np.stack([weighted_average_precision(y == c, p[:, c], w) for c in range(len(class_names))])
    picked = np.clip(p[np.arange(len(y)), y], np.finfo(p.dtype).eps, 1 - np.finfo(p.dtype).eps)
    found = _confusion_figures(confusion, class_names, ordinal) | {
        "auc": aucs[1] if len(class_names) == 2 else _nanmean(aucs),
        "pr_auc": areas[1] if len(class_names) == 2 else _nanmean(areas),
        "ece": _weighted_ece(y, p, w),
        "log_loss": -(w @ np.log(picked)) / w.sum(1),
    }
    return found | {f"auc_{name}": auc for name, auc in zip(class_names, aucs, strict=True)}


def _samples(y, p, class_names, ordinal, folds, clusters, n, seed) -> dict[str, np.ndarray]:
    drawn = np.arange(len(y)) if clusters is None else np.asarray(clusters)
    if len(np.unique(drawn)) < 2:  # of a single subject every resample is the same: nothing is known of the spread
        return dict.fromkeys(figures(y, p, class_names, ordinal), np.full(n, np.nan))
    parts = []
    for k, i in enumerate(_fold_members(folds, len(y))):
        w = resample(len(i), drawn[i], n, seed + k)
        parts.append(weighted_figures(y[i], p[i], w, class_names, ordinal))
    return _over_folds(parts)


def _fold_members(folds: Sequence | None, n_units: int) -> list[np.ndarray]:
    if folds is None:
        return [np.arange(n_units)]
    names = np.asarray(folds)
    return [np.flatnonzero(names == f) for f in np.unique(names)]


def _over_folds(parts: list[dict]) -> dict:
    return {name: _nanmean(np.stack([part[name] for part in parts])) for name in parts[0]}


def percentile_interval(value: float, samples: np.ndarray) -> Interval:
    """Value with the 2.5th and 97.5th percentile of its defined resamples; bounds are NaN where there are none."""
    defined = samples[~np.isnan(samples)]
    if np.isnan(value) or len(defined) == 0:
        return {"value": float(value), "low": float("nan"), "high": float("nan")}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is defined, without NumPy's warning about columns that are not."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(0), defined.sum(0))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def _confusions(y: np.ndarray, predicted: np.ndarray, w: np.ndarray, k: int) -> np.ndarray:
    """(n, k, k) weighted counts, true class in the rows."""
    cell = np.eye(k * k)[y * k + predicted]
    return (w @ cell).reshape(-1, k, k)


def _confusion_figures(m: np.ndarray, class_names: Sequence[str], ordinal: bool) -> dict[str, np.ndarray]:
    hit, true, said, total = np.einsum("nii->ni", m), m.sum(2), m.sum(1), m.sum((1, 2))
    one_class = (true > 0).sum(1) < 2
    recall = _ratio(hit, true)
    expected = (true * said).sum(1)
    spread = (total**2 - (said**2).sum(1)) * (total**2 - (true**2).sum(1))
    # scikit-learn's convention: a constant prediction has no correlation with labels that vary
    mcc = np.where(spread > 0, _ratio(hit.sum(1) * total - expected, np.sqrt(spread)), 0.0)
    found = {
        "accuracy": hit.sum(1) / total,
        "balanced_accuracy": _nanmean(recall.T),
        "macro_f1": _nanmean(_ratio(2 * hit, true + said).T),
        "kappa": np.where(one_class, np.nan, _ratio(hit.sum(1) * total - expected, total**2 - expected)),
        "mcc": np.where(one_class, np.nan, mcc),
    }
    if ordinal:
        distance = np.subtract.outer(np.arange(m.shape[1]), np.arange(m.shape[1])) ** 2
        chance = np.einsum("ni,nj,ij->n", true, said, distance) / total
        found["quadratic_kappa"] = np.where(one_class, np.nan, 1 - _ratio((m * distance).sum((1, 2)), chance))
    return found | {f"recall_{name}": recall[:, c] for c, name in enumerate(class_names)}


def weighted_auc(positive: np.ndarray, score: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Probability that a positive scores above a negative, ties counting half (Mann & Whitney 1947); (n,)."""
    _, group = np.unique(score, return_inverse=True)
    tied = np.eye(group.max() + 1)[group]
    up, down = (w * positive) @ tied, (w * ~positive) @ tied
    below = down.cumsum(1) - down / 2
    return _ratio((up * below).sum(1), up.sum(1) * down.sum(1))


def weighted_average_precision(positive: np.ndarray, score: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean over the positives of the precision at their score, ties entering together; (n,), NaN without a pair.

    It is the sum over thresholds of precision times the growth of recall, scikit-learn's ``average_precision_score``.
    """
    _, group = np.unique(-score, return_inverse=True)
    tied = np.eye(group.max() + 1)[group]
    up, down = (w * positive) @ tied, (w * ~positive) @ tied
    above = up.cumsum(1)
    precision = np.nan_to_num(_ratio(above, above + down.cumsum(1)))  # no subject was drawn so far: there is no growth either
    area = _ratio((up * precision).sum(1), up.sum(1))
    return np.where(down.sum(1) > 0, area, np.nan)


def _weighted_ece(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    confidence, correct = p.max(1), p.argmax(1) == y
    # float32 edges with a closed right end, as in monai.metrics.calibration_binning
    edges = np.linspace(0, 1 + np.finfo(np.float32).eps, ECE_BINS + 1).astype(np.float32)
    bins = np.searchsorted(edges[1:], confidence.astype(np.float32)).clip(max=ECE_BINS - 1)
    gap = (w * (confidence - correct)) @ np.eye(ECE_BINS)[bins]
    return np.abs(gap).sum(1) / w.sum(1)
