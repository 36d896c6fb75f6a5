"""Train on synthetic, test on real: what a classifier learns from generated windows.

A generator that knows the classes teaches them; one whose windows are beautiful but alike does not.

Reference: Ravuri and Vinyals, Classification accuracy score for conditional generative models, NeurIPS 2019, arXiv 1905.10887.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .baselines import LinearSVM
from .bootstrap import bootstrap, paired_difference
from .window_set import WindowSet

__all__ = ["frame_probabilities", "synthetic_training_accuracy"]

FIGURES = ("accuracy", "balanced_accuracy")


def synthetic_training_accuracy(
    fake: WindowSet,
    train: WindowSet,
    test: WindowSet,
    mask: np.ndarray,
    class_names: Sequence[str],
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on held-out real windows of the house's linear SVM over single frames, trained on three sets.

    Args:
        fake: generated windows, all with a class.
        train: real windows of the training runs.
        test: real windows of the test runs, each of another block.
        mask: (X, Y, Z) bool.
        class_names: in the order of the labels.
        n_bootstrap: number of resamples.
        seed: of them.

    Returns:
        ``synthetic``, ``real``, ``synthetic_and_real`` (what it was trained on; tested is always on real) → ``frames`` of
        training, ``volume`` (every frame decoded) and ``block`` (mean probability over a block's frames), each ``accuracy`` and
        ``balanced_accuracy`` with ``value``, ``low``, ``high``. ``synthetic_minus_real``: paired difference of the accuracies.
        Intervals are 95 %, blocks are resampled as a whole; of a single block the bounds are ``None``.
    """
    blocks, frames = test.values.shape[:2]
    (fake_x, fake_y), (train_x, train_y), (test_x, test_y) = (_frames(s, mask) for s in (fake, train, test))
    both = np.concatenate([fake_x, train_x]), np.concatenate([fake_y, train_y])
    sets = {"synthetic": (fake_x, fake_y), "real": (train_x, train_y), "synthetic_and_real": both}
    p = {name: frame_probabilities(x, y, test_x, len(class_names)) for name, (x, y) in sets.items()}
    options: dict[str, Any] = {"n": n_bootstrap, "seed": seed}
    levels = {
        "volume": (p, test_y, np.repeat(np.arange(blocks), frames).tolist()),
        "block": ({k: v.reshape(blocks, frames, -1).mean(1) for k, v in p.items()}, test.labels, None),
    }
    found: dict[str, Any] = {name: {"frames": len(y)} for name, (_, y) in sets.items()} | {"synthetic_minus_real": {}}
    for level, (predicted, labels, clusters) in levels.items():
        for name in sets:
            all_figures = bootstrap(labels, predicted[name], class_names, ordinal=False, clusters=clusters, **options)
            found[name][level] = {key: _defined(all_figures[key]) for key in FIGURES}
        pair = predicted["synthetic"], predicted["real"]
        difference = paired_difference(*pair, labels, class_names, ("accuracy",), clusters=clusters, **options)["accuracy"]
        found["synthetic_minus_real"][level] = _defined(difference)
    return found


def _frames(windows: WindowSet, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = windows.values[:, :, mask]
    return x.reshape(-1, x.shape[-1]), np.repeat(windows.labels, x.shape[1])


def frame_probabilities(x: np.ndarray, y: np.ndarray, test: np.ndarray, n_classes: int) -> np.ndarray:
    """Fit standardising and linear SVM to (n, V) and (n,), return (m, n_classes) for (m, V); an absent class gets 0."""
    model = DummyClassifier(strategy="prior") if len(np.unique(y)) < 2 else LinearSVM()
    fitted: Pipeline = make_pipeline(StandardScaler(), model).fit(x.astype(np.float64), y)
    p = np.zeros((len(test), n_classes))
    p[:, fitted.classes_] = fitted.predict_proba(test.astype(np.float64))
    return p


def _defined(interval: dict[str, float]) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else value for key, value in interval.items()}
