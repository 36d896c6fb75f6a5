"""Reading 4D scans: whole ones in preparation, windows of frames in training."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.transforms import LoadImage

from custom.transforms import temporal_window
from custom.transforms.load_bold import load_nifti
from custom.transforms.temporal_window import map_bold

from .row import Row, Ways

__all__ = ["ROWS", "bold"]

Shape = tuple[int, int, int, int]


def bold(shape: Shape) -> np.ndarray:
    """Return a scan (T, X, Y, Z) with a baseline, float32."""
    return (1000 + 50 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def whole_scan(folder: Path, shape: Shape) -> Ways:
    """A compressed scan (T, X, Y, Z), float32; ours reads its mask as well."""
    mask, path = folder / "mask.nii.gz", _write(folder / "scan.nii.gz", shape)
    nib.save(nib.Nifti1Image(np.ones(shape[1:], np.uint8), np.eye(4)), mask)
    load = LoadImage(image_only=True, ensure_channel_first=True)
    return Ways(lambda: load(path), lambda: load_nifti(str(path), str(mask))[0])


def window(folder: Path, shape: Shape, frames: int) -> Ways:
    """Some frames: of the compressed file as it was fetched, of the uncompressed one that preparation writes."""
    packed, mapped = (_write(folder / name, shape) for name in ("scan.nii.gz", "scan.nii"))
    load, handle, start = LoadImage(image_only=True), map_bold(mapped), (shape[0] - frames) // 2

    def read_all() -> torch.Tensor:
        return load(packed)[..., start : start + frames].movedim(-1, 0)

    return Ways(read_all, lambda: temporal_window(handle, frames, start)[0])


def _write(path: Path, shape: Shape) -> Path:
    nib.save(nib.Nifti1Image(np.moveaxis(bold(shape), 0, -1).astype(np.int16), np.eye(4)), path)
    return path


SCAN = (200, 64, 64, 36)
ROWS = (
    Row("load", "whole .nii.gz, {shape}", "MONAI's LoadImage", whole_scan, {"shape": SCAN}, 0),
    Row("load", "{frames} frames of {shape}", "LoadImage of the .nii.gz", window, {"shape": SCAN, "frames": 32}, 0),
)
