"""Fill NaN in 4D scans by normalised convolution over space.

A missing voxel becomes the Gaussian mean of the measured voxels around it, ``(g * data) / (g * measured)``, with no epsilon:
Knutsson and Westin, *Normalized and differential convolution*, CVPR 1993. Measured voxels are the finite ones inside the mask,
so air does not bleed in, and a filled voxel never enters another one's mean. Infinite values count as missing. Time is never
smoothed over.

Where the measured voxels within the kernel weigh less than one voxel at three sigma, sigma is doubled, for that voxel alone
and as often as it takes; such voxels are counted as deep.

A Gaussian is separable, so the box around a hole costs three small matrix products over its surroundings, for many frames at
once; the weights are computed once where the same voxels are missing in all frames.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage

from ..errors import BadScan
from .bold_item import add_to_report, brain_voxels, empty_image, plain_tensor, scan_name

__all__ = ["InpaintNaN", "InpaintNaNd", "inpaint_nan"]

TRUNCATE = 4.0  # sigmas, scipy's default
MIN_WEIGHT = math.exp(-(3.0**2) / 2)  # of one voxel at three sigma; the kernel is 1 at its centre
GAP = 2  # missing voxels belong to one hole if the blocks of this radius around them touch
CALL = 2000  # voxels whose convolution takes as long as the calls for one more box
BLOCK = 1 << 18  # voxel-frames convolved at once: a few MB, however long the scan

Box = tuple[slice, ...]


def inpaint_nan(
    image: torch.Tensor, mask: torch.Tensor | None = None, sigma: Sequence[float] = (1.0, 1.0, 1.0)
) -> tuple[torch.Tensor, dict[str, float]]:
    """Fill what is NaN or infinite inside the mask; the input is not changed.

    Args:
        image: (T, X, Y, Z).
        mask: (1, X, Y, Z), not 0 in the brain; without it every voxel is brain. Voxels outside stay as they are.
        sigma: standard deviation of the Gaussian along X, Y and Z, in voxels.

    Returns:
        The filled image, a contiguous float32 copy, and the counts ``inpainted_voxels`` (voxels times frames),
        ``inpainted_deep`` (those of them that needed a larger sigma) and ``inpainted_growth`` (the largest factor on sigma, 1
        if none was needed).

    Raises:
        BadScan: if a frame has no measured voxel, naming frame and file.
    """
    brain = torch.ones(image.shape[1:], dtype=torch.bool) if mask is None else brain_voxels(mask, image)
    source = plain_tensor(image).float().contiguous()
    filled = empty_image(source.shape).copy_(source)
    scan = _survey(source.numpy(), brain.numpy(), scan_name(image))
    counts: dict[str, float] = {"inpainted_voxels": 0, "inpainted_deep": 0, "inpainted_growth": 1}
    for hole in _holes(scan.ever, sigma):
        _fill(filled.numpy()[(slice(None), *hole.box)], scan, hole, sigma, counts)
    return filled, counts


@dataclass(frozen=True)
class _Scan:
    """``image`` (T, X, Y, Z); ``brain``, what is missing ``ever`` (in some frame) and ``always`` (in all): (X, Y, Z), bool.

    All is NumPy's but the matrix products: so little per call is not worth torch's threads.
    """

    image: np.ndarray
    brain: np.ndarray
    ever: np.ndarray
    always: np.ndarray

    def steady(self, box: Box) -> bool:
        """Whether the same voxels of a box are missing in all frames."""
        return np.array_equal(self.ever[box], self.always[box])

    def measured(self, frames: slice, box: Box, steady: bool) -> np.ndarray:
        """Return the finite brain voxels of a box: (frames, x, y, z), or (1, x, y, z) where all frames are alike."""
        if steady:
            return (self.brain[box] & ~self.ever[box])[None]
        return np.isfinite(self.image[(frames, *box)]) & self.brain[box]


def _survey(image: np.ndarray, brain: np.ndarray, name: str) -> _Scan:
    """Find the missing voxels, frame by frame to save memory."""
    ever, always = np.zeros_like(brain), brain.copy()
    for t, frame in enumerate(image):
        bad = ~np.isfinite(frame) & brain
        if np.array_equal(bad, brain):
            raise BadScan(f"{name}: frame {t} of 0-{len(image) - 1} has no finite voxel in the brain, remove it from the scan.")
        ever |= bad
        always &= bad
    return _Scan(image, brain, ever, always)


class _Hole(NamedTuple):
    """Smallest box around a hole, and which voxels of the box are the hole's own: boxes may overlap, holes do not."""

    box: Box
    own: np.ndarray


def _holes(missing: np.ndarray, sigma: Sequence[float]) -> list[_Hole]:
    """Return the holes one by one, or as a single one where they are so many that one large box costs less."""
    labels = ndimage.label(ndimage.maximum_filter(missing, size=2 * GAP + 1))[0] * missing
    single, whole = ndimage.find_objects(labels), ndimage.find_objects(missing.astype(np.uint8))
    if _cost(whole, sigma, missing.shape) <= _cost(single, sigma, missing.shape):
        return [_Hole(box, missing[box]) for box in whole]
    return [_Hole(box, labels[box] == i) for i, box in enumerate(single, 1)]


def _cost(boxes: Sequence[Box], sigma: Sequence[float], shape: Sequence[int]) -> int:
    return sum(CALL + _volume(_surroundings(box, sigma, shape)) for box in boxes)


