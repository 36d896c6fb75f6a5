"""Mean time series of an atlas's regions, which others have extracted: ``.npz`` with one array, or AFNI's ``.1D``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DAMAGED_ARCHIVE
from .abide_table import subject_of

__all__ = ["find_roi_series", "read_roi_series"]

SUFFIXES = (".npz", ".1D")
DAMAGED = (*DAMAGED_ARCHIVE, MemoryError)  # of a header that claims too much


def read_roi_series(path: str | Path) -> np.ndarray:
    """Return the series of a file, (T, R) float32: a row per frame, a column per region.

    ``.npz`` holds one array, under whatever name; ``.1D`` is text with a ``#`` before its header, as the Preprocessed
    Connectomes Project writes ``rois_aal``.

    Raises:
        ValueError: naming a file that is damaged, holds no single 2D array of numbers, or values that are not finite.
    """
    try:
        series = _read_npz(path) if str(path).endswith(".npz") else np.loadtxt(path, dtype=np.float32, comments="#", ndmin=2)
    except DAMAGED as error:
        raise ValueError(f"{path}: not a table of ROI series ({error}): fetch it again.") from error
    if series.ndim != 2 or series.size == 0 or series.dtype.kind not in "iuf":
        raise ValueError(f"{path}: (frames, regions) is wanted, this array of {series.dtype} has shape {series.shape}.")
    if not np.isfinite(series).all():
        raise ValueError(f"{path}: {int((~np.isfinite(series)).sum())} values are NaN or infinite: fetch it again.")
    return series.astype(np.float32, copy=False)


def _read_npz(path: str | Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        if len(file.files) != 1:
            raise ValueError(f"holds the arrays {file.files}, a single one is wanted")
        return file[file.files[0]]


def find_roi_series(folder: str | Path) -> dict[str, str]:
    """Return subject → path of the only series below a folder that bears its id.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a subject has several: of two atlases, say.
    """
    found: dict[str, str] = {}
    for file in sorted(p for p in Path(folder).absolute().rglob("*") if p.suffix in SUFFIXES):
        subject = subject_of(file.stem)
        if subject in found:
            raise ValueError(f"{found[subject]} and {file} are both of subject {subject}: give --roi_dir one atlas's folder.")
        found[subject] = str(file)
    if not found:
        raise FileNotFoundError(f"no ROI series ({', '.join(SUFFIXES)}) below {folder}: give --roi_dir their folder.")
    return found
