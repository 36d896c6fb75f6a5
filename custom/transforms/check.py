"""Refuse scans that would poison what follows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from ..errors import BadScan

__all__ = ["CheckScand", "check_scan"]


def check_scan(image: torch.Tensor, spatial_dims: int, name: str) -> None:
    """Raise unless the image is one channel of ``spatial_dims`` dimensions, finite everywhere and not constant.

    Args:
        image: (C, *spatial).
        spatial_dims: number of spatial dimensions wanted.
        name: of the file, for the message.

    Raises:
        BadScan: naming the file and what is wrong with it.
    """
    shape = tuple(image.shape)
    if len(shape) != spatial_dims + 1 or shape[0] != 1:
        raise BadScan(f"{name}: a single {spatial_dims}D image is wanted, this one has (channels, *space) = {shape}.")
    if min(shape) == 0:
        raise BadScan(f"{name}: the image is empty, its shape is {shape}.")
    bad = image.numel() - int(torch.isfinite(image).sum())
    if bad:
        raise BadScan(f"{name}: {bad} of {image.numel()} voxels are NaN or infinite.")
    if image.min() == image.max():
        raise BadScan(f"{name}: every voxel is {image.flatten()[0].item():g}.")


class CheckScand(MapTransform):
    """Dictionary version of :py:func:`check_scan`; passes the data on unchanged."""

    def __init__(self, keys: KeysCollection, spatial_dims: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            name = getattr(data[key], "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, "image")
            check_scan(torch.as_tensor(data[key]), self.spatial_dims, str(name))
        return dict(data)
