"""A plain 3D CNN of double convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import nn

__all__ = ["Simple3DCNN"]


class Simple3DCNN(nn.Module):
    """Stages of two 3³ convolutions with batch norm and ReLU, halved between them, then average pooling and an MLP.

    The reference system's network: at its sizes 14.27 M parameters (four classes) and 282.7 GFLOP for a 128³ volume.

    Args:
        in_channels: channels of the volume.
        num_classes: number of logits.
        channels: feature maps of each stage.
        hidden: width of the head's hidden layer.
        dropout: probability in the head.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        hidden: int = 256,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for before, after in zip((in_channels, *channels[:-1]), channels, strict=True):
            stages += [_convolution(before, after), _convolution(after, after), nn.MaxPool3d(2)]
        self.features = nn.Sequential(*stages[:-1])  # the last stage goes into the average unhalved: Grad-CAM sees 8³, not 4³
        self.head = nn.Sequential(
            nn.Linear(channels[-1], hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, X, Y, Z) → logits (B, num_classes); each side at least 16 voxels."""
        return self.head(self.features(image).mean(dim=(2, 3, 4)))


def _convolution(before: int, after: int) -> nn.Module:
    return Convolution(3, before, after, kernel_size=3, act="RELU", norm="BATCH", adn_ordering="NA")
