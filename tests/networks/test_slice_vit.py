from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from custom.metrics.cost import cost_of
from custom.networks.slice_vit import PositionalPooling, SliceViT

SIZE = (7, 9, 4)  # no multiple of the patches


def build(**options) -> SliceViT:
    torch.manual_seed(0)
    sizes = {"frames": 6, "patch_size": 3, "dim": 12, "slice_depth": 2, "frame_depth": 2, "num_heads": 2} | options
    return SliceViT(3, SIZE, **sizes)


@pytest.fixture
def network() -> SliceViT:
    return build().double().eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 5, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.arange(5)[None] < torch.tensor([5, 3])[:, None]


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_random_samples_are_memorised_in_evaluation_mode():
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(24, 8, 12, 14, 8, generator=generator)
    label = torch.randint(0, 2, (24,), generator=generator)
    torch.manual_seed(0)
    network = SliceViT(2, (12, 14, 8), 8, dim=16, slice_depth=1, frame_depth=1, chunk=192)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    assert (network.eval()(image).argmax(1) == label).all()


# ---- pooling


def test_pooling_with_even_attention_is_a_linear_layer():
    pooling = PositionalPooling(4, 9, 5).double()
    nn.init.zeros_(pooling.score.weight)
    nn.init.zeros_(pooling.position)
    x = torch.randn(2, 3, 4, 9, dtype=torch.float64)
    linear = nn.functional.linear(x.flatten(-2), pooling.weight.flatten(0, 1).T, pooling.bias)
    torch.testing.assert_close(pooling(x), linear)


def test_pooling_equals_its_equation():
    torch.manual_seed(3)
    pooling = PositionalPooling(6, 3, 2).double()
    nn.init.normal_(pooling.position)
    nn.init.normal_(pooling.bias)
    x, valid = torch.randn(5, 3, dtype=torch.float64), torch.tensor([True, True, False, True, False])
    score = (
        pooling.score(nn.functional.gelu(pooling.hidden(x)))[:, 0].detach().numpy() + pooling.position[:5, 0].detach().numpy()
    )
    kept = np.flatnonzero(valid.numpy())
    alpha = softmax(score[kept], 0)
    weight = pooling.weight.detach().numpy()
    added = np.stack([3 * a * x[n].numpy() @ weight[n] for a, n in zip(alpha, kept, strict=True)])
    np.testing.assert_allclose(pooling(x, valid).detach().numpy(), pooling.bias.detach().numpy() + added.sum(0))
    shares, norms = pooling.shares(x, valid).detach().numpy(), np.linalg.norm(added, axis=1)
    np.testing.assert_allclose(shares[kept], norms / norms.sum())
    assert not shares[~valid.numpy()].any()


def test_elements_that_add_nothing_have_no_share():
    pooling = PositionalPooling(4, 3, 2)
    assert pooling.shares(torch.zeros(1, 4, 3)).eq(0).all()


# ---- blocks


def test_no_layer_draws_in_evaluation_mode(image: torch.Tensor):
    network = build(dropout_rate=0.5).double()
    assert not torch.equal(network(image), network(image))
    network.eval()
    torch.testing.assert_close(network(image), network(image), rtol=0, atol=0)


# ---- network


def test_frames_and_slices_have_an_order(network: SliceViT, image: torch.Tensor):
    for axis in (1, 2, 3, 4):
        assert (network(image.flip(axis)) - network(image)).abs().max() > 1e-4, axis


@pytest.mark.parametrize("garbage", [0.0, 100.0, float("nan")])
def test_invalid_frames_count_for_nothing(network: SliceViT, image: torch.Tensor, mask: torch.Tensor, garbage: float):
    image[~mask] = garbage
    found = network(image, mask)
    torch.testing.assert_close(found[:1], network(image[:1]))
    torch.testing.assert_close(found[1:], network(image[1:, :3]))
    found.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_mask_of_valid_frames_is_no_mask(network: SliceViT, image: torch.Tensor):
    torch.testing.assert_close(network(image, torch.ones(2, 5, dtype=torch.bool)), network(image))


def test_every_voxel_counts_those_at_the_edge_too(network: SliceViT, image: torch.Tensor):
    image.requires_grad_()
    network(image).square().sum().backward()
    assert (image.grad != 0).all()


def test_a_weak_signal_is_not_divided_away(network: SliceViT, image: torch.Tensor):
    """Twice the deviation from no signal moves the logits about twice as far: no norm stands in the path."""
    with torch.no_grad():
        rest = network(torch.zeros_like(image))
        once, twice = network(image) - rest, network(2 * image) - rest
    assert 1.9 < float(twice.norm() / once.norm()) < 2.1


