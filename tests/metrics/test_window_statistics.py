from __future__ import annotations

import numpy as np
import pytest
from generation_cases import AR, FRAMES, GRID, brain, process

from custom.metrics.window_statistics import check_windows, compare_statistics, correlation, window_statistics


def statistics(values: np.ndarray, mask: np.ndarray | None = None, **options):
    return window_statistics(values, brain() if mask is None else mask, **options)


def test_mean_and_variance_are_over_windows_and_frames():
    windows = process(3, 0).values
    found, frames = statistics(windows), np.concatenate(windows)[:, brain()].astype(float)
    np.testing.assert_allclose(found.mean, frames.mean(0))
    np.testing.assert_allclose(found.variance, frames.var(0))


def test_autocorrelation_of_a_known_series_is_pooled_by_energy_and_takes_off_each_windows_mean():
    series = np.array([[5.0, 1.0, 3.0, 3.0], [-10.0, 10.0, -10.0, 10.0]])  # about 3: 2 -2 0 0
    windows = np.zeros((2, 4, 1, 1, 1)) + series[:, :, None, None, None]
    found = statistics(windows, np.ones((1, 1, 1), bool))
    assert found.autocorrelation == pytest.approx([(-4 - 300) / (8 + 400)])


def test_autocorrelation_of_white_noise_is_about_minus_one_over_f_and_of_ar1_higher():
    white, slow = (statistics(process(60, 3, ar=ar).values).autocorrelation.mean() for ar in (0.0, AR))
    assert white == pytest.approx(-1 / FRAMES, abs=0.03)
    # expectation of the numerator over that of the denominator, of the centred covariance matrix of AR(1)
    centre = np.eye(FRAMES) - 1 / FRAMES
    covariance = centre @ AR ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES))) @ centre
    assert slow == pytest.approx(np.trace(covariance, 1) / np.trace(covariance), abs=0.04)


@pytest.mark.parametrize("frames", [1, 2])
def test_autocorrelation_needs_three_frames(frames: int):
    a = statistics(process(4, 4).values[:, :frames])
    assert a.autocorrelation is None
    assert compare_statistics(a, a)["lag1_correlation"] is None
    assert np.isfinite(a.connectivity).all()


def test_connectivity_ignores_the_means_of_windows():
    windows, mask = process(4, 5).values, brain()
    shift = 10 * np.random.default_rng(0).normal(size=(len(windows), 1, *GRID)) * mask
    expected = np.corrcoef(np.concatenate(windows - windows.mean(1, keepdims=True))[:, mask].T)
    np.testing.assert_allclose(statistics(windows).connectivity, expected, atol=1e-5)
    np.testing.assert_allclose(statistics(windows + shift).connectivity, expected, atol=1e-5)


def test_connectivity_of_single_frames_takes_off_the_grand_mean():
    windows = process(6, 6).values[:, :1]
    expected = np.corrcoef(windows[:, 0][:, brain()].T)
    np.testing.assert_allclose(statistics(windows).connectivity, expected, atol=1e-6)


def test_many_voxels_are_a_subset_that_the_seed_chooses():
    windows = np.random.default_rng(0).normal(size=(2, 3, 30, 30, 1))
    mask = np.ones((30, 30, 1), bool)
    a, same, other = (statistics(windows, mask, seed=s).connectivity for s in (0, 0, 1))
    assert a.shape == (500, 500)
    assert (a == same).all()
    assert (a != other).any()


def test_constant_voxels_are_counted_and_correlate_with_nothing():
    windows = process(3, 7).values.copy()
    windows[:, :, 4, 4, 0] = 1.5
    found, voxel = statistics(windows), np.flatnonzero(brain().ravel()).tolist().index(4 * GRID[1] + 4)
    assert found.constant == 1
    assert found.autocorrelation[voxel] == 0
    assert np.abs(np.delete(found.connectivity[voxel], voxel)).max() == 0
    assert found.connectivity[voxel, voxel] == 1


def test_high_frequency_share_of_plane_waves():
    x = np.arange(16)[:, None, None] * np.ones((16, 8, 4))
    mask = np.ones((16, 8, 4), bool)
    slow, fast = np.cos(2 * np.pi * x * 3 / 16), np.cos(2 * np.pi * x * 5 / 16)
    found = statistics((2 * slow + fast)[None, None], mask).high_frequency
    assert found == pytest.approx(1 / 5)


def test_compared_with_itself_everything_agrees():
    a = statistics(process(3, 8).values)
    found = compare_statistics(a, a)
    assert found["mean_rmse"] == 0
    assert found["fc_distance"] == pytest.approx(0)
    ones = ("mean_correlation", "variance_ratio_median", "variance_ratio_q25", "lag1_correlation", "high_frequency_ratio")
    assert [found[name] for name in ones] == pytest.approx([1] * 5)


def test_ratios_and_errors_have_the_right_direction():
    real = process(3, 9).values
    found = compare_statistics(statistics(2 * real + 3 * brain()), statistics(real))
    assert found["variance_ratio_median"] == pytest.approx(4)
    mean = real[:, :, brain()].mean((0, 1))
    assert found["mean_rmse"] == pytest.approx(np.sqrt(((mean + 3) ** 2).mean()), rel=1e-5)
    rough = compare_statistics(statistics(process(3, 9, smooth=0).values), statistics(real))
    assert rough["high_frequency_ratio"] > 2


def test_constant_maps_have_no_correlation():
    assert correlation(np.ones(5), np.arange(5.0)) is None
    assert correlation(np.array([1.0]), np.array([2.0])) is None
    assert correlation(np.array([]), np.array([])) is None  # the pairs of a single voxel
    found = compare_statistics(statistics(np.zeros((2, 4, *GRID))), statistics(process(3, 1).values))
    assert found["mean_correlation"] is found["fc_distance"] is None
    assert found["variance_ratio_median"] == 0


@pytest.mark.parametrize(
    ("windows", "mask", "message"),
    [
        (np.zeros((2, 3, 4, 4)), np.ones((4, 4, 1), bool), "windows .N, F, X, Y, Z"),
        (np.zeros((0, 3, 4, 4, 1)), np.ones((4, 4, 1), bool), "shape .0"),
        (np.zeros((2, 3, 4, 4, 1)), np.ones((4, 5, 1), bool), "does not fit"),
        (np.zeros((2, 3, 4, 4, 1)), np.zeros((4, 4, 1), bool), "0 voxels"),
        (np.zeros((2, 3, 4, 4, 1)), np.ones((4, 4, 1)), "float64"),
        (np.stack([np.zeros((3, 4, 4, 1)), np.full((3, 4, 4, 1), np.nan)]), np.ones((4, 4, 1), bool), "first in window 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(windows: np.ndarray, mask: np.ndarray, message: str):
    with pytest.raises(ValueError, match=f"^samples: .*{message}"):
        check_windows(windows, mask, "samples")
