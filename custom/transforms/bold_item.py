"""What the transforms of 4D scans share: the scan's name, its brain mask, and its report.

A 4D scan is (T, X, Y, Z): time is the channel. ``data["report"]`` holds plain numbers about the scan, one dictionary for all
transforms of a chain; it is replaced, never changed, since a cache may hold the item it came with.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import ImageMetaKey, convert_to_tensor

from ..errors import BadScan

__all__ = ["add_to_report", "brain_voxels", "empty_image", "plain_tensor", "scan_name"]


def scan_name(image: Any) -> str:
    """Return the path the image came from, or ``image`` where nothing is known of it."""
    return str(getattr(image, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, "image"))


def plain_tensor(image: Any) -> torch.Tensor:
    """Return the voxels without meta information, not copied: MetaTensor carries its own along at every step."""
    return convert_to_tensor(image, track_meta=False)


def empty_image(shape: Sequence[int]) -> torch.Tensor:
    """Return uninitialised float32; numpy asks for huge pages, without which the first touch takes longer than the work."""
    return torch.from_numpy(np.empty(shape, dtype=np.float32))


def add_to_report(data: Mapping[Hashable, Any], **numbers: float) -> dict[Hashable, Any]:
    """Return a copy of the item whose report has these numbers too."""
    return {**data, "report": {**data.get("report", {}), **numbers}}


def brain_voxels(mask: Any, image: Any) -> torch.Tensor:
    """Return the mask (1, X, Y, Z) of an image (T, X, Y, Z) as (X, Y, Z), bool.

    Raises:
        BadScan: if the mask has another shape than a frame of the image, or no voxel.
    """
    shape, wanted = tuple(mask.shape), (1, *image.shape[1:])
    if shape != wanted:
        raise BadScan(f"{scan_name(image)}: its mask {scan_name(mask)} is {shape} voxels large, a frame is {wanted}.")
    brain = plain_tensor(mask)[0] != 0
    if not brain.any():
        raise BadScan(f"{scan_name(image)}: its mask {scan_name(mask)} is empty.")
    return brain
