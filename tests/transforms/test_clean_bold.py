from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nilearn.signal import clean

from custom.errors import BadScan
from custom.transforms.clean_bold import CleanBOLDd, clean_bold
from custom.transforms.temporal_zscore import temporal_zscore

MODULE = importlib.import_module("custom.transforms.clean_bold")  # the package has a function of this name

TIME = torch.arange(120.0)
OPTIONS = [{}, {"high_pass": 0.01}, {"low_pass": 0.1}, {"high_pass": 0.01, "low_pass": 0.1}]


def scan() -> torch.Tensor:
    """A cube of brain, 4³ voxels with drift, in air that is 0."""
    image = torch.zeros(120, 6, 6, 6)
    noise = torch.randn(120, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    image[:, 1:5, 1:5, 1:5] = 1000 + 20 * noise + TIME.reshape(-1, 1, 1, 1)
    return image


@pytest.mark.parametrize("options", OPTIONS)
def test_the_brain_is_cleaned_by_nilearn_and_the_air_stays_zero(options: dict, monkeypatch: pytest.MonkeyPatch):
    image = MetaTensor(scan(), meta={"repetition_time": 2.0, "filename_or_obj": "a"}, affine=torch.eye(4) * 2)
    before = image.clone()
    expected = clean(scan()[:, 1:5, 1:5, 1:5].flatten(1).double().numpy(), standardize=None, t_r=2.0, **options)
    for block in (1 << 21, 120 * 9):
        monkeypatch.setattr(MODULE, "BLOCK", block)
        cleaned = CleanBOLDd("image", **options)({"image": image})["image"]
        np.testing.assert_allclose(cleaned[:, 1:5, 1:5, 1:5].flatten(1).numpy(), expected, atol=1e-4)
        assert torch.count_nonzero(cleaned.flatten(1).any(0)) == 64
    assert torch.equal(image, before)
    assert cleaned.meta["repetition_time"] == 2.0
    assert torch.equal(cleaned.affine, image.affine)


def test_a_slow_and_a_fast_wave_are_removed():
    slow, kept, fast = (torch.sin(2 * torch.pi * f * 2 * TIME).reshape(-1, 1, 1, 1) for f in (0.0021, 0.05, 0.2))
    wave = (100 + slow + kept + fast).expand(-1, 2, 2, 2)
    cleaned = clean_bold(wave, high_pass=0.01, low_pass=0.1, repetition_time=2.0)
    assert (cleaned - kept)[20:100].abs().max() < 0.2  # each wave of amplitude 1


def test_a_constant_and_a_straight_line_become_exactly_zero():
    image = torch.stack([torch.full((120,), 1234.567), 700 + 0.3 * TIME.double().float()], dim=1).reshape(120, 2, 1, 1)
    assert torch.count_nonzero(clean_bold(image)) == 0
    assert torch.count_nonzero(clean_bold(image, high_pass=0.01, repetition_time=2.0)) == 0


@pytest.mark.parametrize("options", OPTIONS[1:])
@pytest.mark.parametrize("time", [None, 0.0])
def test_a_filter_needs_the_time_between_frames(options: dict, time: float | None):
    image = MetaTensor(scan(), meta={"filename_or_obj": "a.nii", "repetition_time": time})
    with pytest.raises(BadScan, match=r"^a\.nii: the filter needs .* give --repetition_time"):
        CleanBOLDd("image", **options)({"image": image})
    CleanBOLDd("image")({"image": image})


def test_scans_that_the_filter_does_not_fit_are_refused():
    with pytest.raises(BadScan, match="frames every 6 s show frequencies below 0.0833333 Hz only, --low_pass 0.1 is beyond"):
        clean_bold(scan(), low_pass=0.1, repetition_time=6.0)
    with pytest.raises(BadScan, match="33 frames are too few for the filter"):
        clean_bold(scan()[:33], high_pass=0.01, low_pass=0.1, repetition_time=2.0)
    clean_bold(scan()[:34], high_pass=0.01, low_pass=0.1, repetition_time=2.0)
    with pytest.raises(BadScan, match="some voxels are NaN or infinite"):
        clean_bold(scan().where(TIME.reshape(-1, 1, 1, 1) != 3, float("nan")))


@pytest.mark.parametrize("options", [{"high_pass": 0.1, "low_pass": 0.1}, {"high_pass": 0}, {"low_pass": -1}])
def test_frequencies_that_mean_nothing_are_refused(options: dict):
    with pytest.raises(ValueError, match="_pass"):
        CleanBOLDd("image", **options)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_mean_can_be_kept(options: dict, monkeypatch: pytest.MonkeyPatch):
    brain = scan()[:, 1:5, 1:5, 1:5].flatten(1).double().numpy()
    expected = clean(brain, standardize=None, t_r=2.0, **options) + brain.mean(0)
    assert expected.mean() > 1000
    monkeypatch.setattr(MODULE, "BLOCK", 120 * 9)  # every voxel gets its own, whatever block it is in
    image = MetaTensor(scan(), meta={"repetition_time": 2.0})
    kept = CleanBOLDd("image", keep_mean=True, **options)({"image": image})["image"]
    np.testing.assert_allclose(kept[:, 1:5, 1:5, 1:5].flatten(1).numpy(), expected, atol=1e-3)
    assert torch.count_nonzero(kept.flatten(1).any(0)) == 64  # the air stays 0


def test_a_straight_line_becomes_exactly_its_mean():
    """So that the z score that comes next takes it for constant, as it does without a mean."""
    image = torch.stack([torch.full((120,), 1234.567), 700 + 0.3 * TIME.double().float()], dim=1).reshape(120, 2, 1, 1)
    for options in ({}, {"high_pass": 0.01, "repetition_time": 2.0}):
        kept = clean_bold(image, keep_mean=True, **options)
        assert (kept == kept[:1]).all()
        np.testing.assert_allclose(kept[0].flatten().numpy(), [1234.567, 700 + 0.3 * 59.5], rtol=1e-6)
        assert torch.count_nonzero(temporal_zscore(kept)) == 0
