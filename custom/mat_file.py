"""MATLAB v7.3 files of a BOLD study: HDF5 with a group ``fMRIdata`` of ``orig`` (4D), ``mask`` (3D) and ``dx`` (1×1).

Whatever is wrong with a file becomes a :py:class:`BadScan` that names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from .errors import BadScan

__all__ = ["GROUP", "dataset", "fmri_data"]

GROUP = "fMRIdata"
DEFLATE = 1032  # HDF5's compression makes nothing smaller than by this factor
# what h5py makes of HDF5's errors: truncated or overwritten file, broken chunk, lost link, nonsensical header
DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError)


@contextmanager
def fmri_data(path: str) -> Iterator[h5py.Group]:
    """Open the group ``fMRIdata`` of a file for reading; only reading belongs into the block.

    Raises:
        FileNotFoundError: if there is no such file.
        BadScan: if it is no HDF5, has no such group, or turns out damaged while it is read.
    """
    try:
        with h5py.File(path, "r") as file:
            group = file.get(GROUP)
            if not isinstance(group, h5py.Group):
                raise BadScan(f"{path}: has no group '{GROUP}', only {sorted(file)}: save the struct as {GROUP}, with -v7.3.")
            yield group
    except (FileNotFoundError, BadScan):
        raise
    except DAMAGED as error:
        raise BadScan(f"{path}: damaged, or not saved with -v7.3 ({error}): copy or save it again.") from error


def dataset(group: h5py.Group, name: str) -> Any:
    """Return a numeric dataset of the group.

    Raises:
        BadScan: if it is absent or holds no real numbers.
    """
    found = group.get(name)
    path = group.file.filename
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf":
        raise BadScan(f"{path}: {GROUP} has no numeric array '{name}', only {sorted(group)}.")
    if found.nbytes > DEFLATE * Path(path).stat().st_size:
        raise BadScan(f"{path}: damaged. '{name}' claims {found.nbytes} bytes, which the file cannot hold: copy it again.")
    return found
