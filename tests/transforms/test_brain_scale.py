from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.errors import BadScan
from custom.transforms import ScaleBrainPercentiles, ScaleBrainPercentilesd


def head(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A brain of random intensities 100-1000 in air of 0, (1, 12, 12, 12)."""
    image = torch.zeros(1, 12, 12, 12)
    image[:, 3:9, 3:9, 3:9] = torch.randint(100, 1000, (1, 6, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    return image.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16])
@pytest.mark.parametrize(("lower", "upper"), [(1, 99), (0, 100), (10, 50)])
def test_percentiles_are_those_of_the_brain_alone(dtype: torch.dtype, lower: float, upper: float):
    image = head(dtype)
    array = image.numpy().astype(float)
    low, high = np.percentile(array[array > 0], [lower, upper])
    expected = np.where(array > 0, np.clip((array - low) / (high - low), 0, 1), 0)
    scaled = ScaleBrainPercentiles(lower, upper)(image)
    assert scaled.dtype == torch.float32
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-6)


def test_the_air_stays_zero_and_does_not_count():
    cropped, wide = head()[:, 2:10, 2:10, 2:10], torch.nn.functional.pad(head(), [9] * 6)
    scaled = ScaleBrainPercentiles()(wide)
    assert torch.count_nonzero(scaled[wide == 0]) == 0
    torch.testing.assert_close(scaled[wide > 0], ScaleBrainPercentiles()(cropped)[cropped > 0])


def test_gain_of_the_scanner_does_not_count():
    torch.testing.assert_close(ScaleBrainPercentiles()(7.5 * head()), ScaleBrainPercentiles()(head()), atol=1e-6, rtol=0)


def test_a_blurred_edge_is_background_on_demand():
    image = head() + 5.0  # the air, as JPEG leaves it
    scaled = ScaleBrainPercentiles(background=10)(image)
    assert torch.count_nonzero(scaled[image <= 10]) == 0
    torch.testing.assert_close(scaled, ScaleBrainPercentiles()(head()), atol=1e-5, rtol=0)


def test_the_input_is_not_changed():
    image = head()
    ScaleBrainPercentiles()(image)
    torch.testing.assert_close(image, head(), rtol=0, atol=0)


def test_place_and_history_are_kept():
    image = MetaTensor(head(), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])), applied_operations=[{"class": "Flip"}])
    scaled = ScaleBrainPercentilesd("image")({"image": image, "label": 1})
    assert scaled["label"] == 1
    torch.testing.assert_close(scaled["image"].affine, image.affine)
    assert scaled["image"].applied_operations == image.applied_operations
    torch.testing.assert_close(scaled["image"].as_tensor(), ScaleBrainPercentiles()(head()))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 4, 4), "no voxel is brighter than 0"),
        (-head(), "no voxel is brighter than 0"),
        (torch.where(head() > 0, 300.0, 0.0), "the brain has one intensity only, 300"),
    ],
)
def test_without_a_brain_there_is_no_scale(image: torch.Tensor, message: str):
    with pytest.raises(BadScan, match=message):
        ScaleBrainPercentiles()(image)


@pytest.mark.parametrize(("lower", "upper"), [(99, 1), (50, 50), (-1, 99), (1, 101)])
def test_percentiles_that_are_none_are_refused(lower: float, upper: float):
    with pytest.raises(ValueError, match="0 <= lower < upper <= 100"):
        ScaleBrainPercentiles(lower, upper)
