from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from custom.networks.transformer_block import SelfAttention, TransformerBlock


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.arange(5)[None] < torch.tensor([5, 3])[:, None]


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_self_attention_equals_its_equation(mask: torch.Tensor):
    torch.manual_seed(4)
    layer, x = SelfAttention(8, 2).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    qkv = layer.qkv(x).detach().numpy()
    expected = np.zeros((2, 5, 8))
    for b in range(2):
        for h in range(2):
            q, k, v = (qkv[b, :, part * 8 + h * 4 : part * 8 + h * 4 + 4] for part in range(3))
            scores = np.where(mask[b].numpy(), q @ k.T / 2, -np.inf)
            np.testing.assert_allclose(layer.weights(x, mask)[b, h].detach().numpy(), softmax(scores, -1))
            expected[b, :, 4 * h : 4 * h + 4] = softmax(scores, -1) @ v
    found = layer(x, mask)
    torch.testing.assert_close(found, layer.projection(torch.from_numpy(expected)))


def test_the_weights_of_a_block_are_those_that_it_works_with(mask: torch.Tensor):
    torch.manual_seed(4)
    block, x = TransformerBlock(8, 2, 0.0).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    nn.init.normal_(block.attention_norm.weight)
    nn.init.zeros_(block.mlp.linear2.weight)
    normed = nn.functional.layer_norm(x, (8,)) * block.attention_norm.weight
    value = block.attention.qkv(normed)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
    attended = (block.weights(x, mask) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block(x, mask), x + block.attention.projection(attended))


def test_a_block_is_nearly_the_identity_at_the_start():
    torch.manual_seed(0)
    x = torch.randn(4, 10, 64)
    with torch.no_grad():
        assert (TransformerBlock(64, 2, 0.1).eval()(x) - x).std() < 0.05
