"""Volumes to slices, and pictures to slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, SpatialCrop

__all__ = ["AxialSlicesd", "PictureToSliced", "slice_positions"]


def slice_positions(extent: int, num_slices: int, central: float) -> list[int]:
    """Return ``num_slices`` evenly spaced positions in the central fraction of an axis of ``extent`` voxels."""
    if not (0 < central <= 1 and 1 <= num_slices <= extent * central):
        raise ValueError(f"{num_slices} slices do not fit into the central {central:g} of {extent} voxels.")
    margin = extent * (1 - central) / 2
    # half upwards: NumPy rounds halves to even numbers, which would take one slice twice and leave out the next
    return np.floor(np.linspace(margin, extent - margin - 1, num_slices) + 0.5).astype(int).tolist()


class AxialSlicesd(MapTransform, InvertibleTransform):
    """Cut a (1, X, Y, Z) volume in RAS into axial slices (1, X, Y, 1): one dictionary each, in a list.

    The slices keep their place in space, and ``inverse`` puts one back into an otherwise empty volume. ``slice`` is the
    position along Z. Dictionaries in a list are what MONAI's ``Compose`` and ``list_data_collate`` take for several samples
    of one item.

    Args:
        keys: images to cut, all of one shape.
        num_slices: how many.
        central: fraction of the axis that they come from; the rest is neck and skull cap.
    """

    def __init__(
        self, keys: KeysCollection, num_slices: int = 20, central: float = 0.6, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_slices, self.central = num_slices, central
        self._crops: dict[int, SpatialCrop] = {}  # MONAI inverts a crop by the very object that made it

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> list[dict[Hashable, Any]]:
        extent = data[self.first_key(dict(data))].shape[-1]
        return [self._cut(data, z) for z in slice_positions(extent, self.num_slices, self.central)]

    def _cut(self, data: Mapping[Hashable, torch.Tensor], position: int) -> dict[Hashable, Any]:
        cut = SpatialCrop(roi_slices=[slice(None), slice(None), slice(position, position + 1)])
        crop = self._crops.setdefault(position, cut)
        return {**data, **{key: crop(data[key]) for key in self.key_iterator(dict(data))}, "slice": position}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self._crops[data["slice"]].inverse(data[key]) for key in self.key_iterator(dict(data))}}


class PictureToSliced(MapTransform):
    """Make a picture (1, X, Y) with Y downwards a slice (1, X, Y, 1) with Y upwards and a 4×4 affine.

    A picture file knows no millimetres: the size of a pixel is given.
    """

    def __init__(self, keys: KeysCollection, pixel_size: float = 1.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pixel_size = pixel_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            upright = torch.as_tensor(d[key]).flip(-1).unsqueeze(-1)
            affine = torch.diag(torch.tensor([self.pixel_size] * 3 + [1.0], dtype=torch.float64))
            d[key] = MetaTensor(upright, affine=affine, meta=_file_name(d[key]))
        return d


def _file_name(image: torch.Tensor) -> dict[str, Any]:
    """Keep what names the file, drop the rest: it describes the picture's axes."""
    return {k: v for k, v in getattr(image, "meta", {}).items() if k == "filename_or_obj"}
