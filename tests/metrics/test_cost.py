from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from custom.metrics.cost import Cost, cost_of, seconds_per_step


def test_a_linear_layer_takes_two_operations_per_weight_and_row():
    assert cost_of(nn.Linear(5, 7), torch.empty(3, 5)) == Cost(parameters=5 * 7 + 7, flop=2 * 3 * 5 * 7)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_takes_two_operations_per_weight_and_output_voxel(stride: int, groups: int):
    layer = nn.Conv3d(4, 6, 3, stride, padding=1, groups=groups)
    weights, voxels = 6 * 4 // groups * 27, (8 // stride) ** 3
    assert cost_of(layer, torch.empty(2, 4, 8, 8, 8)) == Cost(parameters=weights + 6, flop=2 * 2 * weights * voxels)


def test_fused_attention_is_counted():
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    x, mask = torch.empty(1, 2, 10, 8), torch.ones(1, 1, 1, 10, dtype=torch.bool)
    assert cost_of(Attention(), x, mask).flop == 2 * (2 * 2 * 10 * 10 * 8)


def test_frozen_parameters_are_not_counted():
    network = nn.Sequential(nn.Linear(5, 7).requires_grad_(False), nn.Linear(7, 2))
    assert cost_of(network, torch.empty(1, 5)).parameters == 7 * 2 + 2


def test_counting_takes_no_memory_and_leaves_the_network_alone():
    network = nn.Conv3d(1, 8, 3, padding=1).train()
    weight = network.weight.detach().clone()
    run = torch.empty(232, 1, 100, 100, 100, device="meta")  # 0.9 GB in, 7.4 GB out
    start = time.perf_counter()
    assert cost_of(network, run).flop == 2 * 232 * 8 * 27 * 100**3
    assert time.perf_counter() - start < 1
    assert network.training
    assert network.weight.device.type == "cpu"
    torch.testing.assert_close(network.weight.detach(), weight)


class _Timed(nn.Linear):
    """Its forward pass takes the next of ``seconds`` on a clock that stands still otherwise."""

    now, seconds = 0.0, [9.0, 1.0, 5.0, 2.0]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        _Timed.now += _Timed.seconds.pop(0)
        return super().forward(input)


def test_the_time_is_the_median_of_the_steps_after_the_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("custom.metrics.cost.time.perf_counter", lambda: _Timed.now)
    network, x, y = _Timed(3, 2), torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    before = network.weight.detach().clone()
    assert seconds_per_step(network, (x,), y, nn.CrossEntropyLoss(), steps=3) == 2
    torch.testing.assert_close(network.weight.detach(), before)
    with pytest.raises(ValueError, match="at least 1 step"):
        seconds_per_step(network, (x,), y, nn.CrossEntropyLoss(), steps=0)
