"""Windows of consecutive frames, read from disc when they are needed.

A frame is contiguous in an uncompressed NIfTI file, so a window is one piece of it: :py:class:`MapBOLDd` makes a path a handle
without voxels, which a cache can hold, and the window transforms read their frames alone. The file's order (x fastest) becomes
(T, X, Y, Z) after that, in one copy.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import ImageMetaKey, convert_to_tensor

from ..errors import BadScan, reading
from .bold_item import scan_name

__all__ = [
    "MapBOLDd",
    "MappedBOLD",
    "RandTemporalWindow",
    "RandTemporalWindowd",
    "TemporalWindow",
    "TemporalWindowd",
    "map_bold",
    "temporal_window",
]


@dataclass(frozen=True)
class MappedBOLD:
    """A 4D scan on disc: where its voxels are, but none of them.

    Attributes:
        path: of the uncompressed NIfTI file.
        shape: (T, X, Y, Z).
        affine: 4×4, voxels to mm.
        repetition_time: seconds from frame to frame as the header has them, None where it has 0.
        voxels: nibabel's proxy of (X, Y, Z, T), which can be pickled.
    """

    path: str
    shape: tuple[int, ...]
    affine: np.ndarray
    repetition_time: float | None
    voxels: nib.arrayproxy.ArrayProxy

    @property
    def meta(self) -> dict[str, Any]:
        """What a window of the scan knows of it."""
        return {ImageMetaKey.FILENAME_OR_OBJ: self.path}

    def frames(self, start: int, stop: int) -> MetaTensor:
        """Read some frames, (stop - start, X, Y, Z), float32 and contiguous, with the file's scaling applied."""
        mapped = self.voxels.get_unscaled()[..., start:stop]  # a memory map: nothing is read yet
        window = torch.from_numpy(np.ascontiguousarray(np.moveaxis(mapped, -1, 0), dtype=np.float32))
        if (self.voxels.slope, self.voxels.inter) != (1.0, 0.0):
            window = window.mul_(self.voxels.slope).add_(self.voxels.inter)
        return MetaTensor(window, affine=torch.from_numpy(self.affine), meta=self.meta)


def map_bold(path: str | Path) -> MappedBOLD:
    """Return the handle of a 4D scan.

    Args:
        path: of an uncompressed single-file NIfTI (``.nii``), as preparation writes them.

    Raises:
        FileNotFoundError: if there is no such file.
        BadScan: if it is compressed, not 4D, or shorter than its header says.
    """
    if not str(path).endswith(".nii"):
        raise BadScan(
            f"{path}: only an uncompressed .nii file can be read frame by frame: prepare the study, or decompress it."
        )
    with reading(path, "no NIfTI", "prepare the study again"):
        image = nib.load(path)
    if len(image.shape) != 4:
        raise BadScan(f"{path}: a 4D scan is wanted, this one has shape {image.shape}.")
    voxels = image.dataobj
    if voxels.dtype.kind not in "biuf":
        raise BadScan(f"{path}: damaged, holds {voxels.dtype}, real numbers are wanted: prepare the study again.")
    missing = voxels.offset + int(np.prod(voxels.shape)) * voxels.dtype.itemsize - Path(path).stat().st_size
    if missing > 0:
        raise BadScan(f"{path}: the file is cut off, {missing} bytes are missing: prepare the study again.")
    if voxels.offset < 0 or min(voxels.shape) < 1:
        raise BadScan(f"{path}: damaged, its shape is {voxels.shape} from byte {voxels.offset} on: prepare the study again.")
    time = float(image.header.get_zooms()[3])
    return MappedBOLD(str(path), (voxels.shape[3], *voxels.shape[:3]), image.affine, time or None, voxels)


def temporal_window(
    scan: MappedBOLD | torch.Tensor, frames: int | None = None, start: int = 0
) -> tuple[MetaTensor, torch.Tensor]:
    """Cut consecutive frames out of a scan; a window that reaches beyond its end is padded with frames of zeros.

    Args:
        scan: handle or image (T, X, Y, Z).
        frames: length of the window; None takes all from ``start`` on.
        start: its first frame.

    Returns:
        The window (frames, X, Y, Z), float32 and contiguous, whose meta names its first frame ``window_start``; and the frame
        mask (frames,), bool, False where it was padded.

    Raises:
        ValueError: if the window has no frame of the scan.
    """
    total = scan.shape[0]
    frames = total - start if frames is None else frames
    if frames < 1 or not 0 <= start < total:
        raise ValueError(f"{scan_name(scan)}: {frames} frames from frame {start} on are no window of a scan of {total} frames.")
    stop = min(start + frames, total)
    if isinstance(scan, MappedBOLD):
        window = scan.frames(start, stop)
    else:
        window = convert_to_tensor(scan, track_meta=True)[start:stop].float().contiguous()
    if stop - start < frames:
        window = _pad(window, frames)
    known = {key: value for key, value in window.meta.items() if value is not None}  # batches cannot be made with None
    window.meta = {**known, "window_start": start}
    return window, torch.arange(frames) < stop - start


def _pad(window: MetaTensor, frames: int) -> MetaTensor:
    """Append frames of zeros."""
    padded = window.new_zeros((frames, *window.shape[1:]))
    padded[: len(window)] = window
    return padded


class TemporalWindow(Transform):
    """Cut the same window out of every scan, :py:func:`temporal_window`; by default the whole scan."""

    def __init__(self, frames: int | None = None, start: int = 0) -> None:
        self.frames, self.start = frames, start

    def __call__(self, scan: MappedBOLD | torch.Tensor) -> tuple[MetaTensor, torch.Tensor]:
        return temporal_window(scan, self.frames, self.start)


class RandTemporalWindow(Randomizable, Transform):
    """Cut a window out of a scan at random; every place is equally likely, and ``start`` tells the last one drawn.

    Args:
        frames: length of the window; a shorter scan is padded with frames of zeros.
    """

    def __init__(self, frames: int = 32) -> None:
        if frames < 1:
            raise ValueError(f"a window has at least one frame, not {frames}.")
        self.frames, self.start = frames, 0

    def randomize(self, data: int) -> None:
        """Draw the first frame of a window in a scan of ``data`` frames."""
        self.start = int(self.R.randint(max(1, data - self.frames + 1)))

    def __call__(self, scan: MappedBOLD | torch.Tensor, randomize: bool = True) -> tuple[MetaTensor, torch.Tensor]:
        if randomize:
            self.randomize(scan.shape[0])
        return temporal_window(scan, self.frames, self.start)


class MapBOLDd(MapTransform):
    """Replace the path of a prepared scan by its handle, :py:func:`map_bold`: deterministic, and light enough to cache."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: map_bold(data[key]) for key in self.key_iterator(dict(data))}}


class TemporalWindowd(MapTransform):
    """Dictionary version of :py:class:`TemporalWindow`; adds ``frame_mask`` (frames,), True where a frame is measured."""

    def __init__(
        self, keys: KeysCollection, frames: int | None = None, start: int = 0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = TemporalWindow(frames, start)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key], d["frame_mask"] = self.window(d[key])
        return d


class RandTemporalWindowd(Randomizable, MapTransform):
    """Dictionary version of :py:class:`RandTemporalWindow`: one place for all keys, and ``frame_mask`` as well."""

    def __init__(self, keys: KeysCollection, frames: int = 32, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = RandTemporalWindow(frames)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandTemporalWindowd:
        super().set_random_state(seed, state)
        self.window.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.window.randomize(d[self.first_key(d)].shape[0])
        for key in self.key_iterator(d):
            d[key], d["frame_mask"] = self.window(d[key], randomize=False)
        return d
