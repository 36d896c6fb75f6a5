"""Remove drift and noise from every voxel's time series, by nilearn.

Only voxels that are not 0 in all frames are cleaned, so that what lies outside the brain stays exactly 0. A voxel of which
nothing but rounding remains (it was constant, or a straight line that was removed) becomes exactly 0, by the rule of
:py:mod:`.temporal_zscore`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from ..errors import BadScan
from .bold_item import plain_tensor, scan_name
from .temporal_zscore import CONSTANT

__all__ = ["CleanBOLDd", "clean_bold"]

BLOCK = 1 << 21  # voxel-frames at once, 16 MB in nilearn's float64
PADDING = 33  # frames by which scipy's sosfiltfilt extends a series for a band-pass of order 5, its longest


def clean_bold(
    image: torch.Tensor,
    detrend: bool = True,
    high_pass: float | None = None,
    low_pass: float | None = None,
    repetition_time: float | None = None,
    keep_mean: bool = False,
) -> torch.Tensor:
    """Detrend and filter every voxel's time series with ``nilearn.signal.clean``.

    Args:
        image: (T, X, Y, Z).
        detrend: subtract a straight line.
        high_pass: lowest frequency to keep, in Hz (Butterworth filter, forwards and backwards).
        low_pass: highest frequency to keep, in Hz.
        repetition_time: seconds from frame to frame, which the filter needs.
        keep_mean: put back the mean over time, which cleaning takes away.

    Returns:
        A cleaned copy, float32.

    Raises:
        BadScan: if a voxel is NaN or infinite, or if the filter lacks a repetition time or does not fit the scan; names the
            file and the remedy.
    """
    name, series = scan_name(image), plain_tensor(image).float().flatten(1)
    if high_pass is not None or low_pass is not None:
        _check_filter(name, len(series), low_pass, repetition_time)
    options = {"detrend": detrend, "high_pass": high_pass, "low_pass": low_pass, "t_r": repetition_time}
    result = torch.zeros_like(series, memory_format=torch.contiguous_format)
    brain = torch.nonzero((series != 0).any(0)).flatten()
    for voxels in brain.split(max(1, BLOCK // len(series))):
        block = series[:, voxels].double().numpy()
        if not np.isfinite(block).all():
            raise BadScan(f"{name}: some voxels are NaN or infinite, which a filter would spread: inpaint first.")
        result[:, voxels] = torch.from_numpy(_clean(block, options) + keep_mean * block.mean(0)).float()
    return convert_to_dst_type(result.view(image.shape), image, dtype=torch.float32)[0]


def _check_filter(name: str, frames: int, low_pass: float | None, repetition_time: float | None) -> None:
    """Refuse what nilearn would bend until it fits, or what scipy would refuse without naming the scan."""
    if not repetition_time:
        raise BadScan(
            f"{name}: the filter needs the time between two frames, which the file does not tell: give --repetition_time."
        )
    if low_pass is not None and low_pass >= 0.5 / repetition_time:
        raise BadScan(
            f"{name}: frames every {repetition_time:g} s show frequencies below {0.5 / repetition_time:g} Hz only, --low_pass "
            f"{low_pass:g} is beyond them."
        )
    if frames <= PADDING:
        raise BadScan(f"{name}: {frames} frames are too few for the filter, it wants more than {PADDING}.")


def _clean(series: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Clean (T, V), and make exactly 0 what has nothing but rounding left."""
    from nilearn.signal import clean  # a second to import, which only preparation needs

    cleaned = clean(series, standardize=None, **options)
    cleaned[:, cleaned.std(0) <= CONSTANT * np.abs(series.mean(0))] = 0
    return cleaned


class CleanBOLDd(MapTransform):
    """Dictionary version of :py:func:`clean_bold`; ``image.meta["repetition_time"]`` tells the time between frames.

    Args:
        keys: images (T, X, Y, Z) to clean.
        detrend: subtract a straight line from every voxel's series.
        high_pass: lowest frequency to keep, in Hz.
        low_pass: highest frequency to keep, in Hz.
        keep_mean: put back the mean over time, for what follows to know it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        detrend: bool = True,
        high_pass: float | None = None,
        low_pass: float | None = None,
        keep_mean: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if any(f is not None and f <= 0 for f in (high_pass, low_pass)):
            raise ValueError(f"frequencies must be positive, not high_pass {high_pass} and low_pass {low_pass}.")
        if high_pass is not None and low_pass is not None and high_pass >= low_pass:
            raise ValueError(f"high_pass {high_pass} must be below low_pass {low_pass}: both say what is kept, in Hz.")
        self.detrend, self.high_pass, self.low_pass, self.keep_mean = detrend, high_pass, low_pass, keep_mean

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            time = getattr(d[key], "meta", {}).get("repetition_time")
            d[key] = clean_bold(d[key], self.detrend, self.high_pass, self.low_pass, time, self.keep_mean)
        return d
