"""A linear classifier on the features of a frozen backbone."""

from __future__ import annotations

import torch
from torch import nn

from .slice_classifier import BACKBONES

__all__ = ["LinearProbe"]


class LinearProbe(nn.Module):
    """A 2D backbone whose weights stay as they are loaded, its features standardised, dropout and one linear layer.

    For studies of a hundred subjects, which are too few to move a backbone without losing what it knows (Alain and Bengio 2016;
    Kumar et al. 2022). The backbone's batch norms keep their statistics in training, too.

    Args:
        backbone: one of :py:data:`.slice_classifier.BACKBONES`; load it by ``initial_weights``.
        in_channels: channels of the slice.
        num_classes: number of logits.
        dropout: probability before the linear layer.
    """

    def __init__(self, backbone: str, in_channels: int = 1, num_classes: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.backbone, features = BACKBONES[backbone](in_channels)
        self.backbone.requires_grad_(False)
        self.head = nn.Sequential(nn.BatchNorm1d(features, affine=False), nn.Dropout(dropout), nn.Linear(features, num_classes))

    def train(self, mode: bool = True) -> LinearProbe:
        """Set the mode of the head; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, X, Y) → logits (B, num_classes)."""
        return self.head(self.backbone(image))
