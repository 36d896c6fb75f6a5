from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from custom.errors import BadScan
from custom.transforms.bold_mask import MaskBOLDd, mask_bold


def test_outside_is_exactly_zero_and_inside_untouched():
    image, mask = torch.rand(3, 4, 5, 6) + 1, torch.zeros(1, 4, 5, 6, dtype=torch.uint8)
    mask[:, 1:3, 1:4, 2:5] = 1
    image[0, 0, 0, 0], image[1, 3, 4, 5], image[2, 0, 0, 1] = float("nan"), float("inf"), float("-inf")
    before = image.clone()
    masked = mask_bold(image, mask)
    inside = mask[0] > 0
    assert torch.equal(masked[:, inside], image[:, inside])
    assert torch.count_nonzero(masked[:, ~inside]) == 0
    torch.testing.assert_close(image, before, rtol=0, atol=0, equal_nan=True)


def test_a_scan_in_the_order_of_the_file_becomes_contiguous():
    image, mask = torch.rand(6, 5, 4, 3).permute(3, 2, 1, 0), torch.rand(1, 4, 5, 6) > 0.5
    masked = mask_bold(image, mask)
    assert masked.is_contiguous()
    assert torch.equal(masked, image * mask)


def test_the_mask_is_dropped_and_the_place_kept():
    image = MetaTensor(torch.rand(3, 4, 5, 6), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])), meta={"filename_or_obj": "a"})
    data = {"image": image, "mask": torch.ones(1, 4, 5, 6), "label": 1}
    result = MaskBOLDd("image")(data)
    assert set(result) == {"image", "label"}
    assert set(data) == {"image", "mask", "label"}
    assert torch.equal(result["image"].affine, image.affine)
    assert result["image"].meta["filename_or_obj"] == "a"


def test_a_mask_of_another_grid_is_refused():
    image = MetaTensor(torch.rand(3, 4, 5, 6), meta={"filename_or_obj": "a.nii"})
    with pytest.raises(BadScan, match=r"^a\.nii: its mask image is \(1, 1, 1, 1\) voxels large, a frame is \(1, 4, 5, 6\)"):
        mask_bold(image, torch.ones(1, 1, 1, 1))
