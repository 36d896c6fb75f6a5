"""What can be wrong with a scan, as opposed to with the program."""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError
from PIL.Image import DecompressionBombError

__all__ = ["DAMAGED_ARCHIVE", "DAMAGED_SCAN", "BadScan", "reading"]


class BadScan(ValueError):
    """A scan that cannot be used; preparation lists it in ``rejected.csv`` with this message and goes on."""


# what nibabel, PIL, zlib and NumPy make of a damaged file. A fault of the program may raise some of it as well: to be caught
# around a call that reads, and around nothing else
DAMAGED_SCAN = (
    *(OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, MGHError),
    *(KeyError, IndexError, TypeError, OverflowError),  # codes and sizes that no header may have
    *(SyntaxError, struct.error, DecompressionBombError),  # of pictures
)
# and what HDF5, zip files and torch add to it
DAMAGED_ARCHIVE = (*DAMAGED_SCAN, RuntimeError, zipfile.BadZipFile)

OF_THE_FILE = (None, errno.EINVAL)  # no number: a library's own; EINVAL: a place before the file's beginning


@contextmanager
def reading(
    path: str | Path,
    otherwise: str = "no image",
    remedy: str = "copy or fetch it again",
    damaged: tuple[type[Exception], ...] = DAMAGED_SCAN,
) -> Iterator[None]:
    """Make a :py:class:`BadScan` that names the file of what is raised within; only reading belongs into the block.

    What the system says of itself (a file that is not there or may not be read, too many open ones) passes as it is.
    """
    try:
        yield
    except (BadScan, FileNotFoundError):
        raise
    except damaged as error:
        if isinstance(error, OSError) and error.errno not in OF_THE_FILE:
            raise
        raise BadScan(f"{path}: damaged, or {otherwise} ({type(error).__name__}: {error}): {remedy}.") from error
