"""Runs of several repetition times on one: frames of a window then mean the same time in every study.

The first frame stays at 0 s, which the events' onsets count from.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy.interpolate import make_interp_spline
from scipy.signal import butter, sosfiltfilt

from ..errors import BadScan
from .bold_item import empty_image, plain_tensor, scan_name

__all__ = ["ResampleTimed", "resample_time"]

BLOCK = 1 << 20  # voxel-frames at once, 8 MB in float64
ORDER = 5  # of the Butterworth filter, as in nilearn
FEWEST = 19  # frames: scipy's sosfiltfilt extends a series by 18 for a low-pass of this order
SAME = 1e-4  # relative difference of two times that are one: headers hold float32, tables are rounded


def resample_time(image: torch.Tensor, old: float, new: float) -> torch.Tensor:
    """Resample every voxel's series by a cubic spline, after a low-pass where the new frames are fewer.

    The low-pass (Butterworth, forwards and backwards) passes half of the highest frequency that the new frames show, so that
    what is faster does not fold back. A constant voxel keeps its value, one that is 0 stays exactly 0.

    Args:
        image: (T, X, Y, Z).
        old: its repetition time, seconds.
        new: wanted, seconds.

    Returns:
        (floor((T - 1) · old / new) + 1, X, Y, Z), float32: the frames at 0, new, 2 · new, … within the run.

    Raises:
        BadScan: if the run is too short, or a voxel is NaN or infinite in some frame; names the file.
    """
    series = plain_tensor(image).float().flatten(1)
    operator = torch.from_numpy(_operator(scan_name(image), len(series), old, new))
    result = empty_image((len(operator), series.shape[1]))
    width = max(1, BLOCK // len(series))
    for block, resampled in zip(series.split(width, dim=1), result.split(width, dim=1), strict=True):
        resampled.copy_(operator @ block.double())
        if not bool(torch.isfinite(resampled).all()):
            raise BadScan(f"{scan_name(image)}: some voxels are NaN or infinite, which resampling would spread: inpaint first.")
    return convert_to_dst_type(result.view(-1, *image.shape[1:]), image, dtype=torch.float32)[0]


def _operator(name: str, frames: int, old: float, new: float) -> np.ndarray:
    """Return the matrix (new frames, frames) that filters and interpolates a series: both are linear in it."""
    fewest = FEWEST if new > old else 4
    if frames < fewest:
        raise BadScan(
            f"{name}: {frames} frames are too few to be resampled from {old:g} to {new:g} s, {fewest} are needed: leave the "
            "run out, or prepare the study at its own repetition time."
        )
    impulses = np.eye(frames)
    if new > old:
        impulses = sosfiltfilt(butter(ORDER, 0.5 / new, fs=1 / old, output="sos"), impulses, axis=0)
    last = math.floor((frames - 1) * old / new + SAME)  # a last frame that falls on the run's last one is one
    return make_interp_spline(np.arange(frames) * old, impulses, k=3)(np.arange(last + 1) * new)


class ResampleTimed(MapTransform):
    """Dictionary version of :py:func:`resample_time`; reads and writes ``image.meta["repetition_time"]``.

    It belongs before whatever counts frames. A run that has the wanted repetition time already is not touched.

    Args:
        keys: images (T, X, Y, Z).
        repetition_time: wanted, seconds.

    Raises:
        BadScan: if a run does not tell its repetition time.
    """

    def __init__(self, keys: KeysCollection, repetition_time: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 < repetition_time < math.inf:
            raise ValueError(f"repetition_time is in seconds and above 0, not {repetition_time}.")
        self.repetition_time = repetition_time

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            time = getattr(d[key], "meta", {}).get("repetition_time")
            if not time:
                raise BadScan(
                    f"{scan_name(d[key])}: the time between two frames is not known, so it cannot be resampled: put "
                    "RepetitionTime into the BIDS json, or give --repetition_time."
                )
            if not math.isclose(time, self.repetition_time, rel_tol=SAME):
                d[key] = resample_time(d[key], time, self.repetition_time)
                d[key].meta["repetition_time"] = self.repetition_time
        return d
