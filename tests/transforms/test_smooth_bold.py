from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nilearn.image import smooth_img

from custom.errors import BadScan
from custom.transforms.smooth_bold import SmoothBOLDd, smooth_bold

AFFINE = torch.tensor([[2.0, 0, 0, -9], [0, 3, 0, 5], [0, 0, 4, 1], [0, 0, 0, 1]], dtype=torch.float64)


def scan(voxels: torch.Tensor) -> MetaTensor:
    return MetaTensor(voxels, affine=AFFINE, meta={"filename_or_obj": "a.nii", "repetition_time": 2.0})


def impulse(frames: int = 3) -> MetaTensor:
    """A voxel of 1 in the middle frame of a brain that fills the image; the rest is as good as 0, and brain."""
    voxels = torch.full((frames, 25, 21, 17), 1e-20)
    voxels[1, 12, 10, 8] = 1.0
    return scan(voxels)


def width_at_half_height(profile: np.ndarray, size: float) -> float:
    """Return the full width of a Gaussian from its variance, in mm; exact however coarse the voxels."""
    place = (np.arange(len(profile)) - profile.argmax()) * size
    return float(np.sqrt(8 * np.log(2) * (profile * place**2).sum() / profile.sum()))


@pytest.mark.parametrize(("axis", "size"), [(0, 2.0), (1, 3.0), (2, 4.0)])
def test_the_width_is_in_mm_along_every_axis(axis: int, size: float):
    frame = smooth_bold(impulse(), 8.0)[1].numpy().astype(np.float64)
    profile = frame.sum(tuple(a for a in range(3) if a != axis))
    assert width_at_half_height(profile, size) == pytest.approx(8.0, rel=0.02)
    assert frame.sum() == pytest.approx(1.0, abs=1e-3)


def test_nothing_moves_from_frame_to_frame():
    smoothed = smooth_bold(impulse(), 8.0)
    assert smoothed[1].max() < 0.1
    assert smoothed[[0, 2]].abs().max() < 1e-18


def test_every_frame_is_nilearns_and_what_is_outside_the_brain_stays_zero():
    voxels = torch.zeros(4, 10, 9, 8)
    voxels[:, 2:8, 2:7, 2:6] = torch.randn(4, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    voxels[2, 4, 4, 4] = 0  # of the brain, though 0 in one frame
    image = scan(voxels)
    smoothed = SmoothBOLDd("image", 6.0)({"image": image, "label": 1})
    brain = voxels.any(0).numpy()
    for frame, result in zip(voxels, smoothed["image"], strict=True):
        expected = smooth_img(nib.Nifti1Image(frame.double().numpy(), AFFINE.numpy()), 6.0).get_fdata()
        np.testing.assert_allclose(result.numpy()[brain], expected[brain], atol=1e-6)
        assert np.count_nonzero(result.numpy()[~brain]) == 0
    assert smoothed["image"][2, 4, 4, 4] != 0
    assert smoothed["label"] == 1
    assert smoothed["image"].meta["repetition_time"] == 2.0
    assert torch.equal(smoothed["image"].affine, image.affine)
    assert torch.equal(image.as_tensor(), voxels)


@pytest.mark.parametrize("fwhm", [None, 0, 0.0])
def test_no_width_is_no_smoothing(fwhm: float | None):
    image = impulse()
    assert SmoothBOLDd("image", fwhm)({"image": image})["image"] is image


@pytest.mark.parametrize("fwhm", [-1.0, float("nan"), float("inf")])
def test_a_width_that_is_none_is_refused(fwhm: float):
    with pytest.raises(ValueError, match="fwhm is a width in mm, 0 for no smoothing"):
        SmoothBOLDd("image", fwhm)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_whereas_nilearn_makes_it_zero(value: float):
    image = impulse()
    image[2, 3, 3, 3] = value
    with pytest.raises(BadScan, match=r"a\.nii: some voxels are NaN or infinite"):
        smooth_bold(image, 8.0)
