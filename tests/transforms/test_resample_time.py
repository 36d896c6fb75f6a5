from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.interpolate import make_interp_spline
from scipy.signal import butter, sosfiltfilt

from custom.errors import BadScan
from custom.transforms.resample_time import ResampleTimed, resample_time

MODULE = importlib.import_module("custom.transforms.resample_time")  # the package has a function of this name


def run(series: np.ndarray, time: float | None = 2.0) -> MetaTensor:
    meta = {"filename_or_obj": "a.nii"} | ({"repetition_time": time} if time is not None else {})
    voxels = torch.from_numpy(series.astype(np.float32)).reshape(len(series), -1, 1, 1)
    return MetaTensor(voxels, affine=torch.diag(torch.tensor([3.0, 3, 3, 1])), meta=meta)


def wave(frequency: float, frames: int, time: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * time * np.arange(frames) + 0.4)


@pytest.mark.parametrize(("old", "new"), [(2.5, 2.0), (2.0, 1.0), (2.0, 3.0), (0.8, 2.0), (2.0, 2.1)])
def test_a_wave_that_both_times_show_is_kept(old: float, new: float):
    frames = round(400 / old)
    resampled = resample_time(run(500 + 10 * wave(0.03, frames, old)), old, new).flatten()
    expected = 500 + 10 * wave(0.03, len(resampled), new)
    np.testing.assert_allclose(resampled[10:-10], expected[10:-10], atol=0.1)  # 1 % of the amplitude
    np.testing.assert_allclose(resampled[[0, -1]], expected[[0, -1]], atol=1.0)


def test_a_wave_that_the_new_time_cannot_show_does_not_fold_back():
    """0.4 Hz, seen every 2 s, would be 0.1 Hz."""
    fast = run(1000 + 10 * wave(0.4, 300, 1.0))
    assert resample_time(fast, 1.0, 2.0)[10:-10].sub(1000).abs().max() < 0.05
    assert fast[::2].sub(1000).abs().max() > 9


@pytest.mark.parametrize("block", [1 << 20, 60 * 2, 1])
@pytest.mark.parametrize("new", [1.3, 3.1])
def test_equals_scipy_in_float64(new: float, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODULE, "BLOCK", block)
    series = 1000 + 50 * np.random.default_rng(0).standard_normal((60, 7))
    exact = np.asarray(run(series), np.float64).reshape(60, 7)
    mean = exact.mean(0)
    filtered = exact - mean if new < 2 else sosfiltfilt(butter(5, 2 / new, output="sos"), exact - mean, axis=0)
    expected = make_interp_spline(2.0 * np.arange(60), filtered + mean)(np.arange(0, 118.001, new))
    np.testing.assert_allclose(resample_time(run(series), 2.0, new).flatten(1), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("frames", "old", "new"), [(121, 2.5, 2.0), (232, 2.0, 0.7), (90, 1.1, 3.0), (61, 0.1, 0.3), (50, 2.0, 4.0), (45, 1.4, 1.1)]
)
def test_the_frames_are_those_within_the_run_from_its_first_on(frames: int, old: float, new: float):
    line = resample_time(run(np.arange(frames) * old, old), old, new).flatten()
    assert len(line) == int(np.floor(round((frames - 1) * old / new, 9))) + 1
    np.testing.assert_allclose(line, np.arange(len(line)) * new, atol=2e-4 * frames * old)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
@pytest.mark.parametrize("new", [1.5, 3.0])
def test_a_constant_keeps_its_value_and_air_is_exactly_zero(value: float, new: float):
    resampled = resample_time(run(np.full((60, 4), value)), 2.0, new)
    np.testing.assert_allclose(resampled, value, rtol=1e-6, atol=0)


def test_the_image_knows_its_new_time_and_the_old_image_its_old_one():
    image = run(wave(0.03, 40, 2.0))
    item = ResampleTimed("image", 1.0)({"image": image, "label": 1})
    assert (item["image"].meta["repetition_time"], image.meta["repetition_time"]) == (1.0, 2.0)
    assert item["image"].shape == (79, 1, 1, 1)
    assert item["image"].dtype == torch.float32
    assert torch.equal(item["image"].affine, image.affine)
    assert item["image"].meta["filename_or_obj"] == "a.nii"
    assert item["label"] == 1


@pytest.mark.parametrize("time", [2.0, 2.0000001, 1.99999])
def test_a_run_that_has_the_time_is_not_touched(time: float):
    image = run(wave(0.03, 5, 2.0), time)
    assert ResampleTimed("image", 2.0)({"image": image})["image"] is image


@pytest.mark.parametrize("time", [None, 0.0])
def test_a_run_that_does_not_tell_its_time_is_refused(time: float | None):
    with pytest.raises(BadScan, match=r"a\.nii: the time between two frames is not known.*--repetition_time"):
        ResampleTimed("image", 2.0)({"image": run(np.ones(30), time)})


@pytest.mark.parametrize(("frames", "new", "needed"), [(18, 3.0, 19), (3, 1.0, 4)])
def test_a_run_that_is_too_short_is_refused(frames: int, new: float, needed: int):
    with pytest.raises(BadScan, match=rf"a\.nii: {frames} frames are too few .*, {needed} are needed"):
        resample_time(run(np.ones(frames)), 2.0, new)
    resample_time(run(np.ones(needed)), 2.0, new)


def test_what_is_not_finite_is_refused():
    series = np.ones((40, 3))
    series[7, 1] = np.nan
    with pytest.raises(BadScan, match=r"a\.nii: some voxels are NaN or infinite"):
        resample_time(run(series), 2.0, 1.0)


@pytest.mark.parametrize("time", [0, -2.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(time: float):
    with pytest.raises(ValueError, match="repetition_time is in seconds and above 0"):
        ResampleTimed("image", time)