def _fill(filled: np.ndarray, scan: _Scan, hole: _Hole, sigma: Sequence[float], counts: dict[str, float]) -> None:
    """Fill a hole in ``filled``, the view of its box (T, x, y, z), and add to the counts; both change in place."""
    steady = scan.steady(hole.box)
    gaussians = [_Gaussian(scan, hole.box, sigma)]  # one per doubling
    at_once = max(1, BLOCK // _volume(gaussians[0].around))
    for start in range(0, len(filled), at_once):
        frames = slice(start, min(start + at_once, len(filled)))
        left, doublings = hole.own & ~scan.measured(frames, hole.box, steady), 0
        counts["inpainted_voxels"] += _count(left, frames)
        while left.any():
            if doublings == len(gaussians):
                gaussians.append(_Gaussian(scan, hole.box, [s * 2**doublings for s in sigma]))
            sums, weights = gaussians[doublings](frames)
            reached = left & (weights >= MIN_WEIGHT)
            np.divide(sums, weights, out=filled[frames], where=reached)
            if doublings:
                _count_deep(counts, _count(reached, frames), 2**doublings)
            left, doublings = left & ~reached, doublings + 1


def _count(voxels: np.ndarray, frames: slice) -> int:
    """Return the number of voxels times frames; one frame stands for all where they are alike."""
    return int(np.count_nonzero(voxels)) * (frames.stop - frames.start) // len(voxels)


def _count_deep(counts: dict[str, float], number: int, growth: int) -> None:
    if number:
        counts["inpainted_deep"] += number
        counts["inpainted_growth"] = max(counts["inpainted_growth"], growth)


class _Gaussian:
    """A scan convolved with a Gaussian, computed in one box only."""

    def __init__(self, scan: _Scan, box: Box, sigma: Sequence[float]) -> None:
        self.scan, self.around = scan, _surroundings(box, sigma, scan.brain.shape)
        self.kernels = [_kernel(s, to, start) for s, to, start in zip(sigma, box, self.around, strict=True)]
        self.steady = scan.steady(self.around)
        self._see(slice(0, 1))

    def __call__(self, frames: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return ``g * data`` (frames, x, y, z) and ``g * measured``, which has one frame where all are alike."""
        if not self.steady:
            self._see(frames)
        return self._convolve(
            (self.scan.image.view(np.int32)[(frames, *self.around)] & self.keep).view(np.float32)
        ), self.weights

    def _see(self, frames: slice) -> None:
        """Compute what depends on where the frames were measured."""
        measured = self.scan.measured(frames, self.around, self.steady)
        # NaN * 0 is NaN, but a bitwise "and" with no bit leaves 0.0: the fastest way to blank what was not measured
        self.keep = -measured.astype(np.int32)
        self.weights = self._convolve(measured.astype(np.float32))

    def _convolve(self, volumes: np.ndarray) -> np.ndarray:
        along_x, along_y, along_z = self.kernels
        partly = along_y @ (torch.from_numpy(volumes) @ along_z.T)
        return (along_x @ partly.flatten(2)).unflatten(2, partly.shape[2:]).numpy()


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


def _surroundings(box: Box, sigma: Sequence[float], shape: Sequence[int]) -> Box:
    """Return the box and what the Gaussian reaches from it."""
    sides = zip(box, map(_radius, sigma), shape, strict=True)
    return tuple(slice(max(0, side.start - r), min(extent, side.stop + r)) for side, r, extent in sides)


def _volume(box: Box) -> int:
    return math.prod(side.stop - side.start for side in box)


def _kernel(sigma: float, to: slice, start: slice) -> torch.Tensor:
    """Return the Gaussian from the voxels ``start`` to the voxels ``to`` of an axis: (to, from), 1 at distance 0."""
    distance = torch.arange(to.start, to.stop)[:, None] - torch.arange(start.start, start.stop)
    weight = torch.exp(-0.5 * (distance.double() / sigma) ** 2)
    return torch.where(distance.abs() <= _radius(sigma), weight, 0.0).float()


class InpaintNaN:
    """Fill NaN inside the brain, :py:func:`inpaint_nan`.

    Args:
        sigma: standard deviation of the Gaussian.
        unit: of sigma; ``mm`` are divided by the spacing that the image's affine tells.
    """

    def __init__(self, sigma: float = 1.0, unit: Literal["voxel", "mm"] = "voxel") -> None:
        if sigma <= 0 or unit not in ("voxel", "mm"):
            raise ValueError(f"sigma must be positive and its unit voxel or mm, not {sigma} {unit}.")
        self.sigma, self.unit = sigma, unit

    def __call__(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the image (T, X, Y, Z) filled, float32."""
        return self.fill(image, mask)[0]

    def fill(self, image: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the filled image and the numbers for the report; ``inpainted_sigma`` is the largest used, 0 if none was."""
        spacing = affine_to_spacing(image.affine).tolist() if self.unit == "mm" else [1.0] * 3  # type: ignore[attr-defined]
        filled, report = inpaint_nan(image, mask, [self.sigma / s for s in spacing])
        growth = report.pop("inpainted_growth")
        largest = growth * self.sigma if report["inpainted_voxels"] else 0.0
        return convert_to_dst_type(filled, image, dtype=torch.float32)[0], {**report, "inpainted_sigma": largest}


class InpaintNaNd(MapTransform):
    """Dictionary version of :py:class:`InpaintNaN`; puts the counts into ``data["report"]``.

    Args:
        keys: images to fill, usually one: the report is about the last.
        mask_key: the brain mask (1, X, Y, Z) of all of them; None takes every voxel for brain.
        sigma: standard deviation of the Gaussian.
        unit: of sigma, ``voxel`` or ``mm``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str | None = "mask",
        sigma: float = 1.0,
        unit: Literal["voxel", "mm"] = "voxel",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.inpaint = mask_key, InpaintNaN(sigma, unit)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key], report = self.inpaint.fill(d[key], d[self.mask_key] if self.mask_key else None)
            d = add_to_report(d, **report)
        return d
