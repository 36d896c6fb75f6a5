"""What preparation does to a 4D scan: missing voxels are filled, every voxel's series is standardized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from custom.transforms import inpaint_nan, temporal_zscore

from .load import Shape, bold
from .row import Row, Ways

__all__ = ["ROWS"]

HOLE = 6  # voxels per side at most: as deep as the kernel of sigma 1 reaches


def inpaint(_: Path, shape: Shape, missing: float, holes: str) -> Ways:
    """Normalised convolution; holes that stay, in cubes or scattered, or that change from frame to frame."""
    rng, scan = np.random.default_rng(1), bold(shape)
    lost = _cubes(shape[1:], missing) if holes == "cubes" else rng.random(shape if holes == "changing" else shape[1:]) < missing
    scan[np.broadcast_to(lost, shape)] = np.nan
    image = torch.from_numpy(scan)
    return Ways(lambda: _convolve(scan), lambda: inpaint_nan(image)[0])


def _cubes(grid: tuple[int, ...], share: float) -> np.ndarray:
    """Cubes of missing voxels (X, Y, Z), as a dropped-out region leaves them."""
    rng, missing, side = np.random.default_rng(1), np.zeros(grid, dtype=bool), min(HOLE, min(grid) // 2)
    while missing.mean() < share:
        corner = [rng.integers(0, extent - side) for extent in grid]
        missing[tuple(slice(c, c + side) for c in corner)] = True
    return missing


def _convolve(scan: np.ndarray) -> np.ndarray:
    """Fill a scan volume by volume, in float64."""
    filled = np.empty(scan.shape)
    for frame, result in zip(scan, filled, strict=True):
        measured = np.isfinite(frame)
        values = gaussian_filter(np.where(measured, frame, 0).astype(np.float64), 1.0, mode="constant")
        weights = gaussian_filter(measured.astype(np.float64), 1.0, mode="constant")
        result[:] = np.where(measured, frame, values / weights)
    return filled


def zscore(_: Path, shape: Shape) -> Ways:
    """Every voxel's series to mean 0 and standard deviation 1."""
    scan = bold(shape)
    image = torch.from_numpy(scan)

    def plain() -> np.ndarray:
        exact = scan.astype(np.float64)
        return (exact - exact.mean(0)) / exact.std(0)

    return Ways(plain, lambda: temporal_zscore(image))


SCAN = (100, 64, 64, 36)
ROWS = (
    *(
        Row(
            "inpaint",
            "{shape}, {missing:.0%} missing, {holes}",
            "SciPy volume by volume, float64",
            inpaint,
            {"shape": SCAN, "missing": 0.04, "holes": holes},
            1e-6,
        )
        for holes in ("cubes", "scattered", "changing")
    ),
    Row("z-score", "{shape}", "NumPy, float64", zscore, {"shape": SCAN}, 1e-5),
)
