from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized
from PIL import Image

from custom.transforms import AxialSlicesd, PictureToSliced, slice_positions

AFFINE = torch.tensor([[2.0, 0.1, 0, -10], [0, 1.5, 0.2, 5], [0.3, 0, 3.0, 7], [0, 0, 0, 1]], dtype=torch.float64)


def volume(depth: int = 10) -> MetaTensor:
    torch.manual_seed(0)
    return MetaTensor(torch.rand(1, 6, 8, depth), affine=AFFINE)


def test_known_positions():
    assert slice_positions(10, 3, 0.6) == [2, 5, 7]
    assert slice_positions(10, 6, 0.6) == [2, 3, 4, 5, 6, 7]
    assert slice_positions(10, 10, 1.0) == list(range(10))
    assert slice_positions(10, 5, 0.5) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("central", [0.3, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("extent", [7, 10, 33, 128])
def test_positions_are_distinct_even_and_central(extent: int, central: float):
    margin = extent * (1 - central) / 2
    for num_slices in range(2, int(extent * central) + 1):
        positions = slice_positions(extent, num_slices, central)
        steps = [b - a for a, b in pairwise(positions)]
        assert len(positions) == num_slices
        assert min(steps) >= 1
        assert max(steps) - min(steps) <= 1
        assert margin - 0.5 <= positions[0]
        assert positions[-1] <= extent - margin - 0.5


@pytest.mark.parametrize(("num_slices", "central"), [(7, 0.6), (0, 0.6), (1, 0.0), (5, 1.5)])
def test_slices_that_do_not_fit_are_refused(num_slices: int, central: float):
    with pytest.raises(ValueError, match=f"{num_slices} slices do not fit into the central {central:g} of 10 voxels"):
        slice_positions(10, num_slices, central)


def test_slices_hold_what_stood_there():
    image = volume()
    items = AxialSlicesd("image", num_slices=3)({"image": image, "label": 1})
    assert [item["slice"] for item in items] == [2, 5, 7]
    for item in items:
        assert item["label"] == 1
        assert item["image"].shape == (1, 6, 8, 1)
        torch.testing.assert_close(item["image"].as_tensor(), image.as_tensor()[..., item["slice"] : item["slice"] + 1])


def test_a_slice_keeps_its_place_in_space():
    for item in AxialSlicesd("image", num_slices=3)({"image": volume()}):
        for i, j in ((0, 0), (5, 0), (2, 7)):
            in_slice = item["image"].affine @ torch.tensor([i, j, 0, 1.0], dtype=torch.float64)
            in_volume = AFFINE @ torch.tensor([i, j, item["slice"], 1.0], dtype=torch.float64)
            torch.testing.assert_close(in_slice, in_volume)


def test_inverse_puts_a_slice_back_where_it_was():
    image, transform = volume(), AxialSlicesd("image", num_slices=3)
    for item in transform({"image": image}):
        back = transform.inverse(item)["image"]
        expected = torch.zeros(1, 6, 8, 10)
        expected[..., item["slice"]] = image.as_tensor()[..., item["slice"]]
        torch.testing.assert_close(back.as_tensor(), expected)
        torch.testing.assert_close(back.affine, AFFINE)


def test_several_volumes_by_one_transform():
    """Two depths: a position is cut, and put back, in each of them."""
    transform = AxialSlicesd("image", num_slices=2)
    cut = [item for depth in (10, 20) for item in transform({"image": volume(depth)})]
    assert [item["slice"] for item in cut] == [2, 7, 4, 15]
    assert [transform.inverse(item)["image"].shape[-1] for item in cut] == [10, 10, 20, 20]


def test_the_slices_go_on_through_a_chain_and_back():
    chain = Compose([AxialSlicesd("image", num_slices=2), Resized("image", spatial_size=[12, 16, 1], mode="nearest")])
    image = volume()
    items = chain({"image": image})
    assert [tuple(item["image"].shape) for item in items] == [(1, 12, 16, 1)] * 2
    back = sum(chain.inverse(item)["image"].as_tensor() for item in items)
    assert back.shape == image.shape
    for z in range(10):
        expected = image.as_tensor()[..., z] if z in (2, 7) else torch.zeros(1, 6, 8)
        torch.testing.assert_close(back[..., z], expected)


def test_the_input_is_not_changed():
    data = {"image": volume()}
    AxialSlicesd("image", num_slices=3)(data)
    assert set(data) == {"image"}
    assert data["image"].applied_operations == []
    torch.testing.assert_close(data["image"], volume())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """8 wide and 6 high, one bright pixel in the upper right: third from the right, second from the top."""
    array = np.zeros((6, 8), dtype=np.uint8)
    array[1, 5] = 255
    Image.fromarray(array).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_a_picture_becomes_an_upright_slice(picture: Path):
    load = Compose([LoadImaged("image", reader="PILReader"), EnsureChannelFirstd("image"), PictureToSliced("image", 2.5)])
    image = load({"image": str(picture)})["image"]
    assert image.shape == (1, 8, 6, 1)
    assert torch.nonzero(image.as_tensor()).tolist() == [[0, 5, 4, 0]]  # x to the right, y upwards
    torch.testing.assert_close(image.affine, torch.diag(torch.tensor([2.5, 2.5, 2.5, 1.0], dtype=torch.float64)))
    assert image.meta["filename_or_obj"] == str(picture)


def test_what_was_known_of_the_pictures_axes_is_dropped():
    image = MetaTensor(torch.rand(1, 4, 5), meta={"filename_or_obj": "a.jpg", "spatial_shape": [4, 5], "extra": 1})
    meta = PictureToSliced("image")({"image": image})["image"].meta
    assert "extra" not in meta
    assert meta["filename_or_obj"] == "a.jpg"
