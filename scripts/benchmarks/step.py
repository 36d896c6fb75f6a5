"""A training step: forward pass, and the gradient of every weight."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from custom.networks import SliceCNNLSTM
from custom.networks.slice_cnn_lstm import ConvMean
from custom.networks.transformer_block import SelfAttention

from .diffusion import FRAMES, FULL, Grid, unet
from .row import Row, Ways

__all__ = ["ROWS"]


def slice_cnn_lstm(_: Path, shape: tuple[int, ...], strides: tuple[int, int, int]) -> Ways:
    """The last convolution as means of windows (B, T, X, Y, Z), and with strides besides, which is another network."""
    image, label = torch.randn(shape), torch.tensor([1])
    ours = SliceCNNLSTM(strides=strides)
    plain = copy.deepcopy(ours) if strides == (1, 1, 1) else SliceCNNLSTM()
    plain.encoder[-1].__class__ = _CarriedOut

    def loss(network: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(network(image), label)

    return Ways(partial(gradients, plain, partial(loss, plain)), partial(gradients, ours, partial(loss, ours)))


class _CarriedOut(ConvMean):
    """The same layer with its convolution carried out at every position before the mean is taken."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.Conv2d.forward(self, image).mean((2, 3))


def attention(_: Path, tokens: int, dim: int, batch: int) -> Ways:
    """The attention of the decoders' blocks, its weights written out and fused."""
    layer, x = SelfAttention(dim, 4), torch.randn(batch, tokens, dim)

    def fused() -> torch.Tensor:
        return layer(x).square().mean()

    def plain() -> torch.Tensor:
        value = layer._heads(x)[2]
        return layer.projection((layer.weights(x) @ value).transpose(1, 2).flatten(2)).square().mean()

    held = saved_bytes(layer, plain), saved_bytes(layer, fused)
    return Ways(partial(gradients, layer, plain), partial(gradients, layer, fused), held)


def checkpointing(_: Path, batch: int, grid: Grid, width: Mapping[str, Any]) -> Ways:
    """The diffusion U-Net: all activations kept, or those of each level computed again; this one gains memory, not time."""
    x, keeping = torch.randn(batch, FRAMES, *grid), unet(grid, width)
    again = copy.deepcopy(keeping)
    again.checkpointing = True

    def loss(network: nn.Module) -> torch.Tensor:
        return network(x).square().mean()

    plain, ours = (keeping, partial(loss, keeping)), (again, partial(loss, again))
    return Ways(partial(gradients, *plain), partial(gradients, *ours), (saved_bytes(*plain), saved_bytes(*ours)))


def gradients(network: nn.Module, loss: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradient of every parameter."""
    network.zero_grad()
    loss().backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


def saved_bytes(network: nn.Module, loss: Callable[[], torch.Tensor]) -> int:
    """Return what a forward pass keeps for the backward pass, without the weights; shared storage counts once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that its address is not given away again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    return sum(storage.nbytes() for storage in kept.values())


IMAGE = {"shape": (1, 2, 64, 64, 34)}  # 68 pictures
EXACT, STRIDED = IMAGE | {"strides": (1, 1, 1)}, IMAGE | {"strides": (2, 2, 1)}
SLICES = {"batch": 4, "grid": (64, 64, 1), "width": FULL}
TOKENS = [{"tokens": tokens, "dim": 64, "batch": 8} for tokens in (232, 1024)]
ROWS = (
    # against float64 it is the plain way whose bias is that far off
    Row("step", "slice CNN-LSTM, {shape}", "all convolutions", slice_cnn_lstm, EXACT, 5e-3, 3),
    Row("step", "the same with the strided stem", "all convolutions", slice_cnn_lstm, STRIDED, math.inf, 3),
    *(Row("step", "attention, {batch}×{tokens}×{dim}", "weights written out", attention, size, 1e-4) for size in TOKENS),
    Row("step", "U-Net checkpointed, {batch}×9×{grid}", "all activations kept", checkpointing, SLICES, 1e-3, 3),
)
