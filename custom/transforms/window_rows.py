"""The windows that rows of a datalist name, read from their prepared runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor

from ..errors import BadScan
from .temporal_window import MappedBOLD, map_bold, temporal_window

__all__ = ["last_start", "read_windows", "signal_mask"]


def read_windows(rows: Sequence[Mapping[str, Any]], frames: int | None = None) -> torch.Tensor:
    """Return the windows (N, F, X, Y, Z) of rows, float32.

    Args:
        rows: with ``image``, ``start`` and ``frames``.
        frames: F; None takes as many as the first row says, and all others must say so too.

    Raises:
        BadScan: if a window reaches beyond its run, or differs from the first one in length, grid or affine; names its run.
    """
    runs = {path: map_bold(path) for path in dict.fromkeys(row["image"] for row in rows)}
    windows: list[MetaTensor] = []
    for row in rows:
        window, measured = temporal_window(runs[row["image"]], frames or row["frames"], row["start"])
        wanted = frames or rows[0]["frames"]
        if not measured.all() or len(window) != wanted:
            raise BadScan(
                f"{row['image']}: {int(measured.sum())} of the {len(window)} frames from frame {row['start']} on were "
                f"measured, windows of {wanted} whole frames are wanted: prepare with --frames of the shortest block."
            )
        first = windows[0] if windows else window
        if window.shape != first.shape or not torch.allclose(window.affine, first.affine, atol=1e-3):
            raise BadScan(
                f"{row['image']}: its grid {tuple(window.shape[1:])} or its affine differs from {tuple(first.shape[1:])} of "
                f"{rows[0]['image']}: prepare one study on one grid (--spacing, --spatial_size)."
            )
        windows.append(window)
    return torch.stack([window.as_tensor() for window in windows])


def signal_mask(run: MappedBOLD) -> torch.Tensor:
    """Return the voxels (X, Y, Z) of a prepared run that ever differ from 0, bool."""
    return (run.frames(0, run.shape[0]) != 0).any(0).as_tensor()


def last_start(row: Mapping[str, Any], run: MappedBOLD, frames: int) -> int:
    """Return the first frame of a row's window, moved back into the run where it would reach beyond its end.

    Raises:
        BadScan: if the run is shorter than the window.
    """
    if run.shape[0] < frames:
        raise BadScan(f"{run.path}: {run.shape[0]} frames are shorter than a window of {frames}.")
    return min(int(row["start"]), run.shape[0] - frames)
