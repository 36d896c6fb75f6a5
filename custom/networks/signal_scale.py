"""From z scores back to the scanner's units, kept with the weights."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["SignalScale"]


class SignalScale(nn.Module):
    """Mean and standard deviation of every voxel over the training runs, and where and when the voxels were measured.

    Args:
        spatial_size: (X, Y, Z) of the grid.
    """

    mean: torch.Tensor
    std: torch.Tensor
    affine: torch.Tensor
    repetition_time: torch.Tensor

    def __init__(self, spatial_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tuple(spatial_size)))
        self.register_buffer("std", torch.ones(tuple(spatial_size)))
        self.register_buffer("affine", torch.eye(4, dtype=torch.float64))
        self.register_buffer("repetition_time", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def fit(self, scales: torch.Tensor, affine: torch.Tensor, repetition_time: float) -> None:
        """Take the mean of the runs' means, and the root of the mean of their variances.

        Args:
            scales: mean and standard deviation (R, 2, X, Y, Z) of each of R runs on the same grid.
            affine: of the grid, voxels to mm (4, 4).
            repetition_time: seconds from frame to frame.
        """
        self.mean.copy_(scales[:, 0].mean(0))
        self.std.copy_(scales[:, 1].square().mean(0).sqrt())
        self.affine.copy_(affine)
        self.repetition_time.fill_(repetition_time)

    def to_signal(self, windows: torch.Tensor) -> torch.Tensor:
        """Return z scores (…, X, Y, Z) in the scanner's units."""
        return self.mean + self.std * windows
