from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.signal import detrend
from scipy.stats import gamma

from custom.phantoms.bold import brain_mask
from custom.phantoms.task_bold import (
    TR,
    _shared_drift,
    draw_brain,
    focus,
    response,
    simulate_run,
    task_noise,
    write_dataset,
    write_map,
    write_run,
)

SHAPE = (10, 12, 8)
FRAMES = 150


def events(onsets: list[float], duration: float) -> pd.DataFrame:
    return pd.DataFrame({"onset": onsets, "duration": duration, "trial_type": "x"})


@pytest.mark.parametrize(("onsets", "duration"), [([10.0], 16.0), ([4.0, 13.5, 30.0], 2.0)])
def test_response_is_the_canonical_one_of_peak_to_peak_one(onsets: list[float], duration: float):
    """Against SPM's difference of two gamma densities, convolved with the events every 10 ms."""
    step = 0.01
    time = np.arange(0, 60 * TR, step)
    hrf = gamma.pdf(time[time < 32], 6) - gamma.pdf(time[time < 32], 16) / 6
    drive = sum(((time >= o) & (time < o + duration)).astype(float) for o in onsets)
    expected = np.convolve(drive, hrf)[: len(time) : round(TR / step)]
    result = response(events(onsets, duration), 60)
    assert result.dtype == np.float32
    assert np.ptp(result) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(result, expected / np.ptp(expected), atol=0.02)


@pytest.mark.parametrize("effect", [1.0, 3.0])
def test_an_effect_is_per_cent_of_the_voxel_s_mean_from_trough_to_peak(effect: float):
    rng = np.random.default_rng(0)
    brain = draw_brain(rng, SHAPE)
    brain = replace(brain, noise=replace(brain.noise, tsnr=1e9))
    regions = focus(SHAPE, [(0.2, 0.1, 0.1)], 0.2)
    percent = np.multiply.outer(response(events([10, 60], 16), 80), effect * regions)
    scan = simulate_run(rng, brain, percent)
    inside = brain.mean > 0
    np.testing.assert_allclose(100 * np.ptp(scan, 0)[inside] / brain.mean[inside], effect * regions[inside], atol=2e-3)


def test_noise_is_like_that_of_real_runs():
    slow = np.cos(np.pi * np.outer(np.arange(FRAMES) + 0.5, np.arange(4)) / FRAMES)
    figures = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        brain = draw_brain(rng, SHAPE)
        scan = simulate_run(rng, brain, np.zeros((FRAMES, *SHAPE)))[:, brain.mean > 0].astype(float)
        deviation = scan - scan.mean(0)
        drift = slow @ np.linalg.lstsq(slow, deviation, rcond=None)[0]
        z = (deviation - drift) / (deviation - drift).std(0)
        power = np.linalg.svd(z, compute_uv=False) ** 2
        tsnr = np.median(scan.mean(0) / scan.std(0))
        assert 0.75 < tsnr / brain.noise.tsnr < 1.02  # jumps take something off
        figures.append([tsnr, np.median((z[1:] * z[:-1]).mean(0)), drift.var() / deviation.var(), power[0] / power.sum()])
    tsnr, memory, drifts, first = np.transpose(figures)
    assert tsnr.min() > 40
    assert tsnr.max() < 140
    assert memory.min() > 0.1
    assert memory.max() < 0.45
    assert 0.13 < drifts.mean() < 0.29
    assert 0.1 < first.mean() < 0.26


def test_half_of_the_drift_has_the_same_sign_in_every_subject():
    ramp = np.linspace(-1, 1, 80)
    inside, slopes = brain_mask(SHAPE), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        slopes.append(np.tensordot(ramp, task_noise(rng, 80, draw_brain(rng, SHAPE)), 1)[inside])
    similarity = np.corrcoef(slopes)[np.triu_indices(12, 1)]
    assert similarity.mean() > 0.2


def test_the_shared_drift_goes_on_over_the_runs_and_tells_no_run_once_detrended():
    first, second = _shared_drift(60, SHAPE, 0), _shared_drift(60, SHAPE, 1)
    map_of = first[-1] - first[0]
    np.testing.assert_allclose(np.corrcoef((second - first).mean(0).ravel(), map_of.ravel())[0, 1], 1, atol=1e-5)
    assert np.abs(second.mean(0) - first.mean(0)).max() > 1
    np.testing.assert_allclose(detrend(first, axis=0), detrend(second, axis=0), atol=1e-5)
    assert np.abs(detrend(first, axis=0)).max() > 0.3


