"""Attention of a diffusion U-Net over space and time: within a frame, over the frames of a place, and of both on each other.

References: Vaswani et al., *Attention Is All You Need* (NeurIPS 2017); Ho et al., *Video Diffusion Models* (NeurIPS 2022),
section 3: attention over space and attention over time, one after the other, in place of one over space × time.

Frames lie in the batch, (B·F, C, *space), as the convolutions of the U-Net want them. Every branch ends in a layer of zeros, so
that an untrained block is the identity.
"""

from __future__ import annotations

import torch
from torch import nn

from .transformer_block import SelfAttention, TransformerBlock

__all__ = ["CrossAttention", "SpatialAttention", "SpatioTemporalBlock", "TemporalTransformer"]


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence on another, fused.

    Args:
        dim: channels of both sequences.
        num_heads: they share the channels.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) that asks, (B, M, dim) that is asked → (B, N, dim)."""
        query = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(context).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        values = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.projection(values.transpose(1, 2).flatten(2))


class SpatialAttention(nn.Module):
    """The places of a frame attend to each other.

    They have no embedded position, so that a grid can have any size: the convolutions before tell places apart. In place of
    MONAI's ``SpatialAttentionBlock``, which neither starts as the identity nor gives out its weights.

    Args:
        channels: a multiple of ``num_heads`` and of ``norm_num_groups``.
        num_heads: they share the channels.
        norm_num_groups: groups of the norm in front.
    """

    def __init__(self, channels: int, num_heads: int, norm_num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_num_groups, channels)
        self.attention = SelfAttention(channels, num_heads)
        _zero(self.attention.projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, *space) → the same shape."""
        return x + self.attention(self._tokens(x)).transpose(1, 2).reshape(x.shape)

    def received(self, x: torch.Tensor) -> torch.Tensor:
        """Return how much attention each place gets, relative to an equal share: (N, heads, *space), of mean 1.

        The mean over the places that ask. Frames are taken one by one: their matrices (heads, places, places) are large.
        """
        shares = torch.cat([self.attention.weights(frame).mean(-2) for frame in self._tokens(x).split(1)])
        return (shares * shares.shape[-1]).unflatten(-1, x.shape[2:])

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x).flatten(2).transpose(1, 2)


class TemporalTransformer(nn.Module):
    """The frames of a place attend to each other, then to the whole field of view in every frame.

    1. A token is one place in one frame: its channels, projected, plus a learnt embedding of the frame's position.
    2. Transformer over the frames of a place (GELU): temporal features.
    3. Cross-attention: every temporal token queries the spatial tokens of each frame, pooled over the places. So a place learns
       what the rest of the brain did before and after, at the price of F keys instead of F × places.
    4. Projection back, of zeros at the start, added to the input.

    Args:
        channels: of the input, a multiple of ``norm_num_groups``.
        max_frames: longest window.
        num_heads: of the attentions.
        head_dim: channels of a head; tokens have ``num_heads * head_dim``.
        norm_num_groups: groups of the norm in front.
    """

    def __init__(self, channels: int, max_frames: int, num_heads: int, head_dim: int, norm_num_groups: int) -> None:
        super().__init__()
        dim = num_heads * head_dim
        self.norm = nn.GroupNorm(norm_num_groups, channels)
        self.proj_in, self.proj_out = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.position = nn.Parameter(torch.empty(max_frames, dim))
        self.block = TransformerBlock(dim, num_heads, 0.0)
        self.query_norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.cross_attention = CrossAttention(dim, num_heads)
        _zero(self.proj_out)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the positions; the layers draw their own weights."""
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """(B · frames, channels, *space) → the same shape."""
        tokens = self._tokens(x, frames)
        context = self.context_norm(tokens.mean(1))
        places = tokens.shape[1]
        tokens = self.block(tokens.flatten(0, 1)).unflatten(0, (-1, places)).flatten(1, 2)  # (B, places · F, dim)
        tokens = tokens + self.cross_attention(self.query_norm(tokens), context)
        added = self.proj_out(tokens).unflatten(1, (places, frames)).permute(0, 2, 3, 1)
        return x + added.reshape(x.shape)

    def weights(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """Return the attention of each frame (rows) on each (columns), the mean over places: (B, heads, frames, frames)."""
        tokens = self._tokens(x, frames)
        return torch.stack([self.block.weights(window).mean(0) for window in tokens])

    def _tokens(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """Return (B, places, F, dim)."""
        channels_last = self.norm(x).flatten(2).unflatten(0, (-1, frames)).permute(0, 3, 1, 2)
        return self.proj_in(channels_last) + self.position[:frames]


class SpatioTemporalBlock(nn.Module):
    """Attention within every frame, then over the frames: :py:class:`SpatialAttention`, :py:class:`TemporalTransformer`.

    Args:
        channels: a multiple of ``num_heads`` and of ``norm_num_groups``.
        max_frames: longest window.
        num_heads: of all attentions.
        head_dim: channels of a head of the temporal transformer.
        norm_num_groups: groups of the norms.
    """

    def __init__(self, channels: int, max_frames: int, num_heads: int, head_dim: int, norm_num_groups: int) -> None:
        super().__init__()
        self.spatial = SpatialAttention(channels, num_heads, norm_num_groups)
        self.temporal = TemporalTransformer(channels, max_frames, num_heads, head_dim, norm_num_groups)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """(B · frames, channels, *space) → the same shape."""
        return self.temporal(self.spatial(x), frames)

    def spatial_received(self, x: torch.Tensor) -> torch.Tensor:
        """Return the attention that the places get, of mean 1: (B · frames, heads, *space)."""
        return self.spatial.received(x)

    def temporal_weights(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """Return the attention of frames on frames: (B, heads, frames, frames), rows sum up to 1."""
        return self.temporal.weights(self.spatial(x), frames)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
