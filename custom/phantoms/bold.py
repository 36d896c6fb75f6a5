"""Synthetic BOLD whose noise is like that of real runs: temporal SNR 45-140, AR(1) 0.1-0.45, drift 13-29 % of the variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from .artefacts import smooth_field

__all__ = ["Noise", "ar1", "bold_noise", "brain_mask", "drift", "parcels"]


@dataclass(frozen=True)
class Noise:
    """How a scanner's noise looks.

    Args:
        tsnr: temporal mean over temporal standard deviation of a voxel.
        autocorrelation: of the thermal noise, between neighbouring frames.
        smoothness: standard deviations in voxels, along X, Y and Z, of the Gaussian that correlates the thermal noise in space.
        drift: share of the temporal variance that slow drift makes up.
        physiology: share that one component common to the whole brain makes up.
    """

    tsnr: float
    autocorrelation: float
    smoothness: tuple[float, float, float]
    drift: float
    physiology: float


def brain_mask(shape: Sequence[int]) -> np.ndarray:
    """Return an ellipsoid that fills nine tenths of a grid along every axis; bool array of ``shape``."""
    axes = [np.abs(np.linspace(-1, 1, n)) / 0.9 for n in shape]
    return sum(a.reshape([-1 if i == k else 1 for i in range(len(shape))]) ** 2 for k, a in enumerate(axes)) <= 1


def parcels(mask: np.ndarray, n_regions: int, seed: int = 0) -> np.ndarray:
    """Divide a mask into compact regions by Lloyd's algorithm; int array, -1 outside. The same seed gives the same regions."""
    voxels = np.argwhere(mask).astype(float)
    centres = voxels[np.random.default_rng(seed).choice(len(voxels), n_regions, replace=False)]
    for _ in range(10):
        nearest = ((voxels[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.stack([voxels[nearest == r].mean(0) for r in range(n_regions)])
    regions = np.full(mask.shape, -1)
    regions[mask] = nearest
    return regions


def ar1(rng: np.random.Generator, n_frames: int, shape: Sequence[int], coefficient: float) -> np.ndarray:
    """Draw stationary AR(1) series of unit variance; float32 array (n_frames, *shape)."""
    white = rng.normal(size=(n_frames, *shape)).astype(np.float32)
    white[1:] *= np.sqrt(1 - coefficient**2)
    return lfilter([1.0], [1.0, -coefficient], white, axis=0).astype(np.float32)


def drift(rng: np.random.Generator, n_frames: int, shape: Sequence[int], order: int = 3) -> np.ndarray:
    """Draw slow cosines in time with smooth weights in space, of unit variance over time in the mean; (n_frames, *shape)."""
    waves = np.cos(np.pi * np.outer(np.arange(1, order + 1), (np.arange(n_frames) + 0.5) / n_frames)).astype(np.float32)
    weights = np.stack([smooth_field(rng, shape) / (k + 1) for k in range(order)])
    field = np.einsum("kt,kxyz->txyz", waves, weights)
    return field / field.std()


def bold_noise(rng: np.random.Generator, n_frames: int, shape: Sequence[int], noise: Noise) -> np.ndarray:
    """Draw everything in a voxel's series that is no signal, of variance 1; float32 array (n_frames, *shape)."""
    thermal = ar1(rng, n_frames, shape, noise.autocorrelation)
    thermal = gaussian_filter(thermal, (0, *noise.smoothness), mode="wrap")
    thermal /= thermal.std()
    common = ar1(rng, n_frames, (1,) * len(shape), 0.3) * (1 + 0.3 * smooth_field(rng, shape))
    rest = 1 - noise.drift - noise.physiology
    return (
        np.sqrt(noise.drift) * drift(rng, n_frames, shape)
        + np.sqrt(noise.physiology) * common / common.std()
        + np.sqrt(rest) * thermal
    ).astype(np.float32)
