from __future__ import annotations

import pytest
import torch
from torch import nn

from custom.networks import SliceCNNLSTM
from custom.networks.slice_cnn_lstm import ConvMean


@pytest.fixture
def network() -> SliceCNNLSTM:
    torch.manual_seed(0)
    return SliceCNNLSTM(channels=(4, 6, 8), hidden=5, warm_up=2).double()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 7, 9, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_window_means_equal_convolution_and_average(kernel: int, stride: int, padding: int):
    layer = ConvMean(3, 4, kernel, stride, padding).double()
    plain = nn.Conv2d(3, 4, kernel, stride, padding).double()
    plain.load_state_dict(layer.state_dict())
    one, other = (torch.randn(2, 3, 11, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    other.data = one.data.clone()
    layer(one).square().sum().backward()
    plain(other).mean((2, 3)).square().sum().backward()
    torch.testing.assert_close(layer(one), plain(other).mean((2, 3)))
    torch.testing.assert_close(one.grad, other.grad)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad)


def test_default_sizes_are_the_reference_system_s():
    assert sum(p.numel() for p in SliceCNNLSTM().parameters()) == 306_306


def test_equals_the_plain_form(network: SliceCNNLSTM, image: torch.Tensor):
    """Every slice of every frame by itself through convolutions that are carried out."""
    convolutions = [layer for layer in network.encoder if isinstance(layer, nn.Conv2d)]
    frames = []
    for t in range(image.shape[1]):
        slices = []
        for z in range(image.shape[-1]):
            h = image[:, t, None, :, :, z]
            for layer in convolutions[:-1]:
                h = nn.functional.conv2d(h, layer.weight, layer.bias, padding=layer.padding).relu()
            last = convolutions[-1]
            slices.append(nn.functional.conv2d(h, last.weight, last.bias, padding=last.padding).mean((2, 3)))
        frames.append(torch.stack(slices).mean(0))
    states, _ = network.lstm(torch.stack(frames, 1))
    torch.testing.assert_close(network(image), network.head(states[:, 2:].mean(1)))


def test_invalid_frames_count_for_nothing(network: SliceCNNLSTM, image: torch.Tensor):
    padded = torch.cat([image, torch.randn(2, 4, 9, 8, 3, dtype=torch.float64)], 1)
    mask = torch.arange(11)[None] < torch.tensor([7, 5])[:, None]
    found = network(padded, mask)
    torch.testing.assert_close(found[:1], network(image[:1]))
    torch.testing.assert_close(found[1:], network(image[1:, :5]))


def test_evidence_of_the_frames_has_the_logits_as_its_mean(network: SliceCNNLSTM, image: torch.Tensor):
    assert network.evidence(image).shape == (2, 5, 2)
    torch.testing.assert_close(network.evidence(image).mean(1), network(image))
    torch.testing.assert_close(network.head(network.forward_features(image)), network(image))


def test_slices_have_no_order_and_frames_have_one(network: SliceCNNLSTM, image: torch.Tensor):
    torch.testing.assert_close(network(image.flip(-1)), network(image))
    assert not torch.allclose(network(image.flip(1)), network(image))


def test_weights_of_other_strides_are_refused_though_they_fit():
    state = SliceCNNLSTM(strides=(2, 2, 1)).state_dict()
    SliceCNNLSTM(strides=(2, 2, 1)).load_state_dict(state)
    with pytest.raises(ValueError, match="name the overlay"):
        SliceCNNLSTM().load_state_dict(state)


def test_the_strided_stem_reaches_every_parameter(image: torch.Tensor):
    network = SliceCNNLSTM(strides=(2, 2, 1)).double()
    network(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_the_start_of_the_lstm_does_not_count_whatever_the_length(image: torch.Tensor):
    """A scan that goes on as it began has the same feature whether it is long or short, once the warm-up is left out."""
    network = SliceCNNLSTM(channels=(4, 6, 8), hidden=5, warm_up=40).double()
    still = image[:, :1].expand(2, 100, 9, 8, 3)
    torch.testing.assert_close(network(still), network(still[:, :80]), atol=1e-6, rtol=0)
    network.warm_up = 0
    assert (network(still) - network(still[:, :80])).abs().max() > 1e-4


def test_half_of_a_short_scan_is_warm_up(network: SliceCNNLSTM, image: torch.Tensor):
    network.warm_up = 50
    assert network.evidence(image).shape == (2, 4, 2)


def test_a_padded_scan_within_the_warm_up_is_refused(network: SliceCNNLSTM, image: torch.Tensor):
    mask = torch.arange(7)[None] < torch.tensor([7, 2])[:, None]
    with pytest.raises(ValueError, match="at most 2 frames"):
        network(image, mask)
