"""Every voxel's time series to mean 0 and standard deviation 1.

A constant voxel becomes exactly 0, not noise that was blown up. Constant means: the standard deviation is at most
``CONSTANT`` times the absolute mean, eight units in the last place of float32, which is what interpolating equal values
leaves; real BOLD varies by 1e-3 of its mean. No epsilon enters the division.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type

from ..errors import BadScan
from .bold_item import empty_image, plain_tensor, scan_name

__all__ = ["CONSTANT", "TemporalZScore", "TemporalZScored", "temporal_scale", "temporal_zscore"]

CONSTANT = 8 * torch.finfo(torch.float32).eps
BLOCK = 1 << 17  # voxel-frames at once: they stay in the processor's cache through all steps


def temporal_zscore(image: torch.Tensor) -> torch.Tensor:
    """Return the image (T, X, Y, Z) with every voxel's series at mean 0 and population standard deviation 1, float32.

    The input is not changed; beyond the result, memory is a few MB.

    Raises:
        BadScan: if a voxel is NaN or infinite in some frame, naming the file.
    """
    series = plain_tensor(image).float().flatten(1)
    result = empty_image(series.shape)
    width = max(1, BLOCK // len(series))
    for block, scaled in zip(series.split(width, dim=1), result.split(width, dim=1), strict=True):
        if not _standardize(block, scaled):
            raise BadScan(f"{scan_name(image)}: some voxels are NaN or infinite, their time series has no mean: inpaint first.")
    return convert_to_dst_type(result.view(image.shape), image, dtype=torch.float32)[0]


def _standardize(series: torch.Tensor, result: torch.Tensor) -> bool:
    """Write the standardized series (T, V) to ``result`` and return whether all of them are finite."""
    average = series.new_full((1, len(series)), 1 / len(series))  # as a matrix product twice as fast as mean(0)
    mean = average @ series
    torch.sub(series, mean, out=result)
    result -= average @ result  # what rounding left of the mean: up to 1e-4 of the standard deviation at 1e4 +- 50
    std = (average @ result.square()).sqrt()
    result *= torch.where(std > CONSTANT * mean.abs(), 1 / std, 0.0)
    return bool(torch.isfinite(std).all())


def temporal_scale(image: torch.Tensor) -> torch.Tensor:
    """Return mean and population standard deviation over time (2, X, Y, Z) of (T, X, Y, Z), float32.

    Of a voxel that :py:func:`temporal_zscore` takes for constant the standard deviation is exactly 0.
    """
    series = plain_tensor(image).float()
    mean = series.mean(0)
    mean += (series - mean).mean(0)  # what rounding left of it
    std = (series - mean).square().mean(0).sqrt()
    scale = torch.stack([mean, torch.where(std > CONSTANT * mean.abs(), std, 0.0)])
    return convert_to_dst_type(scale, image, dtype=torch.float32)[0]


class TemporalZScore(Transform):
    """Standardize every voxel over time, :py:func:`temporal_zscore`."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return temporal_zscore(image)


class TemporalZScored(MapTransform):
    """Dictionary version of :py:class:`TemporalZScore`.

    Args:
        keys: images (T, X, Y, Z).
        scale_key: where to put what the way back needs, mean and standard deviation (2, X, Y, Z) of every voxel; None forgets
            them.

    Raises:
        ValueError: for a ``scale_key`` of several images.
    """

    def __init__(self, keys: KeysCollection, scale_key: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if scale_key is not None and len(self.keys) > 1:
            raise ValueError(f"one scale_key, {scale_key!r}, cannot take the scales of {self.keys}.")
        self.scale_key = scale_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.scale_key is not None:
                d[self.scale_key] = temporal_scale(d[key])
            d[key] = temporal_zscore(d[key])
        return d
