"""Read a 4D scan and its brain mask: MATLAB v7.3 or NIfTI → (T, X, Y, Z) and (1, X, Y, Z).

Time comes first, as the channel. No voxel is copied to get there: the tensors keep the file's order in memory, x fastest.
Whatever is wrong with a file is a :py:class:`BadScan` that names it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.arrayproxy import ArrayProxy
from scipy.ndimage import distance_transform_edt

from ..bids import repetition_time
from ..claimed_size import refuse_claims
from ..errors import BadScan, reading
from ..inflate import voxels_of
from ..mat_file import dataset, fmri_data
from .bold_item import add_to_report

__all__ = ["LoadBOLDd", "estimate_brain_mask", "load_mat", "load_nifti"]

MASKED = 0.2  # share of voxels without any signal from which a scan counts as masked already; air is noise, not 0
FRAME_RANGE = "frame_range"  # key of a run's frames in a file of several runs
THIN = 16  # fewer voxels along an axis than this, and nilearn's opening by 2 would take most of the brain away


def load_mat(
    path: str, voxel_size: float | Sequence[float] = 3.0, time_axis: str | None = None
) -> tuple[MetaTensor, MetaTensor]:
    """Return image (T, X, Y, Z) float32 and mask (1, X, Y, Z) uint8 of a MATLAB file, see :py:mod:`custom.mat_file`.

    HDF5 shows MATLAB's arrays with their axes reversed, (T, Z, Y, X) and (Z, Y, X); files written by others hold (X, Y, Z, T)
    and (X, Y, Z). Which it is, the mask's shape says.

    Args:
        path: of the file.
        voxel_size: in mm, one number or one per axis: the file has no affine, its axes are taken for RAS.
        time_axis: ``first`` (reversed) or ``last`` where both fit.

    Raises:
        BadScan: if the file is damaged or incomplete, or its shapes do not say which axis is time.
    """
    with fmri_data(path) as group:
        orig, stored_mask = dataset(group, "orig"), dataset(group, "mask")
        reverse = _time_axis(orig.shape, stored_mask.shape, time_axis, path) == "first"
        image = np.empty(orig.shape, np.float32)
        orig.read_direct(image)  # HDF5 converts while it reads
        mask = stored_mask[()] > 0
    image, mask = (image.transpose(0, 3, 2, 1), mask.T) if reverse else (np.moveaxis(image, -1, 0), mask)
    affine = np.diag([*np.broadcast_to(voxel_size, 3), 1.0])
    return _tensor(image, affine, path), _mask_tensor(mask, affine, path)


def _time_axis(image: tuple[int, ...], mask: tuple[int, ...], stated: str | None, path: str) -> str:
    """Return the one reading in which image and mask have the same grid."""
    if len(image) != 4 or len(mask) != 3:
        raise BadScan(f"{path}: orig of 4 and mask of 3 dimensions are wanted, they have shapes {image} and {mask}.")
    fitting = [axis for axis, grid in (("first", image[1:]), ("last", image[:-1])) if grid == mask and stated in (None, axis)]
    if len(fitting) > 1:
        raise BadScan(
            f"{path}: time may be the first or the last axis of orig {image} with mask {mask}: "
            "state it by --time_axis first (as MATLAB saves it) or --time_axis last."
        )
    if not fitting:
        where = f" with time {stated}, as --time_axis says" if stated else ""
        raise BadScan(f"{path}: mask {mask} is on another grid than orig {image}{where}.")
    return fitting[0]


def load_nifti(path: str, mask_path: str | None = None, frames: tuple[int, int] | None = None) -> tuple[MetaTensor, MetaTensor]:
    """Return image (T, X, Y, Z) float32 and mask (1, X, Y, Z) uint8 of NIfTI files (X, Y, Z, T) and (X, Y, Z).

    The image's ``repetition_time`` is that of its BIDS json, beside it or inherited, or the header's; in seconds, ``None``
    where neither says it: see :py:func:`custom.bids.repetition_time`.

    Args:
        path: of the scan.
        mask_path: of its brain mask, on the same grid; without one, see :py:func:`estimate_brain_mask`.
        frames: first one and the one after the last, of a run in a file of several; the others are not kept in memory.

    Raises:
        BadScan: if a file is damaged, not of so many dimensions, without the frames, or the mask of another grid.
    """
    file, array = _read(path, dimensions=4, frames=frames)
    image = _tensor(np.moveaxis(array, -1, 0), file.affine, path, repetition_time(path, file.header))
    if mask_path is None:
        return image, _mask_tensor(estimate_brain_mask(image.numpy(), file.affine, path), file.affine, path)
    mask_file, mask = _read(mask_path, dimensions=3)
    if mask.shape != array.shape[:3] or not np.allclose(mask_file.affine, file.affine, atol=1e-2):
        raise BadScan(
            f"{path}: its mask {mask_path} is on another grid, shape {mask.shape} for {array.shape[:3]}, affine "
            f"{mask_file.affine.round(2).tolist()} for {file.affine.round(2).tolist()}."
        )
    return image, _mask_tensor(mask > 0, file.affine, mask_path)


def _read(path: str, dimensions: int, frames: tuple[int, int] | None = None) -> tuple[nib.Nifti1Image, np.ndarray]:
    """Read a file once, straight to float32; an axis of 1 at the end that is too many is taken off."""
    with reading(path, "no NIfTI"):
        file = nib.load(path)
        refuse_claims(file, path)
        with voxels_of(file) as voxels:
            array = np.asarray(voxels if frames is None else _frames_of(voxels, frames, path), dtype=np.float32)
    if array.ndim == dimensions + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != dimensions or array.size == 0:
        raise BadScan(f"{path}: a {dimensions}D file is wanted, this one has shape {array.shape}.")
    if not (np.isfinite(file.affine).all() and abs(np.linalg.det(file.affine)) > 1e-6):
        raise BadScan(f"{path}: its affine has no inverse, so the voxels have no place: {file.affine.tolist()}.")
    return file, array


def _frames_of(voxels: ArrayProxy, frames: tuple[int, int], path: str) -> np.ndarray:
    """Read some frames: nibabel leaves the others in the file."""
    start, stop = frames
    if len(voxels.shape) < 4 or not 0 <= start < stop <= voxels.shape[3]:
        raise BadScan(
            f"{path}: the frames {start} to {stop} of a run are wanted, the file has shape {voxels.shape}: fetch it again."
        )
    return voxels[:, :, :, start:stop]


def _frame_range(text: str, path: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None:
        raise BadScan(f"{path}: frame_range is '{text}': two numbers of frames are wanted, as '121:242'.")
    return int(found[1]), int(found[2])


def estimate_brain_mask(image: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
    """Return a bool (X, Y, Z) mask of the brain of a scan (T, X, Y, Z) that came without one.

    A scan of which a fifth of the voxels are 0 in every frame (or NaN in every frame) is masked already: the others are brain.
    Any other is thresholded by nilearn's ``compute_epi_mask`` on the temporal mean; a detrended one has no such mean.

    Raises:
        BadScan: if the scan has no baseline to threshold, or no brain is found.
    """
    total, finite, signal = (np.zeros(image.shape[1:], dtype) for dtype in (np.float64, np.int64, bool))
    for frame in image:  # a scan's worth of temporary arrays would be as large as the scan
        good = np.isfinite(frame)
        total += np.where(good, frame, 0)
        finite += good
        signal |= ~(frame == 0)
    for brain in (signal, finite > 0):
        if 1 - brain.mean() >= MASKED and brain.any():
            return brain
    # a voxel that is NaN throughout counts as the nearest that is not: a hole in the brain is brain, and is filled later on
    nearest = distance_transform_edt(finite == 0, return_distances=False, return_indices=True)
    mean = (total / np.maximum(finite, 1))[tuple(nearest)]
    if (mean <= 0).mean() > 0.25:
        raise BadScan(f"{name}: without a baseline (detrended?) no brain can be told from air: put a mask beside it.")
    brain = _threshold(mean, affine)
    if not brain.any():
        raise BadScan(f"{name}: no brain found in its temporal mean: put a mask beside it.")
    return brain


def _threshold(mean: np.ndarray, affine: np.ndarray) -> np.ndarray:
    from nilearn.masking import compute_epi_mask

    opening = 2 if min(mean.shape) >= THIN else False
    return compute_epi_mask(nib.Nifti1Image(mean.astype(np.float32), affine), opening=opening).get_fdata() > 0


def _tensor(array: np.ndarray, affine: np.ndarray, path: str, repetition_time: float | None = None) -> MetaTensor:
    # a key without a value would stop MONAI from making a batch
    meta = {"filename_or_obj": path} | ({"repetition_time": repetition_time} if repetition_time else {})
    return MetaTensor(torch.from_numpy(array), affine=torch.as_tensor(affine, dtype=torch.float64), meta=meta)


def _mask_tensor(mask: np.ndarray, affine: np.ndarray, path: str) -> MetaTensor:
    meta = {"filename_or_obj": path}
    voxels = torch.from_numpy(mask.astype(np.uint8)[None])
    return MetaTensor(voxels, affine=torch.as_tensor(affine, dtype=torch.float64), meta=meta)


class LoadBOLDd(MapTransform):
    """Dictionary version of :py:func:`load_mat` and :py:func:`load_nifti`, by the file's suffix.

    ``data[image]`` is the path; ``data[mask]``, where it is there, the path of a NIfTI's mask. A mask that had to be estimated
    is noted in the report as ``mask_estimated``. ``data["frame_range"]``, where it is there, says which frames of a NIfTI are
    the run, written like a slice of Python: ``"121:242"``.

    Args:
        keys: of image and mask.
        voxel_size: of a ``.mat``, in mm, one number or one per axis.
        repetition_time: in seconds; takes precedence over what the files say.
        time_axis: of a ``.mat`` whose shapes do not say it, ``first`` or ``last``.

    Raises:
        ValueError: for other than two keys, another ``time_axis``, or a ``voxel_size`` that is not above 0.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "mask"),
        voxel_size: float | Sequence[float] = 3.0,
        repetition_time: float | None = None,
        time_axis: str | None = None,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 2:
            raise ValueError(f"the keys of image and mask are wanted, these are {self.keys}")
        if time_axis not in (None, "first", "last"):
            raise ValueError(f"time_axis is {time_axis!r}: it is 'first', 'last', or left out")
        if np.min(voxel_size) <= 0:
            raise ValueError(f"voxel_size is {voxel_size}: sizes in mm are above 0")
        self.voxel_size, self.repetition_time, self.time_axis = voxel_size, repetition_time, time_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image_key, mask_key = self.keys
        path = str(d[image_key])
        if path.lower().endswith(".mat"):
            if FRAME_RANGE in d:
                raise BadScan(f"{path}: has a {FRAME_RANGE}, which only a NIfTI may have: save each run as a file of its own.")
            d[image_key], d[mask_key] = load_mat(path, self.voxel_size, self.time_axis)
        else:
            given, part = d.get(mask_key), d.get(FRAME_RANGE)
            frames = None if part is None else _frame_range(str(part), path)
            d[image_key], d[mask_key] = load_nifti(path, None if given is None else str(given), frames)
            d = d if given is not None else add_to_report(d, mask_estimated=1)
        if self.repetition_time is not None:
            d[image_key].meta["repetition_time"] = self.repetition_time
        return d
