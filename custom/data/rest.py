"""Other windows of the same runs: what no event covers, and the frames of an event one by one.

Both go from rows of a datalist to rows like them, and look at nothing but the headers of the prepared runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from ..bids import repetition_time

__all__ = ["NO_CLASS", "rest_windows", "single_frames"]

NO_CLASS = -1  # label of a window that shows none


def rest_windows(rows: Sequence[Mapping[str, Any]], frames: int) -> list[dict[str, Any]]:
    """Return windows of the frames that the rows' windows leave over, for training without a class.

    Every gap between two windows of a run holds as many whole windows as fit, one after the other from its first frame.

    Args:
        rows: windows, with ``image``, ``scan``, ``start`` and ``frames``; of a run all, or windows of an event would count as
            rest.
        frames: length of a window.

    Returns:
        Rows with label -1, named ``<scan>_rest-000``, and what the rows of their run have in common.

    Raises:
        ValueError: if ``frames`` is below 1.
    """
    if frames < 1:
        raise ValueError(f"windows of {frames} frames are none: give 1 or more.")
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["scan"], []).append(row)
    return [window for members in runs.values() for window in _rest_of(members, frames)]


def _rest_of(members: Sequence[Mapping[str, Any]], frames: int) -> Iterator[dict[str, Any]]:
    first = members[0]
    length, seconds = _timing(first["image"])
    free = np.ones(length, bool)
    for row in members:
        free[row["start"] : row["start"] + row["frames"]] = False
    # where free frames begin and where they end
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(int)))
    starts = [s for a, b in edges.reshape(-1, 2).tolist() for s in range(a, b - frames + 1, frames)]
    common = {key: value for key, value in first.items() if all(row.get(key) == value for row in members)}
    kind = {"trial_type": "rest"} if "trial_type" in first else {}
    for number, start in enumerate(starts):
        time = {"onset": start * seconds, "duration": frames * seconds} if seconds else {}
        name = f"{first['scan']}_rest-{number:03d}"
        yield {**_without_time(common), **kind, "label": NO_CLASS, "block": name, "start": start, "frames": frames, **time}


def single_frames(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per frame of every window, named ``<block>_frame-3``; frames beyond the run's end are left out.

    The onset of frame i is that of the window plus i times the TR. Where the prepared run does not say its TR, the rows have
    no onset.
    """
    timings = {image: _timing(image) for image in dict.fromkeys(row["image"] for row in rows)}
    return [frame for row in rows for frame in _frames_of(row, *timings[row["image"]])]


def _frames_of(row: Mapping[str, Any], length: int, seconds: float | None) -> Iterator[dict[str, Any]]:
    for i in range(min(row["frames"], length - row["start"])):
        time = {"onset": row["onset"] + i * seconds, "duration": seconds} if seconds and "onset" in row else {}
        yield {**_without_time(row), "block": f"{row['block']}_frame-{i}", "start": row["start"] + i, "frames": 1, **time}


def _without_time(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("onset", "duration")}


def _timing(image: str) -> tuple[int, float | None]:
    """Return the length of a prepared run in frames and its TR in seconds."""
    header = nib.load(image).header
    shape = header.get_data_shape()
    return (shape[3] if len(shape) > 3 else 1), repetition_time(image, header)
