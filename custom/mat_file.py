"""MATLAB v7.3 files of a BOLD study: HDF5 with a group ``fMRIdata`` of ``orig`` (4D), ``mask`` (3D) and ``dx`` (1×1).

Whatever is wrong with a file becomes a :py:class:`BadScan` that names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from .errors import DAMAGED_ARCHIVE, BadScan, reading

__all__ = ["GROUP", "dataset", "fmri_data"]

GROUP = "fMRIdata"
DEFLATE = 1032  # HDF5's compression makes nothing smaller than by this factor


@contextmanager
def fmri_data(path: str) -> Iterator[h5py.Group]:
    """Open the group ``fMRIdata`` of a file for reading; only reading belongs into the block.

    Raises:
        FileNotFoundError: if there is no such file.
        BadScan: if it is no HDF5, has no such group, or turns out damaged while it is read.
    """
    with reading(path, "not saved with -v7.3", "copy or save it again", DAMAGED_ARCHIVE), h5py.File(path, "r") as file:
        group = file.get(GROUP)
        if not isinstance(group, h5py.Group):
            raise BadScan(f"{path}: has no group '{GROUP}', only {sorted(file)}: save the struct as {GROUP}, with -v7.3.")
        yield group


def dataset(group: h5py.Group, name: str) -> Any:
    """Return a numeric dataset of the group.

    Raises:
        BadScan: if it is absent, holds no real numbers, or was not written to its end.
    """
    found = group.get(name)
    path = group.file.filename
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf":
        raise BadScan(f"{path}: {GROUP} has no numeric array '{name}', only {sorted(group)}.")
    held = _bytes_held(found)
    if found.nbytes > held:
        raise BadScan(
            f"{path}: damaged, or not written to its end. '{name}' claims {found.nbytes} bytes, {held} are there at most, and "
            "HDF5 would fill up with zeros: copy or save it again."
        )
    return found


def _bytes_held(found: h5py.Dataset) -> int:
    """Return how many bytes of an array were written: a chunk that was not is no part of the file."""
    stored = found.id.get_storage_size()
    if not found.chunks:
        return stored
    in_chunks = found.id.get_num_chunks() * math.prod(found.chunks) * found.dtype.itemsize
    return min(in_chunks, DEFLATE * min(stored, Path(found.file.filename).stat().st_size))
