from __future__ import annotations

import numpy as np
import torch

from custom.networks.signal_scale import SignalScale
from custom.transforms.temporal_zscore import temporal_scale, temporal_zscore

GRID = (3, 2, 2)


def run(frames: int, seed: int) -> torch.Tensor:
    return torch.randn(frames, *GRID, generator=torch.Generator().manual_seed(seed)) * 7 + 900


def test_z_scores_of_a_run_go_back_to_its_signal():
    signal, scale = run(30, 0), SignalScale(GRID)
    scale.fit(temporal_scale(signal)[None], torch.eye(4), 2.5)
    windows = temporal_zscore(signal).reshape(2, 15, *GRID)  # any dimensions before those of space
    torch.testing.assert_close(scale.to_signal(windows), signal.reshape(2, 15, *GRID), rtol=1e-5, atol=1e-2)


def test_runs_share_the_mean_of_their_means_and_of_their_variances():
    runs, scale = [run(20, seed) * (seed + 1) for seed in range(3)], SignalScale(GRID)
    affine = torch.tensor([[-3.5, 0, 0, 90], [0, 3.75, 0, -126], [0, 0, 3.75, -72], [0, 0, 0, 1]], dtype=torch.float64)
    scale.fit(torch.stack([temporal_scale(signal) for signal in runs]), affine, 2.5)
    np.testing.assert_allclose(scale.mean, np.mean([signal.mean(0) for signal in runs], 0), rtol=1e-5)
    np.testing.assert_allclose(scale.std, np.mean([signal.numpy().var(0) for signal in runs], 0) ** 0.5, rtol=1e-4)
    assert torch.equal(scale.affine, affine)
    assert scale.repetition_time == 2.5


def test_it_travels_with_the_weights():
    scale, other = SignalScale(GRID), SignalScale(GRID)
    scale.fit(temporal_scale(run(20, 1))[None], 3 * torch.eye(4), 2.1)
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other.to_signal(torch.ones(1, *GRID)), scale.mean[None] + scale.std)
    assert torch.equal(other.affine, 3 * torch.eye(4).double())
    assert float(other.repetition_time) == 2.1  # in double precision


def test_before_it_is_fitted_it_changes_nothing():
    assert torch.equal(SignalScale(GRID).to_signal(run(4, 0)), run(4, 0))
