"""Make everything outside the brain exactly 0, NaN too: ``NaN * 0`` is NaN."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from .bold_item import brain_voxels, plain_tensor

__all__ = ["MaskBOLDd", "mask_bold"]


def mask_bold(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a copy of the image (T, X, Y, Z) that is exactly 0 where the mask (1, X, Y, Z) is 0.

    Raises:
        BadScan: if the mask has another shape than a frame, or no voxel.
    """
    brain, voxels = brain_voxels(mask, image), plain_tensor(image)
    masked = torch.zeros_like(voxels, memory_format=torch.contiguous_format)
    for frame, result in zip(voxels, masked, strict=True):
        torch.where(brain, frame, masked.new_zeros(()), out=result)
    return convert_to_dst_type(masked, image)[0]


class MaskBOLDd(MapTransform):
    """Dictionary version of :py:func:`mask_bold`; drops the mask, which the image's zeros tell from here on."""

    def __init__(self, keys: KeysCollection, mask_key: str = "mask", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        mask = d.pop(self.mask_key)
        for key in self.key_iterator(d):
            d[key] = mask_bold(d[key], mask)
        return d
