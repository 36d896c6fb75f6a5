from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from custom.visualize.background import background, prepared

AFFINE = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("offset", [100.0, 0.0])
def test_a_scan_without_a_baseline_shows_its_variation(offset: float):
    values = torch.randn(30, 4, 3, 2, generator=torch.manual_seed(0)) + offset
    mask = torch.ones(1, 4, 3, 2)
    mask[0, 0] = 0
    values[5, 1, 1, 1], values[:, 2, 2, 1] = np.nan, np.inf  # a frame, and a voxel that was never measured
    found = background(MetaTensor(values, affine=AFFINE), mask)
    reference = values.double().numpy()
    expected = np.nanmean(reference, axis=0) if offset else np.nanstd(reference, axis=0)
    expected[0], expected[2, 2, 1] = 0, 0
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4)
    assert torch.equal(found.affine, AFFINE)


def test_the_scan_is_read_once_and_its_background_is_that_of_the_raw_scan():
    calls = []

    def load(data: dict) -> dict:
        calls.append(data["image"])
        return data | {"image": MetaTensor(torch.full((2, 1, 1, 1), 7.0)), "mask": torch.ones(1, 1, 1, 1)}

    item, volume = prepared(
        {"image": "run.nii", "subject": "1"}, Compose([load, lambda data: data | {"image": data["image"] * 0}])
    )
    assert calls == ["run.nii"]
    assert volume.flatten().tolist() == [7]
    assert item["image"].flatten().tolist() == [0, 0]
    assert item["subject"] == "1"
