"""Pre-norm transformer block with fused attention, a mask of its keys, and its attention weights on demand.

References: Vaswani et al., Attention Is All You Need (NeurIPS 2017); Dosovitskiy et al., An Image is Worth 16x16 Words (ICLR
2021): the norms in front of the branches.
"""

from __future__ import annotations

import math

import torch
from monai.networks.blocks import MLPBlock
from torch import nn

__all__ = ["SelfAttention", "TransformerBlock"]


class SelfAttention(nn.Module):
    """Multi-head self-attention, fused.

    In place of MONAI's ``SABlock``: fused, that one drops attention weights in evaluation mode too, and it needs einops.

    Args:
        dim: channels.
        num_heads: they share the channels.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, dim), and (B, N) true where an element may be attended to → (B, N, dim)."""
        allowed = None if mask is None else mask[:, None, None]
        query, key, value = self._heads(x)
        values = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.projection(values.transpose(1, 2).flatten(2))

    def weights(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the attention weights (B, heads, N, N), which the fused kernel does not give out."""
        query, key, _ = self._heads(x)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -math.inf)
        return scores.softmax(-1)

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return query, key and value, (B, heads, N, dim / heads) each."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block, nearly the identity at the start.

    In place of MONAI's: beside ``SABlock`` that one has a norm that is never used, which distributed training refuses.

    Args:
        dim: channels.
        num_heads: of the attention.
        dropout_rate: of what the branches add.
    """

    def __init__(self, dim: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.dropout = SelfAttention(dim, num_heads), nn.Dropout(dropout_rate)
        self.mlp = MLPBlock(dim, 4 * dim, dropout_rate)
        with torch.no_grad():
            for last in (self.attention.projection, self.mlp.linear2):
                last.weight *= 0.1
                nn.init.zeros_(last.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, dim), and (B, N) true where an element may be attended to → (B, N, dim)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.mlp(self.mlp_norm(x))

    def weights(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the attention weights (B, heads, N, N) of the same input."""
        return self.attention.weights(self.attention_norm(x), mask)
