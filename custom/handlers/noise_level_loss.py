"""Denoising error by noise level, as a metric of validation."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.utils.enums import CommonKeys as Keys

from .diffusion_input import FixedLevels

__all__ = ["NoiseLevelLoss"]


class NoiseLevelLoss(Metric):
    """Mean squared error of a network's output over the windows of :py:class:`.FixedLevels`, and that of every level.

    The error of a level stands beside the mean in the engine's metrics, as ``<name>_timestep_<t>``.

    Args:
        levels: that prepares the batches.
    """

    def __init__(self, levels: FixedLevels) -> None:
        self.levels = levels
        super().__init__(output_transform=lambda output: (output[Keys.PRED], output[Keys.LABEL]))

    @reinit__is_reduced
    def reset(self) -> None:
        self.total = torch.zeros(self.levels.num_levels, dtype=torch.float64)
        self.windows = 0

    @reinit__is_reduced
    def update(self, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        predicted, target = output
        errors = (predicted.detach() - target).square().flatten(1).mean(1).double().cpu()
        self.total += errors.reshape(-1, self.levels.num_levels).sum(0)
        self.windows += len(errors) // self.levels.num_levels

    @sync_all_reduce("total", "windows")
    def compute(self) -> torch.Tensor:
        """Return the errors (L,) of the levels.

        Raises:
            NotComputableError: if there was no window.
        """
        if not self.windows:
            raise NotComputableError("no window was validated, so there is no validation loss: give the validation part a run.")
        return self.total / self.windows

    def completed(self, engine: Engine, name: str) -> None:
        errors = self.compute()
        engine.state.metrics[name] = float(errors.mean())
        for timestep, error in zip(self.levels.timesteps.tolist(), errors.tolist(), strict=True):
            engine.state.metrics[f"{name}_timestep_{timestep:03d}"] = error
