"""Cost of the two decoders on whole runs, and the attention of their blocks, fused against plain."""

from __future__ import annotations

import platform

import torch
from timing import alternating

from custom.metrics import cost_of
from custom.networks import CNNTransformer, SliceViT
from custom.networks.transformer_block import SelfAttention

__all__ = ["fmri"]

HYBRID_REFERENCE, VIT_REFERENCE = 16.35 * 232, 467.0  # GFLOP of the published networks for the same runs
TOKENS = (232, 1024)


def fmri(repeats: int = 5) -> None:
    """Print operations and parameters beside the published networks', then seconds of fused and of plain attention.

    Args:
        repeats: turns of each way.
    """
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    run = torch.empty(1, 232, 100, 100, 100, device="meta")
    for mode in ("hybrid", "cnn_only", "transformer_only"):
        _cost(f"CNNTransformer {mode}, 100³×232", CNNTransformer(4, (100, 100, 100), 232, mode=mode), run, HYBRID_REFERENCE)
    run = torch.empty(1, 237, 64, 64, 30, device="meta")
    _cost("SliceViT, 64×64×30×237", SliceViT(2, (64, 64, 30), 237), run, VIT_REFERENCE)
    large = SliceViT(2, (64, 64, 30), 237, dim=192, slice_depth=6, frame_depth=2)
    _cost("SliceViT of the reference's size", large, run, VIT_REFERENCE)
    for tokens in TOKENS:
        _attention(tokens, repeats)


def _cost(name: str, network: torch.nn.Module, run: torch.Tensor, reference: float) -> None:
    cost = cost_of(network, run)
    gflop = cost.flop / 1e9
    print(
        f"{name:<40}{gflop:>8.1f} GFLOP, {cost.parameters / 1e6:.2f} M parameters, {reference / gflop:.0f}x less than published"
    )


def _attention(tokens: int, repeats: int) -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(64, 4), torch.randn(8, tokens, 64)

    def fused() -> None:
        layer(x).sum().backward()

    def plain() -> None:
        value = layer._heads(x)[2]
        layer.projection((layer.weights(x) @ value).transpose(1, 2).flatten(2)).sum().backward()

    plain_s, fused_s = alternating(plain, fused, repeats)
    print(f"attention over {tokens} tokens, forward and backward: {plain_s / fused_s:.2f}x as fast fused")
