"""Hybrid of 3D CNN and transformer: the CNN turns a frame into a few tokens, which attend to each other over time × position.

References: Dosovitskiy et al., An Image is Worth 16x16 Words (ICLR 2021), section 3.1: the hybrid; Liu et al., A ConvNet for
the 2020s (CVPR 2022): depthwise and pointwise convolutions in one branch; Wan et al., Regularization of Neural Networks using
DropConnect (ICML 2013).

Few subjects, and classes that differ in where a weak response is, decided the form:

* Positions are kept to the end. A token is a place of the brain in one frame, made by a convolution whose kernels lie side by
  side, so that where in the place a response is goes into the channels; the head has weights of its own for every place.
  Global pooling would throw somatotopy away.
* What is nonlinear is in branches that start small. Without them the logits are a linear function of the mean over frames, the
  strongest classical classifier of such windows, and training starts near it.
* Normalised are the branches alone (group norm, layer norm): on the path itself a norm would scale a weak response by the noise
  around it. There is no batch norm, so that a sample's output depends on that sample only.

Cost. Frames go through the encoder ``chunk`` at a time; in training a chunk's activations are computed again in the backward
pass (Chen et al., Training deep nets with sublinear memory cost, 2016), so memory is that of a chunk. There is no branch at the
resolution of the stem, where it would cost more than all the rest. Attention is fused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from .chunked import chunked
from .drop_connect import DropConnectLinear, drop_connect
from .exporting import exporting
from .transformer_block import TransformerBlock

__all__ = ["MODES", "CNNTransformer", "ConvBranch"]

MODES = ("hybrid", "cnn_only", "transformer_only")


class ConvBranch(nn.Sequential):
    """A frame plus what a small branch adds to it: group norm, depthwise 3³ convolution, and an MLP over the channels.

    Args:
        channels: a multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        last = nn.Conv3d(2 * channels, channels, 1)
        super().__init__(
            nn.GroupNorm(4, channels),
            nn.Conv3d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv3d(channels, 2 * channels, 1),
            nn.GELU(),
            last,
        )
        with torch.no_grad():
            last.weight *= 0.1

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, channels, X, Y, Z) → the same shape."""
        return input + super().forward(input)


class CNNTransformer(nn.Module):
    """Frames → tokens (time × position) → transformer → mean over the valid frames → linear head over all positions.

    Modes, for the ablation; what they share has the same names and, but for the tokens' convolution, the same shapes:

    * ``hybrid``: all of it.
    * ``cnn_only``: without ``blocks``, ``position`` and ``time``. The order of the frames does not matter then.
    * ``transformer_only``: means over blocks of as many voxels as the strides make up take the place of the CNN, so that
      the tokens are those of a patch embedding.

    Args:
        num_classes: number of logits.
        spatial_size: (X, Y, Z) of a frame.
        frames: most frames of a window; shorter windows keep the position of their frames.
        mode: one of :py:data:`MODES`.
        channels: of the CNN's convolutions, each with a :py:class:`ConvBranch` but for the first; multiples of 4.
        strides: of the convolutions.
        positions: tokens of a frame along each axis.
        dim: channels of a token.
        depth: transformer blocks.
        heads: of their attention.
        drop_connect_p: probability at which a weight of the transformer's and the head's linear layers is dropped.
        chunk: frames that go through the encoder at once.

    Raises:
        ValueError: if the mode is unknown, or channels and strides differ in number.
    """

    def __init__(
        self,
        num_classes: int,
        spatial_size: Sequence[int],
        frames: int,
        mode: str = "hybrid",
        channels: Sequence[int] = (8, 16),
        strides: Sequence[int] = (2, 2),
        positions: int = 3,
        dim: int = 64,
        depth: int = 1,
        heads: int = 4,
        drop_connect_p: float = 0.17,
        chunk: int = 16,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode '{mode}' is not one of {', '.join(MODES)}.")
        if len(channels) != len(strides):
            raise ValueError(f"{len(channels)} channels and {len(strides)} strides: every convolution needs both.")
        self.spatial_size, self.frames, self.strides = tuple(spatial_size), frames, tuple(strides)
        self.mode, self.heads, self.chunk = mode, heads, chunk
        cnn = _block_means(strides) if mode == "transformer_only" else _convolutions(channels, strides)
        size = [-(-n // math.prod(strides)) for n in spatial_size]
        tokens, places = _token_convolution(1 if mode == "transformer_only" else channels[-1], dim, size, positions)
        self.encoder = nn.Sequential(*cnn, tokens, nn.Flatten(2))
        if mode != "cnn_only":
            self.position = nn.Parameter(torch.randn(places, dim) * 0.02)
            self.time = nn.Parameter(torch.randn(frames, 1, dim) * 0.02)
            blocks = (TransformerBlock(dim, heads, 0.0) for _ in range(depth))
            self.blocks = nn.ModuleList(drop_connect(block, drop_connect_p) for block in blocks)
        self.head = DropConnectLinear(places * dim, num_classes, p=drop_connect_p)

    def get_extra_state(self) -> torch.Tensor:
        """Return what the weights' shapes do not show: the frame's size, the strides, and the heads."""
        return torch.tensor([*self.spatial_size, *self.strides, self.heads])

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights that were trained with other strides or heads: they may fit, and predict something else."""
        if state.tolist() != self.get_extra_state().tolist():
            raise ValueError(
                f"these weights were trained with spatial size, strides and heads {state.tolist()}, the network has "
                f"{self.get_extra_state().tolist()}: name the overlay that they were trained with."
            )

    def forward(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, F, X, Y, Z), and (B, F) true where a frame is valid → logits (B, num_classes).

        Raises:
            ValueError: if the frames are of another size, are more than ``frames``, or a window has no valid one.
        """
        if not exporting():
            self._check(image, mask)
        if mask is not None:  # 0 × NaN is NaN: what invalid frames hold must not come further
            image = image.where(mask[:, :, None, None, None], 0.0)
        tokens = self._encode(image.flatten(0, 1)[:, None]).unflatten(0, image.shape[:2])
        if self.mode != "cnn_only":
            tokens = self._attend(tokens, mask)
        if mask is None:
            return self.head(tokens.mean(1).flatten(1))
        valid = mask.to(tokens.dtype)[:, :, None, None]
        return self.head(((tokens * valid).sum(1) / valid.sum(1)).flatten(1))

    def _check(self, image: torch.Tensor, mask: torch.Tensor | None) -> None:
        if tuple(image.shape[2:]) != self.spatial_size:
            raise ValueError(
                f"frames of {tuple(image.shape[2:])} voxels came to a network for {self.spatial_size}: "
                "prepare the scans for its spatial_size, or build the network for theirs."
            )
        if image.shape[1] > self.frames:
            raise ValueError(f"a window has {image.shape[1]} frames, the network is built for at most {self.frames}.")
        if mask is not None and not mask.is_meta and not bool(mask.any(1).all()):
            raise ValueError("a window has no valid frame: leave it out.")

    def _encode(self, volumes: torch.Tensor) -> torch.Tensor:
        """(N, 1, X, Y, Z) → (N, positions, dim)."""
        return chunked(self.encoder, volumes, self.chunk).transpose(1, 2)

    def _attend(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, F, positions, dim) → the same shape, every token having seen all tokens of valid frames."""
        frames, places = tokens.shape[1:3]
        sequence = (tokens + self.position + self.time[:frames]).flatten(1, 2)
        allowed = None if mask is None else mask[:, :, None].expand(-1, -1, places).flatten(1)
        for block in self.blocks:
            sequence = block(sequence, allowed)
        return sequence.unflatten(1, (frames, places))


