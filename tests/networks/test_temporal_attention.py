from __future__ import annotations

import pytest
import torch
from torch import nn

from custom.networks.temporal_attention import CrossAttention, SpatialAttention, SpatioTemporalBlock, TemporalTransformer

CHANNELS, HEADS, GROUPS, MAX_FRAMES, FRAMES, SPACE = 8, 2, 4, 6, 5, (3, 4, 2)


def woken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Double precision, and no weight that is 0 or even: nothing may hide behind what an untrained network leaves out."""
    generator, module = torch.Generator().manual_seed(seed), module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torchs_own(query: nn.Linear, key_value: nn.Linear, projection: nn.Linear) -> nn.MultiheadAttention:
    """torch's attention with the same weights."""
    dim = query.out_features
    module = nn.MultiheadAttention(dim, HEADS, batch_first=True, dtype=torch.float64)
    weight, bias = (torch.cat([getattr(query, n), getattr(key_value, n)[-2 * dim :]]) for n in ("weight", "bias"))
    module.load_state_dict(
        {"in_proj_weight": weight, "in_proj_bias": bias}
        | {"out_proj.weight": projection.weight, "out_proj.bias": projection.bias}
    )
    return module.eval()


@pytest.fixture
def windows() -> torch.Tensor:
    """Two windows, their frames in the batch."""
    return noise(2 * FRAMES, CHANNELS, *SPACE)


@pytest.fixture
def temporal() -> TemporalTransformer:
    return woken(TemporalTransformer(CHANNELS, MAX_FRAMES, HEADS, 6, GROUPS))


def test_an_untrained_block_is_the_identity(windows: torch.Tensor):
    block = SpatioTemporalBlock(CHANNELS, MAX_FRAMES, HEADS, 6, GROUPS).double()
    torch.testing.assert_close(block(windows, FRAMES), windows, rtol=0, atol=0)


def test_cross_attention_is_that_of_torch():
    module = woken(CrossAttention(12, HEADS))
    asks, asked = noise(3, 7, 12), noise(3, 4, 12, seed=2)
    reference = torchs_own(module.query, module.key_value, module.projection)
    torch.testing.assert_close(module(asks, asked), reference(asks, asked, asked)[0])


def test_spatial_attention_is_that_of_torch_frame_by_frame(windows: torch.Tensor):
    module = woken(SpatialAttention(CHANNELS, HEADS, GROUPS))
    reference = _spatial_reference(module)
    found, received = module(windows), module.received(windows)
    for number, frame in enumerate(windows):
        tokens = module.norm(frame[None]).reshape(1, CHANNELS, -1).mT
        added, weights = reference(tokens, tokens, tokens, average_attn_weights=False)
        torch.testing.assert_close(found[number] - frame, added[0].mT.reshape(frame.shape))
        shares = weights[0].sum(1)  # of the places that are asked, over those that ask: 1 is an equal share
        torch.testing.assert_close(received[number], shares.reshape(HEADS, *SPACE))


def _spatial_reference(module: SpatialAttention) -> nn.MultiheadAttention:
    query, rest = nn.Linear(CHANNELS, CHANNELS).double(), module.attention.qkv
    query.weight.data, query.bias.data = rest.weight.data[:CHANNELS], rest.bias.data[:CHANNELS]
    return torchs_own(query, rest, module.attention.projection)


def test_received_attention_has_mean_one_and_is_not_even(windows: torch.Tensor):
    received = woken(SpatialAttention(CHANNELS, HEADS, GROUPS)).received(windows)
    assert received.shape == (2 * FRAMES, HEADS, *SPACE)
    torch.testing.assert_close(received.mean((2, 3, 4)), torch.ones(2 * FRAMES, HEADS, dtype=torch.float64))
    assert received.std() > 0.05


def test_the_temporal_transformer_goes_place_by_place(temporal: TemporalTransformer, windows: torch.Tensor):
    """Written out with loops: a place's frames through the block, then on the mean token of every frame."""
    normed = temporal.norm(windows).reshape(2, FRAMES, CHANNELS, -1)
    cross = temporal.cross_attention
    reference = torchs_own(cross.query, cross.key_value, cross.projection)
    expected = torch.empty(2, FRAMES, CHANNELS, normed.shape[-1], dtype=torch.float64)
    weights = torch.zeros(2, HEADS, FRAMES, FRAMES, dtype=torch.float64)
    for window in range(2):
        tokens = [temporal.proj_in(normed[window, :, :, place]) + temporal.position[:FRAMES] for place in range(24)]
        context = temporal.context_norm(sum(tokens) / 24)[None]
        for place, sequence in enumerate(tokens):
            seen = temporal.block(sequence[None])
            seen = seen + reference(temporal.query_norm(seen), context, context)[0]
            expected[window, :, :, place] = temporal.proj_out(seen[0])
            weights[window] += temporal.block.weights(sequence[None])[0] / 24
    torch.testing.assert_close(temporal(windows, FRAMES) - windows, expected.reshape(windows.shape))
    torch.testing.assert_close(temporal.weights(windows, FRAMES), weights)


def test_rows_of_the_temporal_weights_sum_up_to_one(temporal: TemporalTransformer, windows: torch.Tensor):
    weights = temporal.weights(windows, FRAMES)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, FRAMES, dtype=torch.float64))
    assert not torch.allclose(weights, weights.mT)


def test_a_place_sees_other_places_in_other_frames_by_cross_attention_alone(temporal: TemporalTransformer):
    """The norm of a frame mixes its places, which is taken away here."""
    temporal.norm = nn.Identity()
    windows = noise(FRAMES, CHANNELS, *SPACE)
    other = windows.clone()
    other[3, :, 0, 0, 0] += 1
    there = (slice(0, 3), slice(None), slice(1, None))
    assert (temporal(other, FRAMES) - temporal(windows, FRAMES))[there].abs().min() > 0
    nn.init.zeros_(temporal.cross_attention.projection.weight)
    torch.testing.assert_close(temporal(other, FRAMES)[there], temporal(windows, FRAMES)[there], rtol=0, atol=1e-12)


def test_windows_of_a_batch_do_not_see_each_other(windows: torch.Tensor):
    block = woken(SpatioTemporalBlock(CHANNELS, MAX_FRAMES, HEADS, 6, GROUPS))
    torch.testing.assert_close(block(windows, FRAMES)[FRAMES:], block(windows[FRAMES:], FRAMES))


def test_the_block_attends_over_time_to_what_attention_over_space_made(windows: torch.Tensor):
    block = woken(SpatioTemporalBlock(CHANNELS, MAX_FRAMES, HEADS, 6, GROUPS))
    between = block.spatial(windows)
    torch.testing.assert_close(block(windows, FRAMES), block.temporal(between, FRAMES))
    torch.testing.assert_close(block.temporal_weights(windows, FRAMES), block.temporal.weights(between, FRAMES))
    torch.testing.assert_close(block.spatial_received(windows), block.spatial.received(windows))


def test_positions_are_drawn_anew_with_the_other_weights(temporal: TemporalTransformer):
    before = temporal.position.detach().clone()
    temporal.reset_parameters()
    assert (temporal.position - before).abs().min() > 0
