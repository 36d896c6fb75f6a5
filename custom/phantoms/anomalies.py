"""Anomalies of known kind, size and place, planted in windows of real or synthetic BOLD.

| kind | what happens | small | medium | large |
|---|---|---|---|---|
| ``drop_out`` | a ball of voxels loses its signal in every frame (z = 0); radius in voxels | 2 | 3 | 4 |
| ``blob`` | a Gaussian of SD 1.5 voxels is added to every frame, of either sign; peak in z | 1 | 2 | 3 |
| ``spike`` | one frame jumps by so many z, with white noise of half of it | 0.5 | 1 | 1.5 |
| ``misregistration`` | one slice of a third of the frames is shifted in its plane; voxels | 1 | 2 | 3 |
| ``wrong_category`` | the last frames come from a window of another class; share of the frames | 1/3 | 2/3 | 1 |

Scores are tuned on ``TUNING_KINDS`` alone; what they do with ``TEST_KINDS`` is what they can do with the unforeseen.
A drop-out makes a window *less* variable: it is found by what misses signal, not by what adds up squares.
A window of another category, planted whole, is a normal window: nothing but its label is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["KINDS", "LABEL_KINDS", "LOCAL_KINDS", "SIZES", "TEST_KINDS", "TUNING_KINDS", "plant"]

TUNING_KINDS = ("drop_out", "blob")
TEST_KINDS = ("spike", "misregistration", "wrong_category")
KINDS = (*TUNING_KINDS, *TEST_KINDS)
LABEL_KINDS = ("wrong_category",)  # those that a score of the signal alone is not made for
LOCAL_KINDS = ("drop_out", "blob")  # those whose place is a part of the brain

SIZES: dict[str, dict[str, float]] = {
    "drop_out": {"small": 2, "medium": 3, "large": 4},
    "blob": {"small": 1, "medium": 2, "large": 3},
    "spike": {"small": 0.5, "medium": 1, "large": 1.5},
    "misregistration": {"small": 1, "medium": 2, "large": 3},
    "wrong_category": {"small": 1 / 3, "medium": 2 / 3, "large": 1},
}
BLOB_SD = 1.5  # voxels

Planted = tuple[np.ndarray, np.ndarray]


def plant(
    window: np.ndarray, kind: str, size: str, rng: np.random.Generator, mask: np.ndarray, others: Sequence[np.ndarray] = ()
) -> Planted:
    """Plant one anomaly in a copy of a window.

    Args:
        window: (F, X, Y, Z), z-scored per voxel and run, 0 outside the brain.
        kind: one of ``KINDS``.
        size: ``small``, ``medium`` or ``large``; the numbers are those of ``SIZES``.
        rng: draws place, sign, frames and donor.
        mask: (X, Y, Z), true inside the brain.
        others: windows of other classes, of the same shape; ``wrong_category`` takes its frames from one of them.

    Returns:
        The window with the anomaly, float32, and where it is: (F, X, Y, Z), bool.

    Raises:
        ValueError: for an unknown kind or size, a mask of another grid or without voxels, or no window of another class.
    """
    if kind not in KINDS or size not in SIZES[kind]:
        raise ValueError(
            f"no anomaly '{kind}' of size '{size}': kinds are {', '.join(KINDS)}; sizes {', '.join(SIZES['blob'])}."
        )
    inside = np.asarray(mask, dtype=bool)
    if inside.shape != window.shape[1:] or not inside.any():
        raise ValueError(f"a mask of shape {inside.shape} with {inside.sum()} voxels does not fit windows of {window.shape}.")
    copy = np.array(window, dtype=np.float32)
    if kind == "wrong_category":
        return _other_category(copy, SIZES[kind][size], rng, inside, others)
    return _PLANTERS[kind](copy, SIZES[kind][size], rng, inside)


def _squared_distance(rng: np.random.Generator, inside: np.ndarray) -> np.ndarray:
    """Squared distance (X, Y, Z), in voxels, to a voxel of the brain drawn at random."""
    voxels = np.argwhere(inside)
    centre = voxels[rng.integers(len(voxels))].reshape(3, 1, 1, 1)
    return ((np.indices(inside.shape) - centre) ** 2).sum(0)


def _drop_out(window: np.ndarray, radius: float, rng: np.random.Generator, inside: np.ndarray) -> Planted:
    region = (_squared_distance(rng, inside) <= radius**2) & inside
    window[:, region] = 0
    return window, np.broadcast_to(region, window.shape).copy()


def _blob(window: np.ndarray, peak: float, rng: np.random.Generator, inside: np.ndarray) -> Planted:
    shape = np.exp(-_squared_distance(rng, inside) / (2 * BLOB_SD**2)) * inside
    window += (rng.choice([-1, 1]) * peak * shape).astype(np.float32)
    return window, np.broadcast_to(shape > 0.5, window.shape).copy()


def _spike(window: np.ndarray, jump: float, rng: np.random.Generator, inside: np.ndarray) -> Planted:
    frame, truth = rng.integers(len(window)), np.zeros(window.shape, dtype=bool)
    window[frame, inside] += (jump * rng.choice([-1, 1]) + jump / 2 * rng.normal(size=inside.sum())).astype(np.float32)
    truth[frame] = inside
    return window, truth


def _misregistration(window: np.ndarray, voxels: float, rng: np.random.Generator, inside: np.ndarray) -> Planted:
    frames = math.ceil(len(window) / 3)
    first = rng.integers(len(window) - frames + 1)
    plane = rng.choice(np.flatnonzero(inside.any((0, 1))))
    shift, axis = int(voxels) * int(rng.choice([-1, 1])), int(rng.integers(1, 3))
    chosen = window[first : first + frames, :, :, plane]  # a view: what is assigned to it stands in the window
    chosen[:] = np.roll(chosen, shift, axis) * inside[:, :, plane]
    truth = np.zeros(window.shape, dtype=bool)
    truth[first : first + frames, :, :, plane] = inside[:, :, plane]
    return window, truth


def _other_category(
    window: np.ndarray, share: float, rng: np.random.Generator, inside: np.ndarray, others: Sequence[np.ndarray]
) -> Planted:
    if not len(others):
        raise ValueError("wrong_category needs windows of other classes: give `others`.")
    first = len(window) - max(1, round(share * len(window)))
    window[first:] = others[rng.integers(len(others))][first:]
    truth = np.zeros(window.shape, dtype=bool)
    truth[first:] = inside
    return window, truth


_PLANTERS: dict[str, Callable[[np.ndarray, float, np.random.Generator, np.ndarray], Planted]] = {
    "drop_out": _drop_out,
    "blob": _blob,
    "spike": _spike,
    "misregistration": _misregistration,
}
