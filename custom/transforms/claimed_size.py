"""Refuse a scan whose header claims what its file cannot hold, or a head of a kilometre, before memory is asked for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import BadScan

__all__ = ["refuse_claims"]

DEFLATE = 1032  # gzip and HDF5's filter make nothing smaller than by this factor
LARGEST = 1000.0  # mm, of a field of view


def refuse_size(path: str | Path, shape: Sequence[int], itemsize: int, offset: int, compressed: bool) -> None:
    """Raise BadScan if a file is too small for the voxels that its header claims, which begin at a byte of it."""
    size, claimed = Path(path).stat().st_size, math.prod(shape) * itemsize
    if min(shape, default=0) < 0 or offset < 0:
        raise BadScan(f"{path}: damaged, its shape is {tuple(shape)} from byte {offset} on: copy or fetch it again.")
    if offset + claimed > size * (DEFLATE if compressed else 1):
        held = f"{size} compressed bytes" if compressed else f"{max(0, size - offset)} bytes"
        raise BadScan(f"{path}: damaged. Expected {claimed} bytes, got {held}: copy or fetch it again.")


def refuse_claims(image: nib.spatialimages.SpatialImage, path: str | Path) -> None:
    """Raise BadScan if the voxels that nibabel is about to read do not fit into the file, or into a scanner.

    A flipped bit in the size of a voxel makes a field of view that resampling would fill with 10^12 voxels.
    """
    file = image.file_map.get("image", image.file_map.get("mgh")).filename or str(path)
    shape = [int(n) for n in image.shape]
    compressed = str(file).endswith((".gz", ".bz2", ".mgz", ".zst"))
    refuse_size(file, shape, image.get_data_dtype().itemsize, int(image.dataobj.offset), compressed)
    affine = np.asarray(image.affine, dtype=np.float64)
    extent = np.linalg.norm(affine[:3, :3], axis=0) * (shape + [1] * 3)[:3]
    if not (np.isfinite(affine).all() and extent.max() <= LARGEST):
        raise BadScan(
            f"{path}: its field of view is {' x '.join(f'{mm:g}' for mm in extent)} mm, more than {LARGEST:g}: is the header "
            "damaged? Copy or fetch it again."
        )