def test_some_runs_have_frames_that_jump_all_over_the_brain():
    jumps = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        noise = task_noise(rng, 60, draw_brain(rng, SHAPE))[:, brain_mask(SHAPE)]
        frames = np.abs(np.diff(noise.mean(1), 2))
        jumps.append(frames.max() / np.median(frames))
    assert max(jumps) > 15
    assert min(jumps) < 6


def test_air_is_dark_and_the_brain_is_the_same_in_all_runs():
    brain = draw_brain(np.random.default_rng(0), SHAPE, gain=1.4)
    runs = [simulate_run(np.random.default_rng(seed), brain, np.zeros((20, *SHAPE))) for seed in (1, 2)]
    inside = brain_mask(SHAPE)
    assert runs[0][:, ~inside].mean() < 10 < 1000 < runs[0][:, inside].mean()
    assert np.corrcoef(runs[0].mean(0)[inside], runs[1].mean(0)[inside])[0, 1] > 0.98
    np.testing.assert_allclose(runs[0].mean(0)[inside] / brain.mean[inside], 1, atol=0.05)


@pytest.mark.parametrize(("axis", "centre"), [(0, (-0.6, 0, 0)), (1, (0, -0.6, 0)), (2, (0, 0, -0.6))])
def test_minus_one_is_left_posterior_and_inferior(axis: int, centre: tuple[float, float, float]):
    half = np.split(np.moveaxis(focus(SHAPE, [centre], 0.15), axis, 0), 2)
    assert half[0].sum() > 20 * half[1].sum()


def test_a_mirrored_focus_has_its_twin_on_the_other_side():
    one, both = focus(SHAPE, [(0.5, 0, 0)], 0.1), focus(SHAPE, [(0.5, 0, 0)], 0.1, mirrored=True)
    np.testing.assert_allclose(both, both[::-1], atol=1e-6)
    np.testing.assert_allclose(np.maximum(one, one[::-1]), both, atol=1e-6)
    assert not np.allclose(one, one[::-1], atol=0.1)


def test_a_shift_is_in_voxels():
    here, there = focus(SHAPE, [(0, 0, 0)], 0.15), focus(SHAPE, [(0, 0, 0)], 0.15, shift=(1, 0, -1))
    np.testing.assert_allclose(there[1:, :, :-1], here[:-1, :, 1:], atol=0.01)
    assert here.max() <= 1


def test_a_run_is_int16_in_ras_with_its_tr_and_its_events(tmp_path: Path):
    scan = np.random.default_rng(0).uniform(0, 1000, (5, *SHAPE)).astype(np.float32)
    path = tmp_path / "func" / "sub-01_task-x_bold.nii.gz"
    write_run(path, scan, pd.DataFrame({"onset": [0.5, 4.0], "duration": [2.0, np.nan]}))
    image = nib.load(path)
    assert image.shape == (*SHAPE, 5)
    assert image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == pytest.approx((20, 224 / 12, 20, TR))
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(image.affine @ [*(np.array(SHAPE) - 1) / 2, 1], [0, 0, 0, 1], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(3, 0, 1, 2), np.rint(scan))
    table = (tmp_path / "func" / "sub-01_task-x_events.tsv").read_text()
    assert table == "onset\tduration\n0.5\t2.0\n4.0\tn/a\n"


def test_a_map_lies_in_the_space_of_the_runs(tmp_path: Path):
    regions = focus(SHAPE, [(0.5, 0, 0)], 0.2)
    write_map(tmp_path / "truth" / "map.nii.gz", regions)
    write_run(tmp_path / "sub-01_bold.nii.gz", regions[None], events([0], 2))
    image = nib.load(tmp_path / "truth" / "map.nii.gz")
    np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "sub-01_bold.nii.gz").affine)
    np.testing.assert_array_equal(image.get_fdata(), regions)


def test_the_root_of_a_dataset_says_name_tr_and_people(tmp_path: Path):
    write_dataset(tmp_path / "raw", "Made up", {"rest": "Resting"}, [{"participant_id": "sub-01", "age": 20}])
    assert json.loads((tmp_path / "raw" / "dataset_description.json").read_text())["Name"] == "Made up"
    sidecar = json.loads((tmp_path / "raw" / "task-rest_bold.json").read_text())
    assert sidecar == {"RepetitionTime": TR, "TaskName": "Resting"}
    assert (tmp_path / "raw" / "participants.tsv").read_text() == "participant_id\tage\nsub-01\t20\n"
