"""Intensity scaling by the brain's own percentiles."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from ..errors import BadScan

__all__ = ["ScaleBrainPercentiles", "ScaleBrainPercentilesd"]


class ScaleBrainPercentiles:
    """Clip at two percentiles of the brain and scale to [0, 1]; what is not brain becomes 0.

    MONAI's ``ScaleIntensityRangePercentiles`` counts the air in, half of the volume, so that its lower percentile is always
    air and its upper one depends on how tightly the scan is cropped. The scan is to be skull-stripped: the brain is what is
    brighter than ``background``.

    Args:
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        background: intensity of what is not brain; 0 in masked scans, a little more where JPEG has blurred the mask's edge.
    """

    def __init__(self, lower: float = 1.0, upper: float = 99.0, background: float = 0.0) -> None:
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"percentiles must satisfy 0 <= lower < upper <= 100, not {lower} and {upper}.")
        self.lower, self.upper, self.background = lower, upper, background

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return a scaled copy of the image, (C, *spatial), float32.

        Raises:
            BadScan: if nothing is brighter than the background or the brain has one intensity only.
        """
        brain = image > self.background
        values = convert_to_numpy(image[brain])  # torch.quantile refuses more than 16 million values
        if values.size == 0:
            raise BadScan(f"no voxel is brighter than {self.background:g}: is the scan empty or inverted?")
        low, high = np.percentile(values, [self.lower, self.upper]).tolist()
        if low == high:
            raise BadScan(f"the brain has one intensity only, {low:g}.")
        scaled = ((image.float() - low) / (high - low)).clamp(0, 1)
        return torch.where(brain, scaled, torch.zeros_like(scaled))


class ScaleBrainPercentilesd(MapTransform):
    """Dictionary version of :py:class:`ScaleBrainPercentiles`."""

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 1.0,
        upper: float = 99.0,
        background: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = ScaleBrainPercentiles(lower, upper, background)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.scale(d[key])
        return d
