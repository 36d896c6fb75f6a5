"""Does the generator repeat its training windows? Distances to the nearest training and the nearest held-out window.

A sample that is near to a training window is no proof: a smooth sample is near to everything, and of many windows one is always
near. So both are calibrated with windows of the held-out runs, which are real and were not trained on: they stand in the place
of the samples, with the *other* held-out windows as the held-out ones.

Reference: nearest-neighbour audits as in Meehan, Chaudhuri and Dasgupta, A non-parametric test to detect data-copying in
generative models, AISTATS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import percentileofscore
from sklearn.metrics.pairwise import euclidean_distances

from .window_statistics import check_windows

__all__ = ["Neighbours", "nearest_neighbour_ratio"]

COPY = 0.5  # of the smallest distance of a held-out window; a window's mean over all others is at 0.71 of real distances
EXCESS = 3  # times the expected share of suspects: of n independent ones more than that in (1 - 3 / (n + 1))ⁿ ≈ 5 % of studies


@dataclass(frozen=True)
class Neighbours:
    """Distances are root mean squares over voxels (and frames), in units of the z-score.

    Args:
        distance: (M,) of every sample to the nearest of all training windows.
        ratio: (M,) nearest training over nearest held-out distance, both among as many windows, mean over subsamples.
        full_ratio: (M,) the same ratio to all training and all held-out windows.
        reference_distance: (H,) as ``distance``, of the held-out windows.
        reference_ratio: (H,) as ``ratio``, of the held-out windows of one random half to the other half.
        reference_full_ratio: (H,) as ``full_ratio``, to the held-out windows of all other blocks.
        blocks: number of held-out blocks, which are independent where their frames are not.
        balanced: number of windows in a subsample.
    """

    distance: np.ndarray
    ratio: np.ndarray
    full_ratio: np.ndarray
    reference_distance: np.ndarray
    reference_ratio: np.ndarray
    reference_full_ratio: np.ndarray
    blocks: int
    balanced: int

    @property
    def copies(self) -> np.ndarray:
        """(M,) bool: nearer to a training window than half of the smallest distance of a held-out window."""
        return self.distance < COPY * self.reference_distance.min()

    @property
    def suspects(self) -> np.ndarray:
        """(M,) bool: by distance and by full ratio below every held-out window; a merely smooth sample is not by the second."""
        return (self.distance < self.reference_distance.min()) & (self.full_ratio < self.reference_full_ratio.min())

    @property
    def expected(self) -> float:
        """Share of suspects, at most, among samples that know no more of the training runs than the held-out ones do."""
        return 1 / (self.blocks + 1)

    @property
    def verdict(self) -> str:
        """What the shares say, in words."""
        if self.copies.any():
            return "copies of training data"
        if self.suspects.mean() > EXCESS * self.expected:
            return "nearer to training data than held-out runs are"
        return "no sign of memorisation"

    def summary(self) -> dict[str, Any]:
        """Return the figures for a report, JSON-safe.

        ``closer_share``: share of samples nearer to a training window than the 5th percentile of the held-out windows is;
        ``percentile``: place of the median sample among the held-out windows' distances, 50 where they are alike.
        """
        closer = self.distance < np.percentile(self.reference_distance, 5)
        return {
            "samples": len(self.distance),
            "ratio": _quartiles(self.ratio),
            "reference_ratio": _quartiles(self.reference_ratio),
            "distance": _quartiles(self.distance),
            "reference_distance": _quartiles(self.reference_distance),
            "percentile": float(percentileofscore(self.reference_distance, np.median(self.distance), kind="mean")),
            "closer_share": float(closer.mean()),
            "copies": int(self.copies.sum()),
            "suspect_share": float(self.suspects.mean()),
            "expected_suspect_share": self.expected,
            "balanced_windows": self.balanced,
            "verdict": self.verdict,
        }


def nearest_neighbour_ratio(
    fake: np.ndarray,
    train: np.ndarray,
    heldout: np.ndarray,
    mask: np.ndarray,
    unit: Literal["window", "frame"] = "window",
    repeats: int = 20,
    seed: int = 0,
) -> Neighbours:
    """Compare the distances of generated windows, or of their frames, to training and to held-out ones.

    Args:
        fake: (M, F, X, Y, Z) generated.
        train: (N, F, X, Y, Z) what the generator was trained on.
        heldout: (H, F, X, Y, Z) of runs that it was not trained on, each of another block.
        mask: (X, Y, Z) bool.
        unit: ``"frame"`` takes every frame for itself; a block's own frames are never its neighbours.
        repeats: number of random subsamples and halves.
        seed: of them.

    Raises:
        ValueError: the windows do not fit each other or the mask, there are fewer than 2 held-out ones, or one of them equals a
            training window.
    """
    for name, windows in (("generated", fake), ("training", train), ("held-out", heldout)):
        check_windows(windows, mask, name)
        if windows.shape[1] != fake.shape[1]:
            raise ValueError(f"{name}: windows of {windows.shape[1]} frames for generated ones of {fake.shape[1]}.")
    if len(heldout) < 2:
        raise ValueError("one held-out window: the audit compares held-out windows with each other, give at least 2.")
    points, held, trained = (_points(w, mask, unit) for w in (fake, heldout, train))
    block = np.repeat(np.arange(len(heldout)), len(held) // len(heldout))
    to_train, to_held = euclidean_distances(points, trained), euclidean_distances(points, held)
    held_train, held_held = euclidean_distances(held, trained), euclidean_distances(held, held)
    if held_train.min() < 1e-5 * np.median(held_train):
        raise ValueError("a held-out window equals a training window: split the runs again, no audit can tell them apart.")
    others = np.where(block[:, None] == block, np.inf, held_held)
    scale = np.sqrt(points.shape[1])
    size = min(len(trained), (len(heldout) // 2) * (len(held) // len(heldout)))
    rng = np.random.default_rng(seed)
    ratio, reference = _balanced(to_train, to_held, held_train, held_held, block, size, repeats, rng)
    return Neighbours(
        distance=to_train.min(1) / scale,
        ratio=ratio,
        full_ratio=_ratio(to_train.min(1), to_held.min(1)),
        reference_distance=held_train.min(1) / scale,
        reference_ratio=reference,
        reference_full_ratio=_ratio(held_train.min(1), others.min(1)),
        blocks=len(heldout),
        balanced=size,
    )


def _points(windows: np.ndarray, mask: np.ndarray, unit: str) -> np.ndarray:
    values = windows[:, :, mask].astype(np.float64)
    return values.reshape(len(values), -1) if unit == "window" else values.reshape(-1, values.shape[-1])


def _balanced(
    to_train: np.ndarray,
    to_held: np.ndarray,
    held_train: np.ndarray,
    held_held: np.ndarray,
    block: np.ndarray,
    size: int,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ratio over subsamples of ``size`` training and held-out points, for samples (M,) and held-out points (H,).

    The held-out blocks are halved at random; the samples and one half are compared with the other half, and the halves change
    places, so that every held-out point has a ratio in every repeat.
    """
    total, reference = np.zeros(len(to_train)), np.zeros(len(held_train))
    blocks = np.arange(block.max() + 1)
    for _ in range(repeats):
        order = rng.permutation(blocks)
        for half in (order[: len(order) // 2], order[len(order) // 2 :]):
            some = rng.choice(to_train.shape[1], size, replace=False)
            other = rng.choice(np.flatnonzero(~np.isin(block, half)), size, replace=False)
            mine = np.flatnonzero(np.isin(block, half))
            total += _ratio(to_train[:, some].min(1), to_held[:, other].min(1))
            reference[mine] += _ratio(held_train[np.ix_(mine, some)].min(1), held_held[np.ix_(mine, other)].min(1))
    return total / (2 * repeats), reference / repeats


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, at most 1000: a sample that equals a held-out window is not infinitely far from the training ones."""
    return np.divide(a, np.maximum(b, a / 1000), out=np.ones_like(a), where=(a > 0) | (b > 0))


def _quartiles(values: np.ndarray) -> dict[str, float]:
    q25, median, q75 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q25": float(q25), "q75": float(q75)}
