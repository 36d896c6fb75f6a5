"""Figures of a classifier from one label and one probability vector per subject.

An undefined figure (no subject of the class, or of no other class) is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.metrics import CalibrationErrorMetric
from sklearn import metrics as sk

__all__ = ["ECE_BINS", "expected_calibration_error", "figures"]

ECE_BINS = 15


def figures(
    labels: Sequence[int] | np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], ordinal: bool = True
) -> dict[str, float]:
    """Figures by scikit-learn and MONAI.

    Args:
        labels: (n,) class indices.
        probabilities: (n, n_classes).
        class_names: names of the classes in the order of their indices.
        ordinal: whether the classes have an order; only then ``quadratic_kappa`` is among the figures.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_f1`` (both over the classes present), ``kappa`` (Cohen 1960),
        ``quadratic_kappa``, ``mcc``, ``auc`` (class 1 of two; of more, the mean one-versus-rest AUC of the classes present),
        ``pr_auc`` (likewise, of the area under precision over recall, as average precision; its chance is the class' share),
        ``ece``, ``log_loss``, and per class ``auc_<name>`` and ``recall_<name>``.

    Raises:
        ValueError: the shapes disagree or a label is no class index.
    """
    y, p = check(labels, probabilities, class_names)
    predicted, classes = p.argmax(1), np.arange(len(class_names))
    several = len(np.unique(y)) > 1
    aucs = [_area(sk.roc_auc_score, y == c, p[:, c]) for c in classes]
    areas = [_area(sk.average_precision_score, y == c, p[:, c]) for c in classes]
    recalls = sk.recall_score(y, predicted, labels=classes, average=None, zero_division=np.nan)
    found = {
        "accuracy": sk.accuracy_score(y, predicted),
        "balanced_accuracy": np.nanmean(recalls),
        "macro_f1": sk.f1_score(y, predicted, average="macro", zero_division=0),
        "kappa": sk.cohen_kappa_score(y, predicted, labels=classes) if several else np.nan,
        "mcc": sk.matthews_corrcoef(y, predicted) if several else np.nan,
        "auc": aucs[1] if len(classes) == 2 else _nanmean(aucs),
        "pr_auc": areas[1] if len(classes) == 2 else _nanmean(areas),
        "ece": expected_calibration_error(y, p),
        "log_loss": sk.log_loss(y, p / p.sum(1, keepdims=True), labels=classes),  # float32 sums are not quite 1
    }
    if ordinal:
        kappa = sk.cohen_kappa_score(y, predicted, labels=classes, weights="quadratic") if several else np.nan
        found["quadratic_kappa"] = kappa
    found |= {f"auc_{name}": auc for name, auc in zip(class_names, aucs, strict=True)}
    found |= {f"recall_{name}": recall for name, recall in zip(class_names, recalls, strict=True)}
    return {name: float(value) for name, value in found.items()}


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean gap between confidence and accuracy in 15 bins of the predicted class's probability (Guo et al. 2017).

    MONAI's metric treats every channel as a binary problem of its own, so it is given the one channel that Guo's
    definition looks at: the confidence, and whether the prediction was right.
    """
    confidence = torch.as_tensor(probabilities.max(1))[None, None]
    correct = torch.as_tensor(probabilities.argmax(1) == labels)[None, None]
    metric = CalibrationErrorMetric(num_bins=ECE_BINS, calibration_reduction="expected")
    metric(y_pred=confidence, y=correct)
    return float(torch.as_tensor(metric.aggregate()))


def check(
    labels: Sequence[int] | np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as (n,) int and probabilities as (n, n_classes) float64, or ValueError."""
    p, y = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if len(y) == 0 or p.shape != (len(y), len(class_names)):
        raise ValueError(f"{len(y)} labels and {len(class_names)} classes, but probabilities of shape {p.shape}")
    wrong = ~np.isin(y, np.arange(len(class_names)))
    if wrong.any() or not np.isfinite(p).all():
        raise ValueError(f"labels {np.unique(y[wrong])} outside 0..{len(class_names) - 1}, or NaN in the probabilities")
    return y.astype(int), p


def _area(score_of: Callable, positive: np.ndarray, score: np.ndarray) -> float:
    return score_of(positive, score) if positive.any() and not positive.all() else np.nan


def _nanmean(values: Sequence[float]) -> float:
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else np.nan
