from __future__ import annotations

import pytest
import torch

from custom.networks import Simple3DCNN


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("num_classes", "expected"), [(4, 14_267_300), (3, 14_267_043)])
def test_it_has_the_reference_systems_size(num_classes: int, expected: int):
    assert parameters(Simple3DCNN(num_classes=num_classes)) == expected


@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 20, 24)])
def test_one_logit_per_class_down_to_16_voxels(shape: tuple[int, ...]):
    network = Simple3DCNN(channels=(2, 2, 4, 4, 8), num_classes=4).eval()
    assert network(torch.rand(2, 1, *shape)).shape == (2, 4)
    with pytest.raises(RuntimeError):
        network(torch.rand(1, 1, 15, 15, 15))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = Simple3DCNN(channels=(4, 8), hidden=8, num_classes=3)
    torch.nn.functional.cross_entropy(network(torch.rand(4, 1, 8, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    # a bias before a batch norm gets a gradient too, of rounding errors
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_noise_can_be_memorised():
    """Also in evaluation mode: the running statistics of the batch norms follow."""
    torch.manual_seed(0)
    images, labels = torch.rand(24, 1, 8, 8, 8), torch.arange(24) % 3
    network = Simple3DCNN(channels=(8, 16), hidden=32, num_classes=3, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(network.eval()(images).argmax(1), labels)


def test_batches_do_not_mix_in_evaluation_mode():
    torch.manual_seed(0)
    network, images = Simple3DCNN(channels=(4, 8)).eval(), torch.rand(3, 1, 8, 8, 8)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))
