"""What networks cost on whole runs, beside the published ones; counted, not measured."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from custom.metrics import cost_of
from custom.networks import CNNTransformer, SliceViT

__all__ = ["costs"]

HYBRID, VIT = ((100, 100, 100), 232), ((64, 64, 30), 237)  # grid and frames
HYBRID_PUBLISHED, VIT_PUBLISHED = 16.35 * 232, 467.0  # GFLOP of the published networks for the same runs


def costs() -> Iterator[tuple[str, float, float, float]]:
    """Yield name, GFLOP of a forward pass, millions of parameters, and GFLOP of the published network."""
    modes = ("hybrid", "cnn_only", "transformer_only")
    networks: list[tuple[str, nn.Module, tuple, float]] = [
        (f"CNNTransformer {m}", CNNTransformer(4, *HYBRID, mode=m), HYBRID, HYBRID_PUBLISHED) for m in modes
    ]
    networks += [
        ("SliceViT", SliceViT(2, *VIT), VIT, VIT_PUBLISHED),
        ("SliceViT of the published size", SliceViT(2, *VIT, dim=192, slice_depth=6, frame_depth=2), VIT, VIT_PUBLISHED),
    ]
    for name, network, (grid, frames), published in networks:
        cost = cost_of(network, torch.empty(1, frames, *grid, device="meta"))
        yield name, cost.flop / 1e9, cost.parameters / 1e6, published
