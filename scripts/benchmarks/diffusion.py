"""The diffusion bundle's network and windows for it, and the dense filter that its closed form stands for.

Networks are not trained, on which neither time nor memory depends. Where the outcome does matter the closed form is fitted, to
windows of the Gaussian that it assumes, whose classes are about as hard to tell apart as those of a real slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from custom.networks import GaussianDenoiser, NoiseLevels, ResidualDenoiser, SignalScale, SpatioTemporalDiffusionUNet

__all__ = ["CLASSES", "FRAMES", "FULL", "SCHEDULE", "SMALL", "DenseFilter", "denoiser", "draw_windows", "unet"]

Grid = tuple[int, int, int]
SCHEDULE: dict[str, Any] = {"schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "v_prediction"}
FRAMES, CLASSES, RANK = 9, 8, 64
FULL = {"channels": (32, 64, 128, 256), "attention_levels": (False, False, True, True)}  # the bundle's
SMALL = {"channels": (16, 32, 64), "attention_levels": (False, False, True), "head_dim": 16, "norm_num_groups": 4}


def unet(grid: Grid, width: Mapping[str, Any]) -> SpatioTemporalDiffusionUNet:
    """Return a network of which no weight is 0, so that a step has gradients everywhere."""
    network = SpatioTemporalDiffusionUNet(2 if grid[-1] == 1 else 3, CLASSES, FRAMES, **width)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def denoiser(grid: Grid, width: Mapping[str, Any], brain: int) -> ResidualDenoiser:
    """Return the bundle's network: its closed form fitted to as many windows as six runs have, its learnt part untrained."""
    learnt = SpatioTemporalDiffusionUNet(2 if grid[-1] == 1 else 3, CLASSES, FRAMES, **width)
    levels = NoiseLevels(DDPMScheduler(1000, **SCHEDULE).alphas_cumprod)
    network = ResidualDenoiser(SignalScale(grid), learnt, GaussianDenoiser(levels, CLASSES, grid, FRAMES, RANK))
    cast(GaussianDenoiser, network.gaussian).fit(*draw_windows(grid, brain, 6 * CLASSES, seed=0))
    return network.eval()


def draw_windows(grid: Grid, brain: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows (count, F, X, Y, Z) of few spatial components and white noise, and their classes (count,)."""
    shared = torch.Generator().manual_seed(42)
    components, maps = (torch.randn(n, brain, generator=shared) for n in (20, CLASSES))
    own, labels = torch.Generator().manual_seed(seed), torch.arange(count) % CLASSES
    courses = torch.randn(count, FRAMES, 20, generator=own) + torch.randn(count, 1, 20, generator=own)
    noise = torch.randn(count, FRAMES, brain, generator=own) + 0.5 * torch.randn(count, 1, brain, generator=own)
    series = 0.2 * courses @ components + noise + 0.2 * maps[labels][:, None]
    voxels = torch.zeros(count, FRAMES, grid[0] * grid[1] * grid[2])
    voxels[..., :brain] = series
    return voxels.unflatten(-1, grid), labels


class DenseFilter(nn.Module):
    """The closed form's estimate with the covariance C of all V voxels written out, in its eigenvectors, which are found once.

    Args:
        gaussian: fitted.
    """

    def __init__(self, gaussian: GaussianDenoiser) -> None:
        super().__init__()
        self.gaussian, self.inside = gaussian, gaussian.mask.bool()
        along = gaussian.components[:, self.inside]
        covariance = (along.T * (gaussian.variances - gaussian.rest_variance)) @ along
        covariance.diagonal().add_(gaussian.rest_variance)
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Wiener's filter C (a² C + s² I)⁻¹ in every mode of frames."""
        basis, spread = self.gaussian._frames(x.shape[1])
        a, s = (level.reshape(-1, 1, 1) for level in self.gaussian.levels.signal_and_noise(timesteps))
        centre, variances = self.gaussian._class_maps(labels), spread[:, None] * self.values
        rotated = basis @ (x.flatten(2) - a * centre)[..., self.inside] @ self.vectors
        x0 = centre.repeat(1, x.shape[1], 1)
        x0[..., self.inside] += basis.T @ (a * variances / (a.square() * variances + s.square()) * rotated @ self.vectors.T)
        return self.gaussian.levels.output_of(x0.reshape(x.shape), x, timesteps)
