"""What an explanation of a 4D scan is drawn on: the scan itself, as one volume on its own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from ..transforms.event_window import SplitEventsd

__all__ = ["background", "prepared", "run_and_windows"]


def prepared(scan: Mapping[str, Any], prepare: Compose) -> tuple[Mapping[Any, Any], MetaTensor]:
    """Return the item that the transforms make of a scan, and its background on the raw grid; the scan is read once.

    Args:
        scan: ``{"image": raw file, …}``.
        prepare: its first transform loads image (T, X, Y, Z) and mask (1, X, Y, Z).
    """
    loaded = prepare(dict(scan), end=1)
    volume = background(loaded["image"], loaded["mask"])
    return prepare(loaded, start=1), volume


def run_and_windows(scan_transforms: Sequence[Callable]) -> tuple[Compose, SplitEventsd]:
    """Return the transforms of a run, which can be inverted, and the last one, which cuts the run into windows.

    Raises:
        ValueError: if the last transform does something else.
    """
    *of_run, last = scan_transforms
    if not isinstance(last, SplitEventsd):
        raise ValueError(f"the last transform must split a run into windows: SplitEventsd, not {type(last).__name__}.")
    return Compose(of_run), last


def background(image: MetaTensor, mask: torch.Tensor) -> MetaTensor:
    """Return the temporal mean of a raw scan in its mask, 0 outside; the standard deviation of a scan without a baseline.

    Args:
        image: (T, X, Y, Z), not finite where it was not measured.
        mask: (1, X, Y, Z), above 0 inside.

    Returns:
        (1, X, Y, Z) on the scan's grid.
    """
    inside = np.asarray(mask[0]) > 0
    voxels = image.as_tensor().numpy()[:, inside]
    measured = np.isfinite(voxels)

    def mean(values: np.ndarray) -> np.ndarray:  # 0 for a voxel that was never measured
        return np.where(measured, values, 0).sum(0, dtype=np.float64) / np.maximum(measured.sum(0), 1)

    level = mean(voxels)
    if (level <= 0).mean() > 0.25:  # detrended
        level = np.sqrt(mean((voxels - level) ** 2))
    volume = torch.zeros(1, *image.shape[1:])
    volume[0, torch.from_numpy(inside)] = torch.from_numpy(level).float()
    return MetaTensor(volume, affine=image.affine)
