"""A network that learns what a Gaussian does not explain."""

from __future__ import annotations

import torch
from torch import nn

from .gaussian_denoiser import GaussianDenoiser
from .signal_scale import SignalScale
from .spatiotemporal_unet import SpatioTemporalDiffusionUNet

__all__ = ["ResidualDenoiser"]


class ResidualDenoiser(nn.Module):
    """Sum of a closed-form denoiser and a network that starts at 0, with the scale of the signal beside them.

    With a few dozen blocks of every class a network alone does not find what a shrunken linear model finds; as a correction of
    it, it need not. The network's part counts within the brain, where the scale says that the signal varies; outside, the
    closed form knows that there is nothing.

    Args:
        scale: of the signal, which the weights carry along.
        unet: the learnt part.
        gaussian: the closed-form part, or None.
    """

    def __init__(self, scale: SignalScale, unet: SpatioTemporalDiffusionUNet, gaussian: GaussianDenoiser | None = None) -> None:
        super().__init__()
        self.scale, self.unet, self.gaussian = scale, unet, gaussian

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.unet.num_classes

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Noisy windows (B, F, X, Y, Z), timesteps (B,) or (1,), labels (B,), -1 for none → v or ε (B, F, X, Y, Z)."""
        learnt = self.unet(x, timesteps, class_labels)
        if self.gaussian is None:
            return learnt
        return self.gaussian(x, timesteps, class_labels) + learnt * (self.scale.std > 0)

    def features(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the bottleneck features (B, F, C, x, y, z) of the learnt part."""
        return self.unet.features(x, timesteps, class_labels)
