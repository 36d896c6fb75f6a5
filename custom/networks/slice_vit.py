"""Slice-wise vision transformer: slices attend to each other within a frame, then frames to each other over time.

References: Dosovitskiy et al., An Image is Worth 16x16 Words (ICLR 2021): the transformer block; Kobayashi et al., Attention Is
Not Only a Weight: Analyzing Transformers with Vector Norms (EMNLP 2020): how much each element adds to a pooled vector.

Few subjects, and an effect that sits in two small regions and a few frames of noise, decided the form:

* :py:class:`PositionalPooling` turns patches into a slice, slices into a frame, and frames into logits. Every position has a
  projection of its own, so the network keeps where and when; at the start all attention is even, and the path from voxels to
  logits is a linear model, which learns from few windows. One projection for all positions, pooled by a softmax or gain per
  channel, scored no better and cost ten times as much.
* The residual branches of the transformer start small and are all that is normalised. The path itself is not: a layer norm
  over voxels would scale a weak response by the noise around it.

Cost. The slices of a frame know nothing of other frames, so frames go through the slice stage ``chunk`` at a time; in training
a chunk's activations are computed again in the backward pass (Chen et al., 2016), so memory is that of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .chunked import chunked
from .exporting import exporting
from .transformer_block import TransformerBlock

__all__ = ["Attention", "PositionalPooling", "SliceViT"]


@dataclass(frozen=True)
class Attention:
    """Where a :py:class:`SliceViT` looked, from its patches to its logits.

    X' × Y' is the grid of patches, H the heads. Each row of the blocks' matrices, and each share over its last axes, sums up to
    1; only the patches of a slice without any signal have 0 throughout. Invalid frames have 0 in ``frame_shares`` and in the
    columns of ``frames``, and mean nothing elsewhere.

    Args:
        patch_shares: of the patches in their slice, (B, F, Z, X', Y').
        slices: of every block over slices, (B, F, H, Z, Z).
        slice_shares: of the slices in their frame, (B, F, Z).
        frames: of every block over frames, (B, H, F, F).
        frame_shares: of the frames in the logits, (B, F).
        logits: (B, num_classes), those of ``forward``.
    """

    patch_shares: torch.Tensor
    slices: tuple[torch.Tensor, ...]
    slice_shares: torch.Tensor
    frames: tuple[torch.Tensor, ...]
    frame_shares: torch.Tensor
    logits: torch.Tensor


class PositionalPooling(nn.Module):
    """Attention pooling with a projection for every position.

    ``y = b + Σ_n N α_n W_n x_n`` with ``α = softmax_n(u·gelu(V x_n) + p_n)`` over the N valid elements. Even attention makes it
    a linear layer on the flattened sequence.

    Args:
        num_positions: longest sequence.
        in_dim: channels of an element.
        out_dim: channels of the result.
        std: of the result at the start, for independent elements of variance 1.
    """

    def __init__(self, num_positions: int, in_dim: int, out_dim: int, std: float = 1.0) -> None:
        super().__init__()
        self.std = std
        self.hidden, self.score = nn.Linear(in_dim, 16), nn.Linear(16, 1, bias=False)
        self.position = nn.Parameter(torch.empty(num_positions, 1))
        self.weight = nn.Parameter(torch.empty(num_positions, in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with nearly even attention."""
        nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.normal_(self.weight, std=self.std / math.sqrt(self.weight[..., 0].numel()))
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(..., N, in_dim), and (..., N) true where an element is valid → (..., out_dim)."""
        return self._weighted(x, mask).flatten(-2) @ self.weight[: x.shape[-2]].flatten(0, 1) + self.bias

    def shares(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``‖α_n W_n x_n‖``, how much each element adds, over their sum, (..., N); 0 if nothing adds anything."""
        added = torch.einsum("...ni,nio->...no", self._weighted(x, mask), self.weight[: x.shape[-2]]).norm(dim=-1)
        total = added.sum(-1, keepdim=True)
        return torch.where(total > 0, added / total, 0.0)

    def _weighted(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return ``N α_n x_n``."""
        score = self.score(nn.functional.gelu(self.hidden(x))) + self.position[: x.shape[-2]]
        if mask is None:
            return x.shape[-2] * score.softmax(-2) * x
        valid = mask[..., None]
        return valid.sum(-2, keepdim=True) * score.masked_fill(~valid, -math.inf).softmax(-2) * x


class SliceViT(nn.Module):
    """Patches → slice tokens, transformer over the slices of a frame → frame tokens, transformer over frames → logits.

    Args:
        num_classes: number of logits.
        spatial_size: (X, Y, Z) of a frame; slices lie along Z.
        frames: most frames of a window; shorter windows keep the position of their frames.
        patch_size: side of the square patches of a slice, in voxels; a last one reaches over the edge.
        dim: channels of a token.
        slice_depth: transformer blocks over slices.
        frame_depth: transformer blocks over frames.
        num_heads: of their attention.
        dropout_rate: of tokens and branches.
        chunk: frames that go through the slice stage at once.
    """

    def __init__(
        self,
        num_classes: int = 2,
        spatial_size: Sequence[int] = (64, 64, 30),
        frames: int = 8,
        patch_size: int = 4,
        dim: int = 64,
        slice_depth: int = 2,
        frame_depth: int = 1,
        num_heads: int = 2,
        dropout_rate: float = 0.1,
        chunk: int = 16,
    ) -> None:
        super().__init__()
        x, y, z = spatial_size
        self.spatial_size, self.frames, self.chunk = (x, y, z), frames, chunk
        self.grid = (-(-x // patch_size), -(-y // patch_size))
        # zeros beyond the edge, as outside the brain
        self.pad = (0, self.grid[1] * patch_size - y, 0, self.grid[0] * patch_size - x)
        self.patch_size = patch_size
        self.patch_pooling = PositionalPooling(self.grid[0] * self.grid[1], patch_size**2, dim)
        self.slice_position = _Position(z, dim)
        self.slice_blocks = _blocks(slice_depth, dim, num_heads, dropout_rate)
        self.slice_pooling = PositionalPooling(z, dim, dim)
        self.frame_position = _Position(frames, dim)
        self.frame_blocks = _blocks(frame_depth, dim, num_heads, dropout_rate)
        self.frame_pooling = PositionalPooling(frames, dim, num_classes, std=0.1)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, F, X, Y, Z), and (B, F) true where a frame is valid → logits (B, num_classes).

        Raises:
            ValueError: if the frames are of another size, are more than ``frames``, or a window has no valid one.
        """
        self._check(image, mask)
        frames = _valid(image, mask).flatten(0, 1)
        tokens = self._placed(self._frame_tokens(frames).unflatten(0, image.shape[:2]))
        for block in self.frame_blocks:
            tokens = block(tokens, mask)
        return self.frame_pooling(tokens, mask)

    @torch.no_grad()
    def attention(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> Attention:
        """Return all attention weights, and the logits; arguments and errors as in ``forward``. For evaluation mode."""
        self._check(image, mask)
        parts = [self._slice_attention(part) for part in _valid(image, mask).flatten(0, 1).split(self.chunk)]
        patch_shares, slice_shares, frame_tokens, *slices = (
            torch.cat(values).unflatten(0, image.shape[:2]) for values in zip(*parts, strict=True)
        )
        tokens, frames = _attended(self.frame_blocks, self._placed(frame_tokens), mask)
        frame_shares, logits = self.frame_pooling.shares(tokens, mask), self.frame_pooling(tokens, mask)
        return Attention(patch_shares, tuple(slices), slice_shares, tuple(frames), frame_shares, logits)

    def _check(self, image: torch.Tensor, mask: torch.Tensor | None) -> None:
        if tuple(image.shape[2:]) != self.spatial_size:
            raise ValueError(
                f"frames of {tuple(image.shape[2:])} voxels came to a network for {self.spatial_size}: "
                "prepare the scans for its spatial_size, or build the network for theirs."
            )
        if image.shape[1] > self.frames:
            raise ValueError(f"a window has {image.shape[1]} frames, the network is built for at most {self.frames}.")
        if mask is not None and not exporting() and not bool(mask.any(1).all()):
            raise ValueError("a window has no valid frame: leave it out.")

    def _placed(self, frame_tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.frame_position(frame_tokens))

    def _frame_tokens(self, volumes: torch.Tensor) -> torch.Tensor:
        """(N, X, Y, Z) → (N, dim)."""
        return chunked(self._frame_token, volumes, self.chunk)

    def _frame_token(self, volumes: torch.Tensor) -> torch.Tensor:
        tokens = self._slice_tokens(self.patch_pooling(self._patches(volumes)))
        for block in self.slice_blocks:
            tokens = block(tokens)
        return self.slice_pooling(tokens)

    def _patches(self, volumes: torch.Tensor) -> torch.Tensor:
        """(N, X, Y, Z) → (N, Z, X' · Y', patch_size²)."""
        side = self.patch_size
        slices = nn.functional.pad(volumes.permute(0, 3, 1, 2), self.pad)
        grid = slices.unflatten(2, (self.grid[0], side)).unflatten(4, (self.grid[1], side))
        return grid.transpose(3, 4).flatten(4).flatten(2, 3)

    def _slice_tokens(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.slice_position(pooled))

    def _slice_attention(self, volumes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (N, Z, X', Y'), (N, Z), frame tokens (N, dim), and (N, H, Z, Z) of every block."""
        patches = self._patches(volumes)
        patch_shares = self.patch_pooling.shares(patches).unflatten(-1, self.grid)
        tokens, slices = _attended(self.slice_blocks, self._slice_tokens(self.patch_pooling(patches)), None)
        return patch_shares, self.slice_pooling.shares(tokens), self.slice_pooling(tokens), *slices


class _Position(nn.Module):
    """Learnt embedding of the position, added to (..., N, dim)."""

    def __init__(self, num_positions: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(num_positions, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.embedding[: x.shape[-2]]


def _valid(image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Set invalid frames to 0: whatever they hold, NaN too, must not reach a gradient."""
    return image if mask is None else image.masked_fill(~mask[:, :, None, None, None], 0.0)


def _blocks(depth: int, dim: int, num_heads: int, dropout_rate: float) -> nn.ModuleList:
    return nn.ModuleList(TransformerBlock(dim, num_heads, dropout_rate) for _ in range(depth))


def _attended(
    blocks: nn.ModuleList, tokens: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the tokens after the blocks, and the weights of each."""
    matrices = []
    for block in blocks:
        matrices.append(block.weights(tokens, mask))  # type: ignore[operator]
        tokens = block(tokens, mask)
    return tokens, matrices
