from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.errors import BadScan
from custom.transforms.temporal_zscore import TemporalZScore, TemporalZScored, temporal_zscore

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
