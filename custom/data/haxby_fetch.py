"""Haxby's study from PyMVPA's server, by nilearn's own fetcher: the layout ``nilearn`` of :py:mod:`custom.data.haxby`.

Files that are there are not fetched again, so an interrupted fetch is taken up by repeating it. A subject takes some 330 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nilearn.datasets

__all__ = ["fetch_haxby"]

SUBJECTS = range(1, 7)


def fetch_haxby(raw_dir: str, subjects: Sequence[int] | int = (1,), url: str | None = None) -> str:
    """Fetch scans, labels and masks; return the folder to give as ``raw_dir``.

    Args:
        raw_dir: receives ``haxby2001/``.
        subjects: their numbers, of 1 to 6.
        url: of a mirror of the scans, ending in a slash; by default the server that nilearn knows. The mask of the brain has an
            address of its own.

    Raises:
        ValueError: for a subject that there is not, or none.
        OSError: if a file cannot be had.
    """
    wanted = sorted({subjects} if isinstance(subjects, int) else set(subjects))  # nilearn takes 2 for the first two
    if not wanted or not set(wanted) <= set(SUBJECTS):
        raise ValueError(f"subjects are {subjects}: some of {list(SUBJECTS)} are wanted, as --subjects [1,2].")
    nilearn.datasets.fetch_haxby(data_dir=raw_dir, subjects=wanted, url=url)
    return str(Path(raw_dir) / "haxby2001")