def _convolutions(channels: Sequence[int], strides: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv3d(1, channels[0], 3, strides[0], padding=1)]
    for before, after, stride in zip(channels[:-1], channels[1:], strides[1:], strict=True):
        layers += [nn.Conv3d(before, after, 3, stride, padding=1), ConvBranch(after)]
    return layers


def _block_means(strides: Sequence[int]) -> list[nn.Module]:
    """Means over blocks; those over the edge, of the voxels that there are."""
    side = math.prod(strides)
    return [nn.AvgPool3d(side, ceil_mode=True, count_include_pad=False)] if side > 1 else []


def _token_convolution(channels: int, dim: int, size: Sequence[int], positions: int) -> tuple[nn.Conv3d, int]:
    """Return a convolution whose kernels lie side by side, ``positions`` or as many as fit along each axis, and the places."""
    kernel = [-(-n // positions) for n in size]
    padding = [(positions * k - n + 1) // 2 if k > 1 else 0 for n, k in zip(size, kernel, strict=True)]
    places = math.prod((n + 2 * p - k) // k + 1 for n, p, k in zip(size, padding, kernel, strict=True))
    layer = nn.Conv3d(channels, dim, _triple(kernel), _triple(kernel), _triple(padding))
    return layer, places


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = values
    return x, y, z
