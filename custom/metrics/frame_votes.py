"""A classifier of frames whose votes decide about a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone

__all__ = ["FrameVotes"]


class FrameVotes(ClassifierMixin, BaseEstimator):
    """Fit an estimator on the frames of windows, every frame a sample, and average its log probabilities over a window.

    Args:
        estimator: with ``predict_proba``.
        frames: F, whose voxels lie end to end in a row of X, as :class:`.EventResponse` lays them.
    """

    def __init__(self, estimator: BaseEstimator, frames: int) -> None:
        self.estimator, self.frames = estimator, frames

    def fit(self, X: np.ndarray, y: Sequence[int]) -> FrameVotes:
        """Fit on X of shape (n, frames * voxels) and y of shape (n,)."""
        self.estimator_ = clone(self.estimator).fit(self._frames(X), np.repeat(y, self.frames))
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Array of shape (n, n_classes)."""
        p = self.estimator_.predict_proba(self._frames(X)).reshape(len(X), self.frames, -1)
        votes = np.exp(np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean(1))
        return votes / votes.sum(1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Array of shape (n,): the most probable class."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _frames(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X).reshape(len(X) * self.frames, -1)
