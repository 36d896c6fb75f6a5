"""What is done with a diffusion model: drawing windows, decoding them, and the closed form inside every evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from monai.networks.schedulers import DDPMScheduler

from custom.diffusion import DiffusionClassifierInferer, DPMSolverScheduler, generate
from custom.networks import GaussianDenoiser

from .diffusion import CLASSES, FRAMES, SCHEDULE, SMALL, DenseFilter, Grid, denoiser, draw_windows
from .row import Row, Ways

__all__ = ["ROWS"]


def draw(_: Path, grid: Grid, steps: int, all_steps: int, count: int, width: Mapping[str, Any]) -> Ways:
    """Windows drawn with all steps and with few; no window comes twice, what agrees is the distribution that they are of."""
    network = denoiser(grid, width, brain=grid[0] * grid[1] * grid[2])
    ddpm = DDPMScheduler(all_steps, clip_sample=False, **SCHEDULE)
    solver = DPMSolverScheduler(all_steps, stochastic=True, **SCHEDULE)
    solver.set_timesteps(steps)

    def spread(scheduler: Any) -> torch.Tensor:
        """Standard deviation, and that of the differences of frames."""
        windows = cast(torch.Tensor, generate(network, scheduler, (FRAMES, *grid), [0] * count, range(count)))
        return torch.stack([windows.std(), windows.diff(dim=1).std()])

    return Ways(partial(spread, ddpm), partial(spread, solver))


def decode(_: Path, grid: Grid, brain: int, count: int, noises: int, width: Mapping[str, Any]) -> Ways:
    """The diffusion classifier with all draws for all classes, and with classes given up early; the share that is right."""
    network, (windows, labels) = denoiser(grid, width, brain), draw_windows(grid, brain, count, seed=1)
    levels = cast(GaussianDenoiser, network.gaussian).levels

    def right(rejection: float | None) -> torch.Tensor:
        inferer = DiffusionClassifierInferer(levels, CLASSES, num_noises=noises, rejection=rejection)
        return (inferer(windows, network).argmax(1) == labels).float().mean()

    return Ways(partial(right, None), partial(right, 3.0))


def closed_form(_: Path, grid: Grid, brain: int, batch: int) -> Ways:
    """The closed form of low rank, against the filter with its covariance of all voxels."""
    gaussian = cast(GaussianDenoiser, denoiser(grid, SMALL, brain).gaussian)
    inputs = torch.randn(batch, FRAMES, *grid), torch.linspace(10, 990, batch), torch.arange(batch) % CLASSES
    return Ways(partial(DenseFilter(gaussian), *inputs), partial(gaussian, *inputs))


SLICE = {"grid": (40, 20, 1), "brain": 530, "batch": 12}  # the real data's
ROWS = (
    *(
        Row(
            "sample",
            "{count} windows of 9×{grid}, {steps} steps",
            "DDPM, {all_steps} steps",
            draw,
            {"grid": (16, 8, 1), "steps": steps, "all_steps": 1000, "count": 4, "width": SMALL},
            0.12,  # so few windows differ by up to 0.09, a scheduler that diverges by several
            turns=1,
        )
        for steps in (50, 20)
    ),
    Row(
        "sample",
        "decoding {count} windows of 9×{grid}, rejection",
        "all draws for all classes",
        decode,
        {"grid": (16, 8, 1), "brain": 100, "count": CLASSES, "noises": 4, "width": SMALL},
        0.3,  # a window of four
        turns=1,
    ),
    Row("sample", "closed form, {batch}×9×{grid}", "all eigenvectors of {brain} voxels", closed_form, SLICE, 1e-4),
)
