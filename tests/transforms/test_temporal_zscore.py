from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.errors import BadScan
from custom.transforms.temporal_zscore import TemporalZScore, TemporalZScored, temporal_scale, temporal_zscore

MODULE = importlib.import_module("custom.transforms.temporal_zscore")  # the package has a function of this name


def scan(mean: float = 1000, std: float = 50) -> torch.Tensor:
    return mean + std * torch.randn(60, 7, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1000, 50), (-3000, 1), (1e5, 50), (1e-3, 1e-4)])
def test_equals_float64(mean: float, std: float):
    image = scan(mean, std)
    exact = image.double().numpy()
    expected = (exact - exact.mean(0)) / exact.std(0)
    scaled = temporal_zscore(image)
    np.testing.assert_allclose(scaled.numpy(), expected, atol=3e-6)
    assert scaled.dtype == torch.float32


def test_more_voxels_than_a_block(monkeypatch: pytest.MonkeyPatch):
    whole = temporal_zscore(scan())
    monkeypatch.setattr(MODULE, "BLOCK", 60 * 11)
    torch.testing.assert_close(temporal_zscore(scan()), whole, atol=1e-6, rtol=0)
    monkeypatch.setattr(MODULE, "BLOCK", 1)
    torch.testing.assert_close(temporal_zscore(scan()), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1234.567, -3e4])
def test_constant_voxels_become_exactly_zero(value: float):
    image = scan()
    image[:, 1, 2, 3] = value
    image[:, 4, 4, 4] = torch.full((60,), value) * (1 + 1e-7 * torch.randn(60))  # rounding, as resampling leaves it
    scaled = temporal_zscore(image)
    assert torch.count_nonzero(scaled[:, [1, 4], [2, 4], [3, 4]]) == 0
    assert torch.count_nonzero(scaled.abs().sum(0) == 0) == 2


def test_a_small_real_signal_is_kept():
    image = torch.full((60, 1, 1, 1), 1e4)
    image[::2] += 1.0
    torch.testing.assert_close(temporal_zscore(image).abs(), torch.ones_like(image))


def test_one_spike_is_no_constant():
    image = torch.zeros(60, 1, 1, 1)
    image[7] = 5.0
    assert temporal_zscore(image)[7].item() == pytest.approx(59**0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float):
    image = MetaTensor(scan(), meta={"filename_or_obj": "a.nii"})
    image[3, 1, 1, 1] = value
    with pytest.raises(BadScan, match=r"^a\.nii: some voxels are NaN or infinite"):
        temporal_zscore(image)


def test_the_input_and_what_is_known_of_it_stay():
    image = MetaTensor(scan(), affine=torch.diag(torch.tensor([3.0, 3, 3, 1])), applied_operations=[{"class": "Flip"}])
    before = image.clone()
    scaled = TemporalZScored("image")({"image": image, "label": 1})
    assert torch.equal(image, before)
    assert scaled["label"] == 1
    assert torch.equal(scaled["image"].affine, image.affine)
    assert scaled["image"].applied_operations == image.applied_operations
    assert torch.equal(scaled["image"], TemporalZScore()(image))
    permuted = scan().permute(0, 3, 2, 1)
    torch.testing.assert_close(temporal_zscore(permuted), temporal_zscore(permuted.contiguous()))


# the way back


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1000, 50), (-3000, 1), (1e5, 50), (1e-3, 1e-4)])
def test_the_scale_equals_float64(mean: float, std: float):
    image = scan(mean, std)
    scale = temporal_scale(image)
    assert (scale.shape, scale.dtype) == ((2, 7, 6, 5), torch.float32)
    np.testing.assert_allclose(scale[0].numpy(), image.double().numpy().mean(0), atol=1e-6 * std, rtol=1e-7)
    np.testing.assert_allclose(scale[1].numpy(), image.double().numpy().std(0), rtol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1000, 50), (1e5, 50)])
def test_scores_times_the_scale_are_the_scan_again(mean: float, std: float):
    image = scan(mean, std)
    image[:, 0] = mean / 3
    item = TemporalZScored("image", scale_key="scale")({"image": image})
    torch.testing.assert_close(item["image"] * item["scale"][1] + item["scale"][0], image, atol=2e-6 * std, rtol=2e-7)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1234.567, -3e4])
def test_constant_voxels_have_no_scatter(value: float):
    """What is not 0 in the scale is where samples are drawn: the same rule as for the scores."""
    image = scan()
    image[:, 1, 2, 3] = value
    image[:, 4, 4, 4] = torch.full((60,), value) * (1 + 1e-7 * torch.randn(60, generator=torch.Generator().manual_seed(1)))
    scale = temporal_scale(image)
    assert torch.equal(scale[1] > 0, temporal_zscore(image).any(0))
    assert torch.count_nonzero(scale[1] == 0) == 2
    np.testing.assert_allclose(scale[0, [1, 4], [2, 4], [3, 4]].numpy(), value, rtol=1e-6)


def test_the_scale_lies_where_it_is_asked_for():
    image = MetaTensor(scan(), affine=torch.diag(torch.tensor([3.0, 3, 3, 1])))
    before = image.clone()
    item = TemporalZScored("image", scale_key="way back")({"image": image, "label": 1})
    assert set(item) == {"image", "label", "way back"}
    assert torch.equal(item["way back"], temporal_scale(before))  # of the scan, not of its scores
    assert torch.equal(item["way back"].affine, image.affine)
    assert torch.equal(item["image"], temporal_zscore(before))
    assert torch.equal(image, before)
    assert set(TemporalZScored("image")({"image": image})) == {"image"}


def test_one_scale_is_not_that_of_two_images():
    with pytest.raises(ValueError, match=r"one scale_key, 'scale', cannot take the scales of \('image', 'other'\)"):
        TemporalZScored(["image", "other"], scale_key="scale")
    TemporalZScored(["image", "other"])


def test_a_scan_that_is_not_finite_has_no_scale():
    image = MetaTensor(scan(), meta={"filename_or_obj": "a.nii"})
    image[3, 1, 1, 1] = float("nan")
    with pytest.raises(BadScan, match=r"^a\.nii: some voxels are NaN or infinite"):
        TemporalZScored("image", scale_key="scale")({"image": image})
