"""Smoothing in space by a Gaussian, by nilearn: frame by frame, so that nothing moves in time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from ..errors import BadScan
from .bold_item import plain_tensor, scan_name

__all__ = ["SmoothBOLDd", "smooth_bold"]


def smooth_bold(image: MetaTensor, fwhm: float) -> torch.Tensor:
    """Smooth every frame with ``nilearn.image.smooth_img``.

    Voxels that are 0 in all frames (outside the brain) stay exactly 0; at the brain's rim what lies outside counts as 0, as in
    nilearn's maskers.

    Args:
        image: (T, X, Y, Z), whose affine tells the size of a voxel.
        fwhm: full width of the Gaussian at half of its height, in mm.

    Returns:
        A smoothed copy, float32.

    Raises:
        BadScan: if a voxel is NaN or infinite in some frame, which nilearn would make 0; names the file.
    """
    from nilearn.image import smooth_img  # a second to import, which only preparation needs

    voxels = plain_tensor(image).float()
    affine = to_affine_nd(3, np.asarray(image.affine, dtype=np.float64))
    brain = (voxels != 0).any(0)
    smoothed = torch.zeros_like(voxels, memory_format=torch.contiguous_format)
    for frame, result in zip(voxels, smoothed, strict=True):
        if not bool(torch.isfinite(frame).all()):
            raise BadScan(f"{scan_name(image)}: some voxels are NaN or infinite, which smoothing would spread: inpaint first.")
        whole = torch.from_numpy(smooth_img(nib.Nifti1Image(frame.numpy(), affine), fwhm).get_fdata(dtype=np.float32))
        torch.where(brain, whole, smoothed.new_zeros(()), out=result)
    return convert_to_dst_type(smoothed, image, dtype=torch.float32)[0]


class SmoothBOLDd(MapTransform):
    """Dictionary version of :py:func:`smooth_bold`.

    Args:
        keys: images (T, X, Y, Z) with an affine.
        fwhm: in mm; None or 0 leaves the images as they are.
    """

    def __init__(self, keys: KeysCollection, fwhm: float | None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if fwhm is not None and not 0 <= fwhm < np.inf:
            raise ValueError(f"fwhm is a width in mm, 0 for no smoothing, not {fwhm}.")
        self.fwhm = fwhm or 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d) if self.fwhm else ():
            d[key] = smooth_bold(d[key], self.fwhm)
        return d
