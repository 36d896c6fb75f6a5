from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from custom.metrics.cost import cost_of
from custom.networks.cnn_transformer import MODES, CNNTransformer, ConvBranch
from custom.networks.drop_connect import DropConnectLinear

SIZE = (9, 10, 7)


def build(mode: str = "hybrid", **options) -> CNNTransformer:
    torch.manual_seed(0)
    sizes = {"channels": (4, 8), "positions": 2, "dim": 16, "depth": 1} | options
    return CNNTransformer(3, SIZE, frames=6, mode=mode, **sizes)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 5, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", MODES)
def test_random_samples_are_memorised_in_evaluation_mode(mode: str):
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(24, 4, *SIZE, generator=generator)
    label = torch.randint(0, 3, (24,), generator=generator)
    network = build(mode, strides=(2, 1), chunk=96)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    assert (network.eval()(image).argmax(1) == label).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("garbage", [100.0, float("nan")])
def test_invalid_frames_count_for_nothing(mode: str, garbage: float, image: torch.Tensor):
    network = build(mode).double().eval()
    padded = torch.cat([image, torch.zeros(2, 1, *SIZE, dtype=torch.float64)], 1)
    mask = torch.arange(6)[None] < torch.tensor([5, 3])[:, None]
    padded[~mask] = garbage
    found = network(padded, mask)
    torch.testing.assert_close(found[:1], network(image[:1]))
    torch.testing.assert_close(found[1:], network(image[1:, :3]))


@pytest.mark.parametrize("mode", MODES)
def test_frames_have_an_order_for_the_transformer_only(mode: str, image: torch.Tensor):
    network = build(mode).double().eval()
    difference = (network(image.flip(1)) - network(image)).abs().max()
    assert difference < 1e-12 if mode == "cnn_only" else difference > 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_the_place_of_a_response_is_kept(mode: str):
    """The same response in another place: with pooling over all positions the logits would hardly differ."""
    network = build(mode, strides=(1, 1)).double().eval()
    here = torch.zeros(1, 4, *SIZE, dtype=torch.float64)
    here[..., 2, 2, 2] = 1
    nothing = network(torch.zeros_like(here))
    one, other = network(here) - nothing, network(here.roll((4, 5), (2, 3))) - nothing
    assert (one - other).norm() > 0.5 * one.norm()


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_every_parameter_and_every_voxel(mode: str, image: torch.Tensor):
    network = build(mode).double()
    image.requires_grad_()
    network(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert (image.grad != 0).all()


def test_at_the_start_logits_are_nearly_linear_in_the_mean_over_frames(image: torch.Tensor):
    network = build().double().eval()
    nothing = network(torch.zeros_like(image))
    found, mean = network(image) - nothing, network(image.mean(1, keepdim=True).expand_as(image)) - nothing
    assert (found - mean).norm() < 0.2 * mean.norm()
    assert (network(3 * image) - nothing - 3 * found).norm() < 0.2 * (3 * found).norm()


@pytest.mark.parametrize("positions", [1, 2, 3, 4, 7, 9])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
def test_every_voxel_is_seen_whatever_the_positions(positions: int, strides: tuple[int, int]):
    network = build("transformer_only", positions=positions, strides=strides).double().eval()
    image = torch.randn(1, 1, *SIZE, dtype=torch.float64, requires_grad=True)
    network(image).square().sum().backward()
    assert (image.grad != 0).all()
    size = [-(-n // (strides[0] * strides[1])) for n in SIZE]
    assert len(network.position) == np.prod([min(positions, n) for n in size])


def test_modes_differ_in_what_they_leave_out():
    shapes = {mode: {n: p.shape for n, p in build(mode).named_parameters()} for mode in MODES}
    without = {n for n in shapes["hybrid"] if n.split(".")[0] not in ("blocks", "position", "time")}
    assert set(shapes["cnn_only"]) == without < set(shapes["hybrid"])
    assert all(shapes["hybrid"][n] == shape for n, shape in shapes["cnn_only"].items())
    patches = {n for n in shapes["transformer_only"] if n.startswith("encoder")}
    assert len(patches) == 2  # weight and bias of one convolution
    assert set(shapes["transformer_only"]) - patches == {n for n in shapes["hybrid"] if not n.startswith("encoder")}


def test_weights_are_dropped_in_transformer_and_head_and_nothing_is_batch_normed():
    network = build(drop_connect_p=0.25)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 5
    assert all(isinstance(layer, DropConnectLinear) and layer.p == 0.25 for layer in linear)
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_a_whole_run_is_within_the_bounds_at_full_size(mode: str, masked: bool):
    with torch.device("meta"):
        network = CNNTransformer(4, (100, 100, 100), frames=232, mode=mode)
    run = torch.empty(1, 232, 100, 100, 100, device="meta")
    mask = [torch.empty(1, 232, dtype=torch.bool, device="meta")] if masked else []
    cost = cost_of(network, run, *mask)
    assert cost.parameters < 1e6
    assert cost.flop < 70e9


def test_equals_the_plain_form(image: torch.Tensor):
    """Every frame by itself, and the mean of the tokens by hand."""
    network = build(positions=3).double().eval()
    frames = [network.encoder(image[:, t, None]).transpose(1, 2) for t in range(5)]
    tokens = torch.stack(frames, 1) + network.position + network.time[:5]
    for block in network.blocks:
        tokens = block(tokens.flatten(1, 2)).view_as(tokens)
    logits = tokens.mean(1).flatten(1) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(image), logits)


def test_the_cnn_keeps_its_input_and_adds_to_it():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 4, 3)
    branch = ConvBranch(8)
    assert 0 < (branch(x) - x).norm() < 0.3 * x.norm()


@pytest.mark.parametrize("mode", MODES)
def test_exports_give_what_pytorch_gives_for_another_batch_size(mode: str, image: torch.Tensor):
    network, image = build(mode, chunk=3).eval(), image.float()
    expected = network(image).detach()
    torch.testing.assert_close(torch.jit.trace(network, image[:1])(image), expected)
    file = io.BytesIO()
    torch.onnx.export(network, (image[:1],), file, dynamo=False, input_names=["image"], dynamic_axes={"image": {0: "batch"}})
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_weights_of_other_strides_or_heads_are_refused_though_they_fit():
    state = build(strides=(1, 2), heads=4).state_dict()
    build(strides=(1, 2), heads=4).load_state_dict(state)
    for other in ({"strides": (2, 1), "heads": 4}, {"strides": (1, 2), "heads": 2}):
        with pytest.raises(ValueError, match="name the overlay"):
            build(**other).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"), [({"mode": "cnn"}, "not one of hybrid"), ({"channels": (8,)}, "1 channels and 2 strides")]
)
def test_a_wrong_configuration_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CNNTransformer(2, SIZE, 4, **options)


def test_windows_that_do_not_fit_are_refused(image: torch.Tensor):
    network = build().double()
    with pytest.raises(ValueError, match="at most 6"):
        network(image.repeat(1, 2, 1, 1, 1))
    with pytest.raises(ValueError, match="spatial_size"):
        network(image[..., 1:])
    with pytest.raises(ValueError, match="no valid frame"):
        network(image, torch.tensor([[True] * 5, [False] * 5]))
