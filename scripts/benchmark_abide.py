"""The stages of the ABIDE bundle against the plain way: first that both compute the same, then how long they take.

A row of the table is a :py:class:`Comparison`; a stage that is not here yet is one more function that returns some, named in
``STAGES``.
"""

from __future__ import annotations

import math
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from benchmark_harmonized import combat_applications, training_steps
from monai.transforms import LoadImage
from scipy.ndimage import gaussian_filter
from timing import alternating

from custom.transforms import MapBOLDd, RandTemporalWindow, inpaint_nan, temporal_zscore

SHAPE = (200, 64, 64, 36)  # T, X, Y, Z: 59 MB as int16
HOLE = 6  # voxels per side: as deep as the kernel of sigma 1 reaches
MISSING = 0.04


@dataclass(frozen=True)
class Comparison:
    """Two ways to one result: the plain one, in float64 where it computes, and this project's."""

    name: str
    plain: Callable[[], np.ndarray | torch.Tensor]
    ours: Callable[[], np.ndarray | torch.Tensor]
    tolerance: float
    target: float


def abide(repeats: int = 5, only: str = "") -> None:
    """Time every stage of the ABIDE bundle against the plain way of doing it, and print the ratios.

    Args:
        repeats: turns of each way.
        only: a part of the names of the rows to run; all by default.
    """
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, scan {SHAPE} (T, X, Y, Z)")
    print(f"{'':<44}{'plain':>10}{'ours':>10}{'ratio':>8}{'target':>8}{'error':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            for row in stage(Path(folder)):
                if only in row.name:
                    _compare(row, repeats)


def _compare(row: Comparison, repeats: int) -> None:
    error = _difference(row.ours(), row.plain())
    if not error <= row.tolerance:
        raise ValueError(f"{row.name}: the two ways differ by {error:.1e} of the largest value, more than {row.tolerance:g}.")
    plain, ours = alternating(row.plain, row.ours, repeats)
    print(f"{row.name:<44}{1e3 * plain:>8.1f}ms{1e3 * ours:>8.1f}ms{plain / ours:>8.1f}{row.target:>8g}{error:>10.1e}")


def _difference(value: np.ndarray | torch.Tensor, truth: np.ndarray | torch.Tensor) -> float:
    """Largest difference relative to the largest value, NaN if there is one."""
    one, other = (np.asarray(v, dtype=np.float64) for v in (value, truth))
    return float(np.abs(one - other).max() / np.abs(other).max())


def _scan() -> np.ndarray:
    return (1000 + 50 * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)


def _cubes() -> np.ndarray:
    """Cubes of missing voxels (X, Y, Z), as a dropped-out region leaves them."""
    rng, missing = np.random.default_rng(1), np.zeros(SHAPE[1:], dtype=bool)
    while missing.mean() < MISSING:
        corner = [rng.integers(0, extent - HOLE) for extent in SHAPE[1:]]
        missing[tuple(slice(c, c + HOLE) for c in corner)] = True
    return missing


def inpainting(_: Path) -> Iterator[Comparison]:
    """Normalised convolution, scipy in float64 volume by volume; holes that stay, in cubes and scattered, and that change."""
    rng = np.random.default_rng(2)
    for name, missing, target in (
        ("cubes", _cubes(), 8),
        ("scattered", rng.random(SHAPE[1:]) < MISSING, 4),
        ("new in every frame", rng.random(SHAPE) < MISSING, 2),
    ):
        scan = _scan()
        scan[np.broadcast_to(missing, SHAPE)] = np.nan
        image = torch.from_numpy(scan)
        yield Comparison(
            f"inpainting, {MISSING:.0%} NaN, {name}",
            lambda scan=scan: _scipy_inpaint(scan),  # type: ignore[misc]
            lambda image=image: inpaint_nan(image)[0],  # type: ignore[misc]
            1e-6,
            target,
        )


def _scipy_inpaint(scan: np.ndarray) -> np.ndarray:
    filled = np.empty(scan.shape)
    for frame, result in zip(scan, filled, strict=True):
        measured = np.isfinite(frame)
        values = gaussian_filter(np.where(measured, frame, 0).astype(np.float64), 1.0, mode="constant")
        weights = gaussian_filter(measured.astype(np.float64), 1.0, mode="constant")
        result[:] = np.where(measured, frame, values / weights)
    return filled


def zscore(_: Path) -> Iterator[Comparison]:
    """Standardizing every voxel over time, numpy in float64."""
    scan = _scan()
    image = torch.from_numpy(scan)
    yield Comparison("z-score over time", lambda: _numpy_zscore(scan), lambda: temporal_zscore(image), 1e-5, 3)


def _numpy_zscore(scan: np.ndarray) -> np.ndarray:
    exact = scan.astype(np.float64)
    return (exact - exact.mean(0)) / exact.std(0)


def window(folder: Path) -> Iterator[Comparison]:
    """32 frames at random, MONAI's LoadImage of the compressed file."""
    image = nib.Nifti1Image(np.moveaxis(_scan(), 0, -1).astype(np.int16), np.eye(4))
    for name in ("scan.nii", "scan.nii.gz"):
        nib.save(image, folder / name)
    handle = MapBOLDd("image")({"image": folder / "scan.nii"})["image"]
    load, draw = LoadImage(image_only=True), RandTemporalWindow(32)

    def read_all() -> torch.Tensor:
        return load(folder / "scan.nii.gz")[..., draw.start : draw.start + 32].movedim(-1, 0)

    yield Comparison("random window of 32 frames, .nii.gz", read_all, lambda: draw(handle)[0], 0, 50)


def training_step(_: Path) -> Iterator[Comparison]:
    """Gradients of one step; the strided stem computes something else, so that its difference is no error."""
    plain, exact, strided = training_steps()
    yield Comparison("training step, exact rewrite", plain, exact, 1e-3, 3)
    yield Comparison("training step, strided stem", plain, strided, math.inf, 10)


def combat(_: Path) -> Iterator[Comparison]:
    """ComBat applied to a study, by neuroHarmonize and by the affine map."""
    library, ours = combat_applications()
    yield Comparison("ComBat apply, 2000 subjects, 512 features", library, ours, 1e-9, 8)


STAGES = (inpainting, zscore, window, training_step, combat)
