from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.data import Event, Windows
from custom.errors import BadScan
from custom.transforms.centre_run import CentreRund, centre_run

MODULE = importlib.import_module("custom.transforms.centre_run")  # the package has a function of this name

WINDOWS = Windows(shift=4)
EVENTS = (Event(0, 16), Event(10, 6), Event(12, 20), Event(68, 16))  # overlapping, of several lengths, one cut off by the end


def run(mean: float = 1000, std: float = 50) -> MetaTensor:
    image = mean + std * torch.randn(40, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    image[:, 2] = 0
    return MetaTensor(
        image, affine=torch.diag(torch.tensor([3.0, 3, 3, 1])), meta={"filename_or_obj": "a", "repetition_time": 2.0}
    )


def mean_of_window_means(image: torch.Tensor) -> np.ndarray:
    exact = np.asarray(image, dtype=np.float64)
    located = WINDOWS.locate(EVENTS, len(image), 2.0, "a")
    return np.mean([exact[w.start : w.start + w.frames].mean(0) for w in located], axis=0)


@pytest.mark.parametrize("block", [1 << 17, 40 * 11, 1])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1000, 50), (1e5, 50)])
def test_equals_float64(mean: float, std: float, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODULE, "BLOCK", block)
    image = run(mean, std)
    centred = CentreRund("image", WINDOWS)({"image": image, "events": EVENTS})["image"]
    np.testing.assert_allclose(centred.numpy(), np.asarray(image, np.float64) - mean_of_window_means(image), atol=3e-6 * std)
    assert centred.dtype == torch.float32


def test_the_windows_of_a_centred_run_have_mean_zero_and_the_run_itself_has_not():
    centred = CentreRund("image", WINDOWS)({"image": run(), "events": EVENTS})["image"]
    assert np.abs(mean_of_window_means(centred)).max() < 1e-4
    assert centred.mean(0).abs().max() > 1


@pytest.mark.parametrize("item", [{}, {"events": ()}])
def test_without_events_the_mean_is_over_all_frames(item: dict):
    image = run()
    centred = CentreRund("image", WINDOWS)({"image": image, **item})["image"]
    exact = np.asarray(image, np.float64)
    np.testing.assert_allclose(centred.numpy(), exact - exact.mean(0), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_a_constant_voxel_becomes_zero_and_air_stays_exactly_zero(value: float):
    image = run()
    image[:, 4, 4, 4] = value
    centred = CentreRund("image", WINDOWS)({"image": image, "events": EVENTS})["image"]
    assert torch.count_nonzero(centred[:, 2]) == 0
    assert centred[:, 4, 4, 4].abs().max() <= 1e-6 * value


def test_the_input_and_what_is_known_of_it_stay():
    image = run()
    before = image.clone()
    item = CentreRund("image", WINDOWS, events_key="trials")({"image": image, "trials": EVENTS, "subject": "s"})
    assert torch.equal(image, before)
    assert (item["subject"], item["trials"]) == ("s", EVENTS)
    assert torch.equal(item["image"].affine, image.affine)
    assert item["image"].meta["repetition_time"] == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float):
    image = run()
    image[30, 1, 1, 1] = value
    with pytest.raises(BadScan, match="^a: some voxels are NaN or infinite"):
        centre_run(image)


def test_events_without_a_place_are_refused():
    with pytest.raises(BadScan, match="a: event 0 begins at 84 s, the run has 40 frames of 2 s"):
        CentreRund("image", WINDOWS)({"image": run(), "events": (Event(84, 16),)})
    unknown = MetaTensor(run().as_tensor(), meta={"filename_or_obj": "a"})
    with pytest.raises(BadScan, match="a: the time between two frames is not known"):
        CentreRund("image", WINDOWS)({"image": unknown, "events": EVENTS})
