from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from custom.networks.spatiotemporal_unet import SpatioTemporalDiffusionUNet

CLASSES, MAX_FRAMES = 3, 6
SLICE, VOLUME = (10, 7, 1), (6, 5, 3)  # no multiples of what the levels halve


def build(spatial_dims: int = 2, woken: bool = True, **options) -> SpatioTemporalDiffusionUNet:
    """A small network in double precision; woken up, it has no weight that is 0, so that nothing stays hidden behind one."""
    torch.manual_seed(0)
    sizes = {"channels": (8, 12, 16), "attention_levels": (False, True, True), "num_heads": 2, "head_dim": 4} | options
    network = SpatioTemporalDiffusionUNet(spatial_dims, CLASSES, MAX_FRAMES, norm_num_groups=4, **sizes).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * woken * torch.randn_like(parameter)
    return network


def windows(batch: int = 2, frames: int = 5, grid: tuple[int, ...] = SLICE, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, *grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def network() -> SpatioTemporalDiffusionUNet:
    return build()


STEPS, LABELS = torch.tensor([30, 700]), torch.tensor([2, -1])


# ---- what comes out


@pytest.mark.parametrize(("spatial_dims", "grid"), [(2, SLICE), (2, (4, 8, 1)), (3, VOLUME), (3, (9, 2, 1))])
def test_any_grid_keeps_its_shape(spatial_dims: int, grid: tuple[int, ...]):
    image = windows(grid=grid)
    found = build(spatial_dims)(image, STEPS, LABELS)
    assert found.shape == image.shape
    assert found.std() > 0.01
    assert not build(spatial_dims, woken=False)(image, STEPS, LABELS).any()  # untrained


@pytest.mark.parametrize(("spatial_dims", "grid", "padding"), [(2, SLICE, (0, 1, 1, 1)), (3, VOLUME, (0, 1, 1, 2, 1, 1))])
def test_a_grid_is_padded_with_zeros_on_both_sides(spatial_dims: int, grid: tuple[int, ...], padding: tuple[int, ...]):
    network, image = build(spatial_dims), windows(grid=grid)
    padded = nn.functional.pad(image, padding if spatial_dims == 3 else (0, 0, *padding))
    before = [*reversed(padding[::2])]
    inside = tuple(slice(b, b + n) for b, n in zip(before, grid, strict=False))
    torch.testing.assert_close(
        network(image, STEPS), network(padded, STEPS)[(..., *inside, *[slice(None)] * (3 - len(inside)))]
    )


def test_samples_do_not_see_each_other(network: SpatioTemporalDiffusionUNet):
    image = windows()
    one_by_one = [network(image[i : i + 1], STEPS[i : i + 1], LABELS[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(network(image, STEPS, LABELS), torch.cat(one_by_one))


@pytest.mark.parametrize("frames", [1, MAX_FRAMES])
def test_windows_of_other_lengths(network: SpatioTemporalDiffusionUNet, frames: int):
    assert network(windows(frames=frames), STEPS, LABELS).shape == (2, frames, *SLICE)


# ---- timestep and class


def test_without_timesteps_they_are_0_and_one_serves_all(network: SpatioTemporalDiffusionUNet):
    image = windows()
    torch.testing.assert_close(network(image), network(image, torch.tensor([0, 0])))
    torch.testing.assert_close(network(image, torch.tensor([400])), network(image, torch.tensor([400, 400])))


def test_timesteps_may_lie_between_integers(network: SpatioTemporalDiffusionUNet):
    image = windows()
    low, middle, high = (network(image, torch.tensor([t])) for t in (400, 400.5, 401.0))
    torch.testing.assert_close(low, network(image, torch.tensor([400.0])))
    step = (high - low).norm()
    assert 0 < (middle - low).norm() < step
    assert 0 < (high - middle).norm() < step


def test_no_class_is_minus_one(network: SpatioTemporalDiffusionUNet):
    image = windows()
    none, minus = network(image, STEPS), network(image, STEPS, torch.tensor([-1, -1]))
    torch.testing.assert_close(none, minus)
    torch.testing.assert_close(none, network(image, STEPS, torch.tensor([-1])))
    outputs = [none, *(network(image, STEPS, torch.full((2,), label)) for label in range(CLASSES))]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert (one - other).abs().max() > 1e-3


def test_frames_see_each_other_and_their_order_matters(network: SpatioTemporalDiffusionUNet):
    image, order = windows(), torch.tensor([3, 0, 4, 1, 2])
    found = network(image, STEPS)
    assert (network(image[:, order], STEPS) - found[:, order]).abs().max() > 1e-3
    image[:, 3] += 1
    changed = (network(image, STEPS) - found).abs().amax((0, 2, 3, 4))
    assert changed.min() > 1e-3


def test_without_attention_they_do_not():
    network, image = build(attention_levels=(False,) * 3), windows()
    assert network.attention_blocks == ()
    found = network(image, STEPS)
    image[:, 3] += 1
    assert (network(image, STEPS) - found).abs().amax((0, 2, 3, 4)).nonzero().tolist() == [[3]]


# ---- training


def test_a_gradient_reaches_every_parameter():
    network = build(3, num_res_blocks=2).train()
    network(windows(4, grid=VOLUME), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 2, -1])).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert network.class_embedding.weight.grad.any(1).all()


def test_an_untrained_network_uses_every_parameter():
    """Distributed training refuses parameters that a forward pass leaves out."""
    network = build(woken=False).train()
    network(windows(), STEPS, LABELS).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def _step(network: SpatioTemporalDiffusionUNet) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients, and bytes that the forward pass keeps for them."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(4)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network.train()(windows(), STEPS, LABELS).square().mean()
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters()}, sum(kept.values())


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    (plain, all_bytes), (checkpointed, fewer) = _step(build()), _step(build(checkpointing=True))
    torch.testing.assert_close(checkpointed, plain, rtol=1e-6, atol=1e-12)
    assert fewer < all_bytes / 3


def test_a_few_windows_are_learnt():
    torch.manual_seed(0)
    network = SpatioTemporalDiffusionUNet(
        2, CLASSES, MAX_FRAMES, (16, 32), attention_levels=(False, True), num_heads=2, head_dim=16
    )
    x0, epsilon = windows(24, 3, (4, 4, 1)).float(), windows(24, 3, (4, 4, 1), seed=2).float()
    a = torch.linspace(0.2, 0.9, 24).reshape(-1, 1, 1, 1, 1)
    s = (1 - a.square()).sqrt()
    steps, labels = torch.arange(24) * 40, torch.arange(24) % CLASSES
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=4e-3), []
    for _ in range(100):
        optimizer.zero_grad()
        losses.append((network(a * x0 + s * epsilon, steps, labels) - (a * epsilon - s * x0)).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 10


# ---- features and attention


@pytest.mark.parametrize(("spatial_dims", "grid", "coarse"), [(2, SLICE, (3, 2, 1)), (3, VOLUME, (2, 2, 1))])
def test_features_are_what_leaves_the_bottleneck(spatial_dims: int, grid: tuple[int, ...], coarse: tuple[int, ...]):
    network, image, seen = build(spatial_dims), windows(frames=3, grid=grid), []
    hook = network.bottom.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(image, STEPS, LABELS)
    hook.remove()
    found = network.features(image, STEPS, LABELS)
    assert found.shape == (2, 3, 16, *coarse)
    torch.testing.assert_close(found[0, 2].flatten(), seen[0][2].flatten())


def test_attention_has_a_map_of_every_frame_and_head_in_the_windows_grid(network: SpatioTemporalDiffusionUNet):
    maps = network.attention(windows(), STEPS, LABELS)
    assert tuple(maps) == network.attention_blocks == ("spatial_1", "temporal_1", "spatial_2", "temporal_2")
    for level in (1, 2):
        assert maps[f"spatial_{level}"].shape == (2, 5, 2, *SLICE)
        assert maps[f"spatial_{level}"].min() >= 0
        assert maps[f"temporal_{level}"].shape == (2, 2, 5, 5)
        torch.testing.assert_close(maps[f"temporal_{level}"].sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert not torch.allclose(maps["spatial_1"], maps["spatial_2"])


@pytest.mark.parametrize(("spatial_dims", "grid"), [(2, (10, 7, 1)), (3, VOLUME)])
def test_attention_lies_where_the_level_has_its_places(spatial_dims: int, grid: tuple[int, ...]):
    """The bottleneck's map, interpolated by hand: its places are 4 voxels wide, the padding before the grid belongs to them."""
    network, image, seen = build(spatial_dims), windows(2, 3, grid), []
    hook = network.bottom.attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found = network.attention(image, STEPS, LABELS, ["spatial_2"])["spatial_2"][1, 0, 1].numpy()
    hook.remove()
    expected = network.bottom.attention.spatial_received(seen[0])[3, 1].detach().numpy()
    for axis, size in enumerate(grid[:spatial_dims]):
        padding = (-size % 4) // 2
        centres = (np.arange(size) + padding + 0.5) / 4 - 0.5
        places = np.arange(expected.shape[axis])
        expected = np.apply_along_axis(lambda line, at=centres, of=places: np.interp(at, of, line), axis, expected)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-9)
    assert found.std() > 1e-4


def test_even_attention_is_one_everywhere():
    network = build()
    nn.init.zeros_(network.bottom.attention.spatial.attention.qkv.weight)
    found = network.attention(windows(), blocks=["spatial_2"])
    torch.testing.assert_close(found["spatial_2"], torch.ones(2, 5, 2, *SLICE, dtype=torch.float64))


def test_asking_for_attention_leaves_no_trace(network: SpatioTemporalDiffusionUNet):
    image = windows()
    before = network(image, STEPS, LABELS)
    assert tuple(network.attention(image, STEPS, LABELS, ["temporal_1"])) == ("temporal_1",)
    assert not any(module._forward_pre_hooks for module in network.modules())
    torch.testing.assert_close(network(image, STEPS, LABELS), before, rtol=0, atol=0)


# ---- elsewhere


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_exported_network_says_the_same():
    network, names, buffer = build().float(), ["x", "timesteps", "class_labels"], io.BytesIO()
    axes = {name: {0: "batch"} for name in names}
    example = windows().float(), STEPS.float(), LABELS
    torch.onnx.export(network, example, buffer, dynamo=False, input_names=names, dynamic_axes=axes)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    image, steps, labels = windows(3, seed=5).float(), torch.tensor([0.5, 3, 999]), torch.tensor([0, -1, 2])
    (found,) = session.run(None, {name: x.numpy() for name, x in zip(names, (image, steps, labels), strict=True)})
    np.testing.assert_allclose(found, network(image, steps, labels).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_low_precision_is_finite_and_near():
    network, image = build().float(), windows().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image, STEPS, LABELS)
    exact = network(image, STEPS, LABELS)
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_weights_of_other_heads_are_refused(network: SpatioTemporalDiffusionUNet):
    other = build(num_heads=4, head_dim=2)
    assert {n: p.shape for n, p in other.named_parameters()} == {n: p.shape for n, p in network.named_parameters()}
    with pytest.raises(ValueError, match=r"trained with num_heads and norm_num_groups \[2, 4\]"):
        other.load_state_dict(network.state_dict())


# ---- what is refused


def test_a_window_that_is_too_long_is_refused(network: SpatioTemporalDiffusionUNet):
    with pytest.raises(ValueError, match="7 frames, the network is built for at most 6"):
        network(windows(frames=7))


def test_a_volume_is_no_slice(network: SpatioTemporalDiffusionUNet):
    with pytest.raises(ValueError, match="3 slices came to a network for one slice"):
        network(windows(grid=VOLUME))


@pytest.mark.parametrize("label", [CLASSES, -2])
def test_an_unknown_class_is_refused(network: SpatioTemporalDiffusionUNet, label: int):
    with pytest.raises(ValueError, match=rf"class labels \[0, {label}\] came to a network of 3 classes"):
        network(windows(), STEPS, torch.tensor([0, label]))


def test_an_unknown_block_is_refused(network: SpatioTemporalDiffusionUNet):
    with pytest.raises(ValueError, match="'spatial_0': the network has spatial_1, temporal_1, spatial_2, temporal_2"):
        network.attention(windows(), blocks=["spatial_0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "2 .* or 3, not 1"),
        ({"attention_levels": (True,)}, "3 channels and 1 attention levels"),
        ({"channels": (8, 12, 10)}, "10 channels cannot be shared by 4 groups, .* or by 2 heads"),
        ({"channels": (4, 8, 12)}, "4 channels cannot be shared by 4 groups"),
        ({"num_heads": 5}, "12 channels cannot be shared by 4 groups, .* or by 5 heads"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)