def test_a_gradient_reaches_every_parameter(image: torch.Tensor):
    network = build(frames=5).double()
    network(image).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize("train", [False, True])
def test_a_chunk_bounds_how_many_frames_are_worked_on_at_once(
    network: SliceViT, image: torch.Tensor, train: bool, monkeypatch: pytest.MonkeyPatch
):
    seen, whole = [], network._frame_token
    monkeypatch.setattr(network, "_frame_token", lambda volumes: seen.append(len(volumes)) or whole(volumes))
    network.chunk = 4
    with torch.set_grad_enabled(train):
        output = network(image)
    if train:
        output.sum().backward()  # works every chunk out again
    assert sorted(seen) == sorted([4, 4, 2] * (1 + train))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 7, *SIZE), "at most 6"), ((2, 5, 9, 7, 4), r"frames of \(9, 7, 4\) voxels came to a network for")],
)
def test_windows_that_do_not_fit_are_refused(network: SliceViT, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape, dtype=torch.float64))


def test_a_window_without_a_valid_frame_is_refused(network: SliceViT, image: torch.Tensor):
    with pytest.raises(ValueError, match="no valid frame"):
        network(image, torch.zeros(2, 5, dtype=torch.bool))


@pytest.mark.parametrize("other", [{"frames": 5}, {"patch_size": 4}])
def test_weights_of_another_grid_or_length_are_refused(network: SliceViT, other: dict):
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict(build(**other).state_dict())


def test_a_whole_run_costs_a_fifth_of_the_reference_system_s():
    """Reference: 467 GFLOP for 64×64×30×237, the same dimension, blocks and heads."""
    with torch.device("meta"):
        network = SliceViT(4, (64, 64, 30), 237, dim=192, slice_depth=6, frame_depth=2, num_heads=2)
        cost = cost_of(network, torch.empty(1, 237, 64, 64, 30))
    assert 30e9 < cost.flop < 93e9


# ---- attention


def test_attention_has_the_logits_of_the_network(network: SliceViT, image: torch.Tensor, mask: torch.Tensor):
    network.chunk = 4
    torch.testing.assert_close(network.attention(image, mask).logits, network(image, mask))


def test_rows_of_attention_sum_up_to_one(network: SliceViT, image: torch.Tensor, mask: torch.Tensor):
    image[0, 1, ..., 2] = 0  # a slice without any signal
    found = network.attention(image, mask)
    assert found.patch_shares.shape == (2, 5, 4, 3, 3)
    assert [m.shape for m in found.slices] == [(2, 5, 2, 4, 4)] * 2
    assert [m.shape for m in found.frames] == [(2, 2, 5, 5)] * 2
    for rows in (*found.slices, *found.frames, found.slice_shares, found.frame_shares):
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1], dtype=torch.float64))
    in_slice = found.patch_shares.sum((-2, -1))
    assert in_slice[0, 1, 2] == 0
    torch.testing.assert_close(in_slice[0, 2:], torch.ones(3, 4, dtype=torch.float64))


def test_no_attention_goes_to_invalid_frames(network: SliceViT, image: torch.Tensor, mask: torch.Tensor):
    found = network.attention(image, mask)
    assert not found.frame_shares[~mask].any()
    assert all(not matrix[1, ..., 3:].any() for matrix in found.frames)
    alone = network.attention(image[1:, :3])
    torch.testing.assert_close(found.frame_shares[1:, :3], alone.frame_shares)
    torch.testing.assert_close(found.patch_shares[1:, :3], alone.patch_shares)


def test_shares_lie_where_the_signal_is(network: SliceViT):
    image = torch.zeros(1, 5, *SIZE, dtype=torch.float64)
    image[0, 2, 6, 4, 3] = 1
    shares = network.attention(image).patch_shares[0, 2, 3]
    assert shares[2, 1] == 1
    assert shares.sum() == 1


# ---- export


@pytest.mark.parametrize("kind", ["trace", "onnx"])
def test_exported_networks_agree_for_another_batch(kind: str, image: torch.Tensor):
    network, image = build().eval(), image.float()
    network.chunk = 3
    if kind == "trace":
        found = torch.jit.trace(network, image[:1])(image)
    else:
        file = io.BytesIO()
        axes = {"image": {0: "batch"}, "pred": {0: "batch"}}
        torch.onnx.export(
            network, (image[:1],), file, dynamo=False, input_names=["image"], output_names=["pred"], dynamic_axes=axes
        )
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(found, network(image).detach(), atol=1e-5, rtol=1e-4)
