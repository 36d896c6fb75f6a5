from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from custom.errors import BadScan
from custom.transforms.inpaint import InpaintNaN, InpaintNaNd, inpaint_nan

NAN = float("nan")
SHAPE = (5, 14, 13, 11)


def scan(seed: int = 0) -> torch.Tensor:
    return 1000 + 50 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def some(probability: float, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < probability


def reference(image: torch.Tensor, brain: torch.Tensor, sigma: float | list[float]) -> np.ndarray:
    """Normalised convolution volume by volume in float64."""
    filled = image.double().numpy().copy()
    for frame in filled:
        measured = np.isfinite(frame) & brain.numpy()
        values = gaussian_filter(np.where(measured, frame, 0), sigma, mode="constant")
        weights = gaussian_filter(measured.astype(float), sigma, mode="constant")
        hole = ~measured & brain.numpy() & (weights > 0)
        frame[hole] = values[hole] / weights[hole]
    return filled


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sigma", [[1.0, 1.0, 1.0], [1.3, 0.7, 2.0]])
@pytest.mark.parametrize("missing", ["the same in all frames", "anew in every frame", "one block", "two blocks", "both"])
def test_shallow_holes_are_filled_as_by_a_float64_convolution(missing: str, sigma: list[float], masked: bool):
    image, brain = scan(), some(0.8, SHAPE[1:]) if masked else torch.ones(SHAPE[1:], dtype=torch.bool)
    if missing in ("the same in all frames", "both"):
        image[:, some(0.05, SHAPE[1:])] = NAN
    if missing in ("anew in every frame", "both"):
        image[some(0.05)] = NAN
    if missing in ("one block", "two blocks"):
        image[:, 4:7, 5:7, 2:6] = NAN
    if missing == "two blocks":
        image[:3, 10:12, 9:13, 7:9] = NAN
    bad = int((torch.isnan(image) & brain).sum())
    filled, report = inpaint_nan(image, brain[None], sigma)
    expected = reference(image, brain, sigma)
    np.testing.assert_allclose(filled.numpy(), expected, rtol=1e-6)  # NaN equals NaN: outside of the mask they stay
    assert report == {"inpainted_voxels": bad, "inpainted_deep": 0, "inpainted_growth": 1}
    assert bad > 0


def test_measured_voxels_stay_and_the_input_is_not_changed():
    image = scan()
    image[some(0.1)] = NAN
    before = image.clone()
    filled, _ = inpaint_nan(image)
    torch.testing.assert_close(image, before, rtol=0, atol=0, equal_nan=True)
    measured = torch.isfinite(before)
    assert torch.equal(filled[measured], before[measured])
    assert torch.equal(inpaint_nan(scan())[0], scan())


def test_infinite_values_are_missing_too():
    image, other = scan(), scan()
    image[0, 3, 3, 3], image[1, 5, 5, 5] = float("inf"), float("-inf")
    other[0, 3, 3, 3], other[1, 5, 5, 5] = NAN, NAN
    filled, report = inpaint_nan(image)
    assert torch.equal(filled, inpaint_nan(other)[0])
    assert report["inpainted_voxels"] == 2


def test_time_is_not_smoothed():
    image = scan()
    image[2, 4:7, 4:7, 4:7] = NAN
    changed = image.clone()
    changed[[0, 1, 3, 4]] += 1e6
    assert torch.equal(inpaint_nan(image)[0][2], inpaint_nan(changed)[0][2])


def test_air_does_not_bleed_in():
    image, brain = torch.full(SHAPE, 1000.0), torch.zeros(1, *SHAPE[1:])
    brain[:, 4:10, 4:10, 3:8] = 1
    image[:, brain[0] == 0] = 3.0
    image[:, 4:6, 4:6, 3:8] = NAN
    image[0, 0, 0, 0] = NAN  # in the air
    filled, _ = inpaint_nan(image, brain)
    torch.testing.assert_close(filled[:, brain[0] > 0], torch.full((5, int(brain.sum())), 1000.0), rtol=1e-6, atol=0)
    assert torch.equal(torch.isnan(filled).nonzero(), torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("side", range(2, 17, 2))
def test_a_hole_of_any_depth_in_constant_data_is_filled_with_the_constant(side: int, sign: int):
    """Depth 1 to 8 voxels; the centre of a hole deeper than the kernel has no weight at all, and once became 0."""
    image = torch.full((2, 20, 20, 20), 1000.0 * sign)
    hole = (slice(None), *[slice(2, 2 + side)] * 3)
    image[hole] = NAN
    filled, report = inpaint_nan(image)
    torch.testing.assert_close(filled, torch.full_like(filled, 1000.0 * sign), rtol=1e-6, atol=0)
    assert report["inpainted_voxels"] == 2 * side**3
    assert (report["inpainted_deep"] > 0) == (side > 6)
    assert report["inpainted_growth"] == (1 if side <= 6 else 2)


def test_a_hole_within_the_box_of_another_is_filled_and_counted_once():
    image, brain = 1000 + torch.rand(2, 40, 40, 40), torch.ones(40, 40, 40, dtype=torch.bool)
    image[:, 2:14, 2:4, 2:4] = NAN
    image[:, 2:4, 2:14, 2:4] = NAN  # an L, and a dot between its legs
    image[:, 11:13, 11:13, 2:4] = NAN
    image[:, 36:38, 36:38, 36:38] = NAN  # far away: one box around all would cost more
    bad = int(torch.isnan(image).sum())
    filled, report = inpaint_nan(image)
    assert report["inpainted_voxels"] == bad
    np.testing.assert_allclose(filled.numpy(), reference(image, brain, 1.0), rtol=1e-6)


def test_deep_voxels_see_measured_ones_only_and_the_rim_stays_shallow():
    """The rim is as with the first sigma, the centre as with the doubled one: nothing is filled from what was filled."""
    image, brain = torch.rand(1, 24, 24, 24) + 5, torch.ones(24, 24, 24, dtype=torch.bool)
    image[:, 7:17, 7:17, 7:17] = NAN
    filled, report = inpaint_nan(image)
    np.testing.assert_allclose(filled[0, 7, 12, 12], reference(image, brain, 1.0)[0, 7, 12, 12], rtol=1e-6)
    np.testing.assert_allclose(filled[0, 12, 12, 12], reference(image, brain, 2.0)[0, 12, 12, 12], rtol=1e-6)
    assert 0 < report["inpainted_deep"] < 1000


def test_one_measured_voxel_fills_the_whole_frame():
    image = torch.full((2, 9, 8, 7), NAN)
    image[0, 0, 0, 0], image[1, 8, 7, 6] = 3.0, -4.0
    filled, _ = inpaint_nan(image)
    torch.testing.assert_close(filled[0], torch.full((9, 8, 7), 3.0))
    torch.testing.assert_close(filled[1], torch.full((9, 8, 7), -4.0))


def test_a_frame_without_any_measured_voxel_is_refused():
    image, brain = scan(), torch.zeros(1, *SHAPE[1:])
    brain[:, 3:9, 3:9, 3:9] = 1
    image[3, brain[0] > 0] = NAN
    image = MetaTensor(image, meta={"filename_or_obj": "a.mat"})
    with pytest.raises(BadScan, match=r"^a\.mat: frame 3 of 0-4 has no finite voxel in the brain"):
        InpaintNaNd("image")({"image": image, "mask": brain})
    with pytest.raises(BadScan, match=r"its mask image is \(1, 3, 3, 3\) voxels large, a frame is \(1, 14, 13, 11\)"):
        inpaint_nan(scan(), torch.ones(1, 3, 3, 3))


def test_sigma_in_millimetres_follows_the_spacing():
    image = MetaTensor(scan(), affine=torch.diag(torch.tensor([2.0, 4.0, 8.0, 1.0])))
    image[some(0.05)] = NAN
    filled = InpaintNaN(4.0, "mm")(image)
    assert torch.equal(filled.as_tensor(), inpaint_nan(image, sigma=[2.0, 1.0, 0.5])[0])
    with pytest.raises(ValueError, match="sigma must be positive and its unit voxel or mm, not 0 voxel"):
        InpaintNaN(0)


def test_the_report_is_added_and_the_place_kept():
    image = MetaTensor(scan(), affine=torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])), meta={"filename_or_obj": "a.nii"})
    image[:, 2:5, 2:5, 2:5] = NAN
    data = {"image": image, "mask": torch.ones(1, *SHAPE[1:]), "report": {"nan_fraction": 0.01}}
    result = InpaintNaNd("image")(data)
    numbers = {"inpainted_voxels": 135, "inpainted_deep": 0, "inpainted_sigma": 1.0}
    assert result["report"] == {"nan_fraction": 0.01, **numbers}
    assert data["report"] == {"nan_fraction": 0.01}
    assert result["image"].meta["filename_or_obj"] == "a.nii"
    assert torch.equal(result["image"].affine, image.affine)
    assert InpaintNaNd("image", mask_key=None)({"image": scan()})["report"]["inpainted_sigma"] == 0


