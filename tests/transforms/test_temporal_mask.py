"""Masking in time, and what MONAI's transforms in space do to a window (F, X, Y, Z), whose channels are its frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import BorderPadd, Compose, RandCoarseDropoutd, RandGaussianNoised, RandSpatialCropd

from custom.transforms.temporal_mask import RandFrameMaskd

WINDOW = torch.rand(8, 6, 5, 4, generator=torch.Generator().manual_seed(0)) + 1


def masked_frames(image: torch.Tensor) -> list[int]:
    """Return the frames that are 0, and check that the others are as before."""
    masked = image.flatten(1).eq(0).all(1)
    assert torch.equal(image[~masked], WINDOW[: len(image)][~masked])
    return torch.nonzero(masked).flatten().tolist()


def test_consecutive_frames_of_every_number_and_place_become_zero():
    transform = RandFrameMaskd("image", prob=1.0, max_frames=3).set_random_state(0)
    found = []
    for _ in range(600):
        frames = masked_frames(transform({"image": WINDOW})["image"])
        assert frames == list(range(transform.masked.start, transform.masked.stop))
        found.append((frames[0], len(frames)))
    assert set(found) == {(start, width) for width in (1, 2, 3) for start in range(8 - width + 1)}
    assert np.bincount([width for _, width in found])[1:].min() > 150  # of 200 expected


def test_the_probability_is_that_of_a_window():
    transform = RandFrameMaskd("image", prob=0.3, max_frames=2).set_random_state(0)
    share = np.mean([bool(masked_frames(transform({"image": WINDOW})["image"])) for _ in range(500)])
    assert share == pytest.approx(0.3, abs=0.07)


def test_measured_frames_are_masked_and_one_of_them_is_left():
    mask = torch.arange(8) < 4
    transform = RandFrameMaskd("image", prob=1.0, max_frames=8).set_random_state(0)
    for _ in range(60):
        item = transform({"image": WINDOW, "frame_mask": mask})
        frames = masked_frames(item["image"])
        assert 1 <= len(frames) <= 3
        assert max(frames) < 4
        assert item["frame_mask"] is mask
    assert masked_frames(transform({"image": WINDOW[:1]})["image"]) == []


def test_the_seed_decides_keys_share_frames_and_the_input_stays():
    image = MetaTensor(WINDOW.clone(), affine=torch.eye(4), meta={"filename_or_obj": "a"})
    draws = []
    for seed in (1, 1, 2):
        transform = RandFrameMaskd(["a", "b"], prob=1.0).set_random_state(seed)
        items = [transform({"a": image, "b": image}) for _ in range(20)]
        assert all(torch.equal(item["a"], item["b"]) for item in items)
        draws.append([masked_frames(item["a"].as_tensor()) for item in items])
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(image.as_tensor(), WINDOW)
    assert items[0]["a"].meta["filename_or_obj"] == "a"


@pytest.mark.parametrize(("prob", "frames"), [(-0.1, 1), (1.1, 1), (0.5, 0)])
def test_impossible_numbers_are_refused(prob: float, frames: int):
    with pytest.raises(ValueError, match=r"prob is in \[0, 1\] and max_frames at least 1"):
        RandFrameMaskd("image", prob, frames)


def test_monais_coarse_dropout_takes_the_same_voxels_out_of_all_frames():
    transform = RandCoarseDropoutd("image", holes=1, spatial_size=2, fill_value=0.0, prob=1.0)
    image = transform.set_random_state(0)({"image": WINDOW.clone()})["image"]  # it works in place
    hole = image[0] == 0
    assert int(hole.sum()) == 8
    assert bool(((image == 0) == hole).all())
    assert torch.equal(image[:, ~hole], WINDOW[:, ~hole])


def test_padding_and_a_random_crop_move_all_frames_alike_by_whole_voxels():
    chain = Compose([BorderPadd("image", 1), RandSpatialCropd("image", (6, 5, 4), random_size=False)]).set_random_state(0)
    padded = torch.nn.functional.pad(WINDOW, [1] * 6)
    places = {(x, y, z): padded[:, x : x + 6, y : y + 5, z : z + 4] for x in range(3) for y in range(3) for z in range(3)}
    found = set()
    for _ in range(200):
        image = chain({"image": WINDOW})["image"]
        (place,) = [place for place, moved in places.items() if torch.equal(image.as_tensor(), moved)]  # no flip, no mixing
        found.add(place)
    assert found == set(places)


def test_monais_noise_is_new_in_every_frame():
    image = RandGaussianNoised("image", prob=1.0, std=0.1).set_random_state(0)({"image": WINDOW})["image"]
    noise = np.asarray(image - WINDOW).reshape(8, -1)
    assert noise.std() < 0.11
    assert np.abs(np.corrcoef(noise)[np.triu_indices(8, 1)]).max() < 0.5
