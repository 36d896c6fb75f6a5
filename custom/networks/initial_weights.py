"""Weights to start a training from: a checkpoint of ours, or an ImageNet backbone."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from monai.networks.nets import DenseNet121, EfficientNetBN
from torch import nn

from ..own_files import load_tensors

__all__ = ["IMAGENET", "load_initial_weights"]

IMAGENET = "imagenet"
# torchvision's names of DenseNet layers are flat (`norm1`, in its files `norm.1`), MONAI's nest them in `layers`
_DENSE_LAYER = re.compile(r"^(.*denselayer\d+)\.(norm|conv)\.?([12])\.(.*)$")


def load_initial_weights(network: nn.Module, weights: str) -> list[str]:
    """Copy weights into a network wherever name and shape agree; the classifier keeps its random start if it differs.

    Args:
        network: to start.
        weights: a file: the state dict of the same kind of network (another number of classes is allowed), or an ImageNet
            state dict of the backbone in torchvision's or MONAI's names; or ``"imagenet"``, which lets MONAI download the
            weights of DenseNet121 or EfficientNet-B0. The three colour filters of an ImageNet stem are summed for
            grey slices, which is what a grey picture in three equal channels would see.

    Returns:
        The names of the parameters and buffers that were not loaded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if less than half of the network's tensors are in the file: it is another network's; or it is damaged.
    """
    state = _imagenet_state(network) if weights == IMAGENET else _read(weights)
    own = network.state_dict()
    if not set(state) & set(own):
        state = {"backbone." + _DENSE_LAYER.sub(r"\1.layers.\2\3.\4", name): value for name, value in state.items()}
    state = {name: _grey(value, own[name]) for name, value in state.items() if name in own}
    fitting = {name: value for name, value in state.items() if value.shape == own[name].shape}
    if len(fitting) < len(own) / 2:
        raise ValueError(
            f"{weights} holds {len(fitting)} of the {len(own)} tensors of {type(network).__name__}: "
            "it belongs to another network."
        )
    network.load_state_dict(own | fitting)
    return sorted(own.keys() - fitting.keys())


def _read(weights: str) -> dict[str, torch.Tensor]:
    if not Path(weights).is_file():
        raise FileNotFoundError(f"there are no weights at {weights}: give a state dict's file, or '{IMAGENET}'.")
    return load_tensors(weights, f"give the file of a state dict, or '{IMAGENET}'.")


def _imagenet_state(network: nn.Module) -> dict[str, torch.Tensor]:
    backbone = getattr(network, "backbone", None)
    if isinstance(backbone, DenseNet121):
        return DenseNet121(spatial_dims=2, in_channels=3, out_channels=1000, pretrained=True).state_dict()
    if isinstance(backbone, EfficientNetBN):
        return EfficientNetBN("efficientnet-b0", pretrained=True).state_dict()
    raise ValueError(
        "MONAI offers ImageNet weights for DenseNet121 and EfficientNet-B0 only: for a ResNet give the file of torchvision's "
        "state dict."
    )


def _grey(value: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Sum the colour filters of a stem where the network takes one channel."""
    colour = value.ndim == 4 and value.shape[1] == 3 and wanted.shape[1:2] == (1,)
    return value.sum(1, keepdim=True) if colour else value