@pytest.mark.parametrize("file", ["fsl_av_fmri.nii.gz", "nipy_functional.nii.gz"])
@pytest.mark.parametrize("depth", range(1, 9))
def test_holes_planted_in_real_scans_come_close_to_the_truth(real_data: Path, file: str, depth: int):
    """Up to 5 voxels deep they are nearer to the removed values than the brain's mean is, and never much farther.

    These voxels measure 4 x 4 x 6 to 8 mm: a deeper hole swallows a ventricle, which nothing around it can tell.
    """
    truth = torch.from_numpy(nib.load(real_data / "bold" / file).get_fdata(dtype=np.float32)).movedim(-1, 0)[:20]
    centre = [n // 2 for n in truth.shape[1:]]
    sides = [slice(max(0, c - depth), c + depth) for c in centre[:2]]
    hole = (slice(None), *sides, slice(0, min(2 * depth, truth.shape[-1] - 1)))
    brain = truth.mean(0) > truth.mean()
    holed = truth.clone()
    holed[hole] = NAN
    filled, report = inpaint_nan(holed, brain[None])
    inside = torch.isnan(holed) & brain
    assert report["inpainted_voxels"] == int(inside.sum())
    assert torch.isfinite(filled[:, brain]).all()
    inside = inside[0]
    error, of_the_mean = ((v - truth).abs()[:, inside].mean() for v in (filled, truth[:, ~inside & brain].mean()))
    assert error < (0.9 if depth <= 5 else 1.05) * of_the_mean
    measured = truth[:, ~inside & brain]
    assert measured.min() <= filled[:, inside].min()
    assert filled[:, inside].max() <= measured.max()
