"""Refuse 4D scans that nothing can be made of, before anything is filled in or masked away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..errors import BadScan
from .bold_item import add_to_report, brain_voxels, plain_tensor, scan_name

__all__ = ["CheckBOLDd", "check_bold"]


def check_bold(image: torch.Tensor, mask: torch.Tensor, max_nan_fraction: float = 0.05) -> float:
    """Raise unless a 4D scan is finite nearly everywhere in its brain mask, and changes over time there.

    Args:
        image: (T, X, Y, Z).
        mask: (1, X, Y, Z), not 0 in the brain. What lies outside does not count.
        max_nan_fraction: how many of the brain's voxels, times frames, may be NaN or infinite.

    Returns:
        The fraction that is.

    Raises:
        BadScan: naming the file and what is wrong with it.
    """
    name, shape = scan_name(image), tuple(image.shape)
    if len(shape) != 4 or shape[0] < 2 or min(shape) == 0:
        raise BadScan(f"{name}: a 4D scan of at least 2 frames is wanted, this one has (T, X, Y, Z) = {shape}.")
    brain = brain_voxels(mask, image).numpy()
    missing, changes = _frame_by_frame(plain_tensor(image).numpy(), brain)
    if missing.max() == np.count_nonzero(brain):
        raise BadScan(f"{name}: frame {missing.argmax()} of 0-{shape[0] - 1} has no finite voxel in the brain, remove it.")
    fraction = float(missing.sum() / (len(missing) * np.count_nonzero(brain)))
    if fraction > max_nan_fraction:
        raise BadScan(
            f"{name}: {100 * fraction:.3g} % of the brain's voxels are NaN or infinite, at most {100 * max_nan_fraction:g} % "
            "may be: is it the mask of this scan?"
        )
    if not changes:
        raise BadScan(f"{name}: no voxel of the brain changes over time.")
    return fraction


def _frame_by_frame(frames: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return each frame's number of missing brain voxels, and whether a voxel ever differs from its first finite value."""
    first = np.full(brain.shape, np.nan, dtype=frames.dtype if frames.dtype.kind == "f" else np.float64)
    missing, changes = np.zeros(len(frames), dtype=int), False
    for t, frame in enumerate(frames):
        finite = np.isfinite(frame) & brain
        missing[t] = np.count_nonzero(brain & ~finite)
        if not changes:
            np.copyto(first, frame, where=finite & np.isnan(first))
            changes = bool((finite & (frame != first)).any())
    return missing, changes


class CheckBOLDd(MapTransform):
    """Dictionary version of :py:func:`check_bold`; passes the scan on unchanged and puts ``nan_fraction`` into the report.

    Args:
        keys: images to check, usually one: the report is about the last.
        mask_key: the brain mask (1, X, Y, Z) of all of them.
        max_nan_fraction: how many of the brain's voxels, times frames, may be NaN or infinite.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_key: str = "mask",
        max_nan_fraction: float = 0.05,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= max_nan_fraction < 1:
            raise ValueError(f"max_nan_fraction is {max_nan_fraction:g}; it is a fraction, 0.05 means 5 %.")
        self.mask_key, self.max_nan_fraction = mask_key, max_nan_fraction

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d = add_to_report(d, nan_fraction=check_bold(d[key], d[self.mask_key], self.max_nan_fraction))
        return d
