"""Other windows of the same runs: windows everywhere, whatever happens in them, and the frames of an event one by one.

Both go from rows of a datalist to rows like them, and look at nothing but the headers of the prepared runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib

from ..bids import repetition_time
from .splits import PARTS

__all__ = ["NO_CLASS", "frame_datalist", "single_frames", "sliding_windows"]

NO_CLASS = -1  # label of a window that shows none


def sliding_windows(rows: Sequence[Mapping[str, Any]], frames: int, stride: int) -> list[dict[str, Any]]:
    """Return windows over the whole of the rows' runs, rest included, without a class.

    Args:
        rows: of the datalist.
        frames: length of a window.
        stride: frames from one window to the next, which overlap where it is shorter than a window.

    Raises:
        ValueError: if a number is below 1, or a run is shorter than a window; names it.
    """
    if min(frames, stride) < 1:
        raise ValueError(f"windows of {frames} frames every {stride} are none: give 1 or more of both.")
    runs = {row["image"]: row for row in rows}
    return [window for row in runs.values() for window in _over(row, frames, stride)]


def _over(row: Mapping[str, Any], frames: int, stride: int) -> Iterator[dict[str, Any]]:
    length, seconds = _timing(row["image"])
    if length < frames:
        raise ValueError(f"{row['image']}: {length} frames are shorter than a window of {frames}: take shorter windows.")
    known = {key: row[key] for key in ("image", "subject", "scan", "run") if key in row}
    for start in range(0, length - frames + 1, stride):
        time = {"onset": start * seconds, "duration": frames * seconds} if seconds else {}
        block = f"{row['scan']}_from-{start:04d}"
        yield {**known, "label": NO_CLASS, "block": block, "start": start, "frames": frames, **time}


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
        rest = {key: value for key, value in row.items() if key not in ("onset", "duration")}
        yield {**rest, "block": f"{row['block']}_frame-{i}", "start": row["start"] + i, "frames": 1, **time}


def _timing(image: str) -> tuple[int, float | None]:
    """Return the length of a prepared run in frames and its TR in seconds."""
    header = nib.load(image).header
    shape = header.get_data_shape()
    return (shape[3] if len(shape) > 3 else 1), repetition_time(image, header)


def frame_datalist(datalist: Mapping[str, Any]) -> dict[str, Any]:
    """Return a datalist whose every part holds the single frames of its windows, :py:func:`single_frames`."""
    return {**datalist, **{part: single_frames(datalist[part]) for part in PARTS}}
