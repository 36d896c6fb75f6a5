"""A long batch, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from .exporting import exporting

__all__ = ["chunked"]


def chunked(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return ``function(x)`` of rows that do not depend on each other, ``chunk`` rows at a time.

    In training a chunk's activations are computed again in the backward pass (Chen et al., 2016), so memory is that of a chunk.
    An exported graph has no chunks: their number would be a constant.
    """
    if exporting() or len(x) <= chunk:
        return function(x)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, part, use_reentrant=False) for part in x.split(chunk)])
    return torch.cat([function(part) for part in x.split(chunk)])
