from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from diffusion.gaussian_problem import GaussianProblem, small_problem
from monai.networks.schedulers import DDPMScheduler
from scipy.ndimage import gaussian_filter

from custom.diffusion.compare import (
    compare,
    energy_distance,
    high_frequency_power,
    region_correlations,
    sample_quality,
    sliced_wasserstein,
)
from custom.diffusion.dpm_solver import DPMSolverScheduler

SHORT = {"num_train_timesteps": 60, "beta_start": 2e-3, "beta_end": 0.3, "prediction_type": "v_prediction"}


def smooth_windows(count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((count, 2, 8, 6, 1)).astype(np.float32)
    windows = gaussian_filter(noise, (0, 0, 1, 1, 0), mode="wrap") * 3
    windows[:, :, 0] = 0  # outside the brain
    return windows


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    ddpm = DDPMScheduler(**SHORT, clip_sample=False)
    small = small_problem(2, 2, (4, 3, 1))
    covariance = (small.axes * small.variances) @ small.axes.T
    network = GaussianProblem(small.means, covariance, ddpm.alphas_cumprod)
    labels = torch.arange(2).repeat(20)
    candidates = {"fine": (DPMSolverScheduler(**SHORT), 15), "coarse": (DPMSolverScheduler(**SHORT, order=1), 3)}
    return compare(network, ddpm, network.draw(labels), labels, candidates, seeds=[0, 1, 2], batch_size=40)


def test_table_has_a_row_per_sampler_and_its_cost(table: pd.DataFrame) -> None:
    assert table.index.tolist() == ["DDPM", "fine", "coarse"]
    assert table["evaluations"].tolist() == [60, 15, 3]
    assert table["of_ddpm"].tolist() == [1, 0.25, 0.05]
    assert np.isfinite(table.to_numpy(dtype=float)).all()
    assert (table.filter(regex="_sd$") > 0).all(axis=None)


def test_few_good_steps_are_level_with_ddpm_and_few_bad_ones_are_not(table: pd.DataFrame) -> None:
    for name in ("voxel_std", "high_frequency"):
        assert table.loc["fine", name] == pytest.approx(1, abs=0.2)
        assert table.loc["coarse", name] < 0.9
    assert table.loc["fine", "energy"] < 0.5 * table.loc["coarse", "energy"]


def test_distance_from_ddpm_is_in_standard_deviations_of_both(table: pd.DataFrame) -> None:
    ddpm, coarse = table.loc["DDPM"], table.loc["coarse"]
    pooled = np.sqrt((ddpm["energy_sd"] ** 2 + coarse["energy_sd"] ** 2) / 2)
    assert coarse["energy_off"] == pytest.approx((coarse["energy"] - ddpm["energy"]) / pooled)
    assert ddpm["energy_off"] == 0


def test_other_real_windows_are_at_the_best_values() -> None:
    figures = sample_quality(smooth_windows(150, 0), smooth_windows(150, 1))
    assert figures["voxel_std"] == pytest.approx(1, abs=0.05)
    assert figures["high_frequency"] == pytest.approx(1, abs=0.05)
    assert abs(figures["energy"]) < 0.01
    assert figures["sliced_wasserstein"] < 0.25
    assert figures["connectivity"] < 0.15


@pytest.mark.parametrize(
    ("change", "name", "least"),
    [
        (lambda x: 1.5 * x, "voxel_std", 1.35),
        (lambda x: x + 0.3 * np.random.default_rng(0).standard_normal(x.shape), "high_frequency", 2.0),
        (lambda x: x + 0.7, "energy", 0.1),
        (lambda x: x + 0.7, "sliced_wasserstein", 0.4),
        (lambda x: np.random.default_rng(0).permuted(x, axis=0), "connectivity", 0.15),
    ],
    ids=["wider", "noisy", "shifted", "shifted ", "voxels on their own"],
)
def test_each_figure_sees_its_fault(change, name: str, least: float) -> None:
    assert sample_quality(smooth_windows(150, 0), change(smooth_windows(150, 1)))[name] > least


def test_outside_the_brain_counts_for_nothing_but_the_spectrum() -> None:
    real, fake = smooth_windows(50, 0), smooth_windows(50, 1)
    before = sample_quality(real, fake)
    fake[:, :, 0] = 5
    after = sample_quality(real, fake)
    for name in ("voxel_std", "sliced_wasserstein", "energy"):
        assert after[name] == before[name]


def test_high_frequency_power_of_waves() -> None:
    x = np.arange(16)
    for period, power in ((16, 0), (5.34, 0), (3.2, 1), (2, 1)):
        wave = np.cos(2 * np.pi * round(16 / period) * x / 16)[None, None, :, None, None]
        assert (high_frequency_power(wave) > 0.5) == power
    white = np.random.default_rng(0).standard_normal((200, 1, 16, 16, 1))
    assert high_frequency_power(2 * white) == pytest.approx(4, rel=0.02)


def test_distances_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4000, 1))
    # in one dimension: W1 of a shift is the shift; energy of N(0, 1), N(m, 1) by E|N(m, 2)| in closed form
    assert sliced_wasserstein(a, a + 0.5) == pytest.approx(0.5, abs=1e-6)
    m, spread = 1.0, np.sqrt(2)
    from scipy.stats import norm

    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(m**2) / 4) + m * (1 - 2 * norm.cdf(-m / spread))
    assert energy_distance(a, b + m) == pytest.approx(2 * folded - 2 * 2 / np.sqrt(np.pi), abs=0.06)


def test_region_correlations_are_numpys_and_0_where_nothing_varies() -> None:
    windows = smooth_windows(20, 0)
    regions = windows.reshape(40, 4, 2, 6)[..., [0, 1, 2, 3, 4, 5]].mean(2)
    pooled = np.stack([regions[..., 0:2].mean(-1), regions[..., 1:3].mean(-1), regions[..., 3:5].mean(-1)], -1)
    pooled = np.concatenate([pooled, regions[..., 4:6].mean(-1, keepdims=True)], -1)
    wanted = np.corrcoef(pooled.reshape(40, 16).T)[np.triu_indices(16, 1)]
    np.testing.assert_allclose(region_correlations(windows), wanted, atol=1e-5)
    windows[:, :, :2] = 0
    first = region_correlations(windows)[:15]
    assert (first == 0).all()


def test_errors_name_what_is_wrong() -> None:
    real = torch.from_numpy(smooth_windows(4, 0))
    ddpm = DDPMScheduler(**SHORT)
    with pytest.raises(ValueError, match="1 seeds"):
        compare(small_problem(), ddpm, real, torch.zeros(4), {}, [0])
    with pytest.raises(ValueError, match="3 labels"):
        compare(small_problem(), ddpm, real, torch.zeros(3), {}, [0, 1])
    with pytest.raises(ValueError, match="the name DDPM"):
        compare(small_problem(), ddpm, real, torch.zeros(4), {"DDPM": (ddpm, 1)}, [0, 1])
    with pytest.raises(ValueError, match="must agree"):
        sample_quality(real.numpy(), real.numpy()[:, :1])
    with pytest.raises(ValueError, match="not constant"):
        sample_quality(np.zeros_like(real), real.numpy())
