from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.errors import BadScan
from custom.transforms import CheckScand, check_scan


def volume() -> torch.Tensor:
    return torch.arange(24.0).reshape(1, 2, 3, 4)


def with_value(value: float) -> torch.Tensor:
    image = volume()
    image[0, 0, 1, 2] = value
    return image


def test_a_good_scan_passes_unchanged():
    image = MetaTensor(volume(), meta={"filename_or_obj": "head.img"})
    data = {"image": image, "label": 1}
    assert CheckScand("image", spatial_dims=3)(data) == data
    assert CheckScand("image", spatial_dims=3)(data)["image"] is image
    check_scan(volume()[..., 0], spatial_dims=2, name="slice")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 2, 3, 4), r"a single 3D image is wanted, this one has \(channels, \*space\) = \(3, 2, 3, 4\)"),
        (torch.rand(1, 2, 3), "a single 3D image"),
        (torch.rand(1, 2, 3, 4, 5), "a single 3D image"),
        (torch.rand(1, 2, 0, 4), "the image is empty"),
        (with_value(float("nan")), "1 of 24 voxels are NaN or infinite"),
        (with_value(float("-inf")), "1 of 24 voxels are NaN or infinite"),
        (torch.zeros(1, 2, 3, 4), "every voxel is 0"),
        (torch.full((1, 2, 3, 4), 7, dtype=torch.int16), "every voxel is 7"),
    ],
)
def test_a_bad_scan_is_refused_and_named(image: torch.Tensor, message: str):
    with pytest.raises(BadScan, match=rf"^sub-01\.img: .*{message}"):
        check_scan(image, 3, "sub-01.img")
    with pytest.raises(BadScan, match=r"^sub-01\.img: "):
        CheckScand("image", 3)({"image": MetaTensor(image, meta={"filename_or_obj": "sub-01.img"})})


def test_arrays_are_checked_as_tensors_are():
    with pytest.raises(BadScan, match="image: every voxel is 0"):
        CheckScand("image", 3)({"image": np.zeros((1, 2, 3, 4))})


def test_a_missing_image_is_an_error_unless_allowed():
    with pytest.raises(KeyError):
        CheckScand("image", 3)({})
    assert CheckScand("image", 3, allow_missing_keys=True)({}) == {}
