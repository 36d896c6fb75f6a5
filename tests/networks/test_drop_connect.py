from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from custom.networks.drop_connect import DropConnectLinear, drop_connect


@pytest.fixture
def layer() -> DropConnectLinear:
    torch.manual_seed(0)
    return DropConnectLinear(40, 30, p=0.3).double()


def dropped_weight(layer: DropConnectLinear) -> torch.Tensor:
    """The weight of one forward pass in training, read off the outputs of the unit vectors."""
    bias = layer.bias if layer.bias is not None else 0.0
    return (layer(torch.eye(layer.in_features, dtype=layer.weight.dtype)) - bias).T.detach()


@pytest.mark.parametrize("p", [0.05, 0.17, 0.5, 0.9])
def test_the_share_of_dropped_weights_is_p(p: float):
    torch.manual_seed(1)
    layer = DropConnectLinear(200, 200, p=p)
    share = (dropped_weight(layer) == 0).double().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 200**2)  # five standard deviations of a binomial share


def test_weights_that_stay_grow_by_the_share_that_goes(layer: DropConnectLinear):
    found = dropped_weight(layer)
    kept = found != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(found[kept], layer.weight.detach()[kept] / 0.7)


def test_all_rows_of_a_batch_meet_the_same_weights_and_the_next_batch_others(layer: DropConnectLinear):
    rows = torch.randn(1, 40, dtype=torch.float64).expand(5, 3, 40)
    first, second = layer(rows), layer(rows)
    torch.testing.assert_close(first, first[:1, :1].expand_as(first))
    assert not torch.allclose(first, second)


def test_the_bias_is_not_dropped(layer: DropConnectLinear):
    torch.testing.assert_close(layer(torch.zeros(4, 40, dtype=torch.float64)), layer.bias.expand(4, 30))


def test_the_expectation_is_the_plain_layer(layer: DropConnectLinear):
    x = torch.randn(1, 40, dtype=torch.float64)
    outputs = torch.stack([layer(x) for _ in range(2000)]).detach()
    plain = nn.functional.linear(x, layer.weight, layer.bias).detach()
    spread = (0.3 / 0.7 * (x**2 @ layer.weight.detach().T ** 2) / 2000).sqrt()
    assert ((outputs.mean(0) - plain).abs() < 5 * spread).all()


def test_evaluation_is_the_plain_layer(layer: DropConnectLinear):
    x = torch.randn(3, 40, dtype=torch.float64)
    assert torch.equal(layer.eval()(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_without_dropping_training_is_the_plain_layer():
    layer, x = DropConnectLinear(5, 4, p=0.0).train(), torch.randn(3, 5)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_a_dropped_weight_gets_no_gradient():
    torch.manual_seed(2)
    layer = DropConnectLinear(20, 10, bias=False, p=0.5).double()
    output = layer(torch.eye(20, dtype=torch.float64))
    output.sum().backward()
    dropped = output.T == 0
    assert 0 < dropped.sum() < dropped.numel()
    torch.testing.assert_close(layer.weight.grad, torch.where(dropped, 0.0, 2.0).double())


def test_masks_come_from_torch_s_generator(layer: DropConnectLinear):
    x = torch.randn(3, 40, dtype=torch.float64)
    state = torch.get_rng_state()
    first = layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)


def test_the_state_dict_is_that_of_a_linear_layer(layer: DropConnectLinear):
    plain = nn.Linear(40, 30).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 40, dtype=torch.float64)
    assert torch.equal(plain(x), layer.eval()(x))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_probability_that_is_none_is_refused(p: float):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        DropConnectLinear(2, 2, p=p)


def test_every_linear_layer_of_a_module_is_replaced_and_keeps_its_parameters():
    inner = nn.Sequential(nn.Linear(4, 4, bias=False), nn.GELU())
    module = nn.Sequential(nn.Conv1d(2, 2, 1), inner, nn.Linear(4, 3))
    before = dict(module.named_parameters())
    found = drop_connect(module, 0.4)
    assert found is module
    assert [type(x) for x in (module[0], inner[0], module[2])] == [nn.Conv1d, DropConnectLinear, DropConnectLinear]
    assert module[2].p == 0.4
    assert all(parameter is before[name] for name, parameter in module.named_parameters())
    assert list(before) == [name for name, _ in module.named_parameters()]
    assert isinstance(drop_connect(nn.Linear(2, 2), 0.1), DropConnectLinear)
