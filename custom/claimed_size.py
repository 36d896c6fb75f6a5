"""Refuse a scan whose header claims what its file does not hold, or a head of a kilometre, before memory is asked for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from .errors import BadScan
from .inflate import bytes_held

__all__ = ["refuse_claims"]

LARGEST = 1000.0  # mm, of a field of view


def refuse_claims(image: nib.filebasedimages.FileBasedImage, path: str | Path) -> None:
    """Raise BadScan if the voxels that nibabel is about to read are no real numbers, or fit into no such file or scanner.

    A flipped bit in the size of a voxel makes a field of view that resampling would fill with 10^12 voxels.

    Raises:
        BadScan: in these cases; of a compressed file that has to be counted also what :py:func:`.bytes_held` raises.
    """
    if not isinstance(image, nib.spatialimages.SpatialImage) or not isinstance(image.dataobj, ArrayProxy):
        raise BadScan(f"{path}: holds a {type(image).__name__}, an image of voxels is wanted: convert it to NIfTI.")
    if image.get_data_dtype().kind not in "biuf":
        raise BadScan(f"{path}: holds {image.get_data_dtype()}, real numbers are wanted: convert it.")
    file, shape = image.file_map["image"].filename or path, [int(n) for n in image.shape]
    _refuse_size(file, shape, image.get_data_dtype().itemsize, int(image.dataobj.offset))
    _refuse_extent(path, shape, np.asarray(image.affine, dtype=np.float64))


def _refuse_size(path: str | Path, shape: Sequence[int], itemsize: int, offset: int) -> None:
    """Refuse more voxels, from a byte of the file on, than it holds."""
    if min(shape, default=0) < 0 or offset < 0:
        raise BadScan(f"{path}: damaged, its shape is {tuple(shape)} from byte {offset} on: copy or fetch it again.")
    claimed = offset + math.prod(shape) * itemsize
    held = bytes_held(path, claimed)
    if held < claimed:
        raise BadScan(f"{path}: damaged. Expected {claimed} bytes, got {held}: copy or fetch it again.")


def _refuse_extent(path: str | Path, shape: Sequence[int], affine: np.ndarray) -> None:
    extent = np.linalg.norm(affine[:3, :3], axis=0) * ([*shape, 1, 1, 1])[:3]
    if not (np.isfinite(affine).all() and extent.max() <= LARGEST):
        raise BadScan(
            f"{path}: its field of view is {' x '.join(f'{mm:g}' for mm in extent)} mm, more than {LARGEST:g}: is the header "
            "damaged? Copy or fetch it again."
        )
