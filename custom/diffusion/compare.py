"""How good the samples of few steps are: samplers side by side with MONAI's full DDPM, against real windows.

SSIM between a few-step sample and that of many steps is no measure: visibly wrong pictures agree. So the samples as a whole are
compared with the real windows, over several seeds: a sampler is as good as DDPM if it is as far from the real as DDPM is,
within what another seed would change.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from monai.networks.schedulers import DDPMScheduler, Scheduler
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn.functional import adaptive_avg_pool3d

from .generate import generate

__all__ = ["compare", "energy_distance", "high_frequency_power", "region_correlations", "sample_quality", "sliced_wasserstein"]

REFERENCE = "DDPM"
PROJECTIONS = 256
REGIONS = 4  # per axis


def compare(
    network: nn.Module,
    ddpm_scheduler: DDPMScheduler,
    real: torch.Tensor,
    labels: torch.Tensor,
    candidates: Mapping[str, tuple[Scheduler, int]],
    seeds: Sequence[int],
    device: str | torch.device = "cpu",
    batch_size: int = 16,
) -> pd.DataFrame:
    """Sample every class as often as it is among the real windows, with every sampler and seed.

    Args:
        network: trained, on ``device``.
        ddpm_scheduler: the reference, at all its training steps.
        real: windows that were not trained on, (N, F, X, Y, Z).
        labels: their classes (N,).
        candidates: for every name a scheduler and its number of steps; the schedulers are left as they are.
        seeds: one per repetition, at least two; every sampler has the same, and with them the same noise to start from.
        device: where to sample.
        batch_size: samples at a time.

    Returns:
        A row per sampler, ``DDPM`` first: ``evaluations`` (per sample), ``of_ddpm`` (their share), and for every figure of
        ``sample_quality`` its mean over the seeds, ``…_sd`` their standard deviation, ``…_off`` how far the mean is from
        DDPM's in standard deviations, pooled: within ±1 it is within the spread over seeds. Take ten seeds for a verdict:
        the standard deviation of four may be a third of the true one.

    Raises:
        ValueError: for less than two seeds, another number of labels than windows, or a candidate named ``DDPM``.
    """
    if len(seeds) < 2 or len(labels) != len(real) or REFERENCE in candidates:
        raise ValueError(
            f"{len(seeds)} seeds, {len(labels)} labels, {len(real)} real windows, candidates {', '.join(candidates)}: give two "
            f"seeds or more, a label for every window, and no candidate the name {REFERENCE}."
        )
    rows = {}
    for name, (scheduler, steps) in {REFERENCE: (ddpm_scheduler, ddpm_scheduler.num_train_timesteps), **candidates}.items():
        own = copy.deepcopy(scheduler)
        own.set_timesteps(steps)
        figures = []
        for seed in seeds:
            own_seeds = np.random.SeedSequence(seed).generate_state(len(real)).tolist()
            fake = generate(network, own, real.shape[1:], labels, own_seeds, batch_size=batch_size, device=device)
            figures.append(sample_quality(real.numpy(), cast(torch.Tensor, fake).numpy()))
        rows[name] = {"evaluations": steps, "of_ddpm": steps / ddpm_scheduler.num_train_timesteps} | _summary(figures)
    return _beside_reference(pd.DataFrame(rows).T)


def _summary(figures: list[dict[str, float]]) -> dict[str, float]:
    table = pd.DataFrame(figures)
    return {key: value for name in table for key, value in ((name, table[name].mean()), (f"{name}_sd", table[name].std()))}


def _beside_reference(table: pd.DataFrame) -> pd.DataFrame:
    """Add how far each mean is from DDPM's, in standard deviations over seeds, those of the two rows pooled."""
    for name in [column for column in table if f"{column}_sd" in table]:
        reference = table.loc[REFERENCE]
        table[f"{name}_off"] = (table[name] - reference[name]) / np.sqrt(
            (table[f"{name}_sd"] ** 2 + reference[f"{name}_sd"] ** 2) / 2
        )
    return table


def sample_quality(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Return figures of samples (M, F, X, Y, Z) against real windows (N, F, X, Y, Z).

    ``voxel_std`` and ``high_frequency`` are ratios to the real ones, best at 1; ``sliced_wasserstein``, ``energy`` and
    ``connectivity`` (root mean square difference of region correlations) are distances, best at that of other real windows,
    which is above 0. Voxels that are 0 in all real windows are outside the brain and do not count.

    Raises:
        ValueError: for windows of another shape, or real ones without any voxel that varies.
    """
    brain = (real != 0).any((0, 1))
    if real.shape[1:] != fake.shape[1:] or not brain.any() or not real[:, :, brain].std((0, 1)).any():
        raise ValueError(f"samples {fake.shape} and real windows {real.shape} that are not constant must agree in F, X, Y, Z.")
    inside = [x[:, :, brain].reshape(len(x), -1).astype(np.float64) for x in (real, fake)]
    spread = [x[:, :, brain].std((0, 1), dtype=np.float64).mean() for x in (real, fake)]
    correlations = region_correlations(real), region_correlations(fake)
    return {
        "voxel_std": float(spread[1] / spread[0]),
        "high_frequency": high_frequency_power(fake) / high_frequency_power(real),
        "sliced_wasserstein": sliced_wasserstein(*inside),
        "energy": energy_distance(*inside),
        "connectivity": float(np.sqrt(np.mean((correlations[0] - correlations[1]) ** 2))),
    }


def high_frequency_power(windows: np.ndarray) -> float:
    """Return the mean power of the frames (N, F, X, Y, Z) beyond half the Nyquist frequency, 0.25 cycles per voxel."""
    spectrum = np.abs(np.fft.fftn(windows, axes=(2, 3, 4), norm="ortho")) ** 2
    squares = [np.fft.fftfreq(extent) ** 2 for extent in windows.shape[2:]]
    high = np.add.outer(np.add.outer(squares[0], squares[1]), squares[2]) > 0.25**2
    return float(spectrum[:, :, high].mean())


def sliced_wasserstein(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the mean Wasserstein-1 distance over fixed random directions of samples (N, D) and (M, D), in their units.

    Bonneel et al., *Sliced and Radon Wasserstein barycenters of measures*, 2015.
    """
    from scipy.stats import wasserstein_distance

    directions = np.random.default_rng(0).standard_normal((real.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    pairs = zip((real @ directions).T, (fake @ directions).T, strict=True)
    return float(np.mean([wasserstein_distance(a, b) for a, b in pairs]))


def energy_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| of samples (N, D) and (M, D), |.| the root mean square over D.

    Unbiased: about 0, on either side, for samples of one distribution (Székely & Rizzo, *Energy statistics*, 2013).
    """
    within = [cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (real, fake)]
    return float((2 * cdist(real, fake).mean() - sum(within)) / np.sqrt(real.shape[1]))


def region_correlations(windows: np.ndarray) -> np.ndarray:
    """Return the correlations of each two of a grid of at most 4³ regions over all frames of all windows.

    A region is the mean of its voxels; what is constant there (none in the brain) correlates 0 with all.
    """
    x, y, z = (min(REGIONS, extent) for extent in windows.shape[2:])
    series = adaptive_avg_pool3d(torch.from_numpy(windows).double(), (x, y, z)).flatten(2).flatten(0, 1)
    centred = series - series.mean(0)
    scale = centred.norm(dim=0)
    unit = centred / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    first, second = np.triu_indices(unit.shape[1], 1)
    return (unit.T @ unit).numpy()[first, second]
