"""2D backbones of MONAI with the reference system's head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, ResNet
from torch import nn

__all__ = ["BACKBONES", "SliceClassifier"]


def _resnet(block: str, layers: list[int], width: int = 64) -> Callable[[int], tuple[nn.Module, int]]:
    """ResNet in torchvision's form (stem of stride 2, no bias in the shortcuts), so that its weights fit."""

    def build(in_channels: int) -> tuple[nn.Module, int]:
        network = ResNet(
            block,
            layers,
            [width, 2 * width, 4 * width, 8 * width],
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            bias_downsample=False,
            feed_forward=False,
        )
        return network, network.in_planes

    return build


def _efficientnet_b0(in_channels: int) -> tuple[nn.Module, int]:
    network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=in_channels)
    features = network._fc.in_features
    network._fc = nn.Identity()
    return network, features


def _densenet121(in_channels: int) -> tuple[nn.Module, int]:
    network = DenseNet121(spatial_dims=2, in_channels=in_channels, out_channels=1)
    features = network.class_layers.out.in_features
    network.class_layers.out = nn.Identity()
    return network, features


BACKBONES: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    "resnet10_narrow": _resnet("basic", [1, 1, 1, 1], width=16),  # for a hundred subjects
    "resnet18": _resnet("basic", [2, 2, 2, 2]),
    "resnet50": _resnet("bottleneck", [3, 4, 6, 3]),
    "efficientnet_b0": _efficientnet_b0,
    "densenet121": _densenet121,
}


class SliceClassifier(nn.Module):
    """A 2D backbone without its classifier, and an MLP with dropout before each of its layers.

    Args:
        backbone: one of :py:data:`BACKBONES`.
        in_channels: channels of the slice.
        num_classes: number of logits.
        hidden: widths of the MLP's hidden layers, the reference system's by default; none makes it linear.
        dropout: probability before each linear layer.
    """

    def __init__(
        self,
        backbone: str,
        in_channels: int = 1,
        num_classes: int = 3,
        hidden: Sequence[int] = (512, 128),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone '{backbone}' is not one of {', '.join(BACKBONES)}.")
        self.backbone, features = BACKBONES[backbone](in_channels)
        layers: list[nn.Module] = []
        for before, after in zip((features, *hidden), (*hidden, num_classes), strict=True):
            layers += [nn.Dropout(dropout), nn.Linear(before, after), nn.ReLU()]
        self.head = nn.Sequential(*layers[:-1])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, X, Y) → logits (B, num_classes); each side at least 32 pixels."""
        return self.head(self.backbone(image))
