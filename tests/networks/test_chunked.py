from __future__ import annotations

import pytest
import torch
from torch import nn

from custom.networks import CNNTransformer, SliceCNNLSTM, SliceViT
from custom.networks.chunked import chunked

SIZE = (9, 8, 4)
NETWORKS = {
    "SliceCNNLSTM": lambda: SliceCNNLSTM(channels=(4, 6, 8), hidden=5, warm_up=2),
    "SliceViT": lambda: SliceViT(3, SIZE, frames=6, patch_size=3, dim=12, slice_depth=2, frame_depth=2, num_heads=2),
    "CNNTransformer": lambda: CNNTransformer(3, SIZE, frames=6, mode="cnn_only", channels=(4, 8), positions=2, dim=16, depth=1),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().double().eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 5, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_chunks_change_neither_output_nor_gradient(network: nn.Module, image: torch.Tensor, chunk: int) -> None:
    results = []
    for size in (1000, chunk):
        network.chunk = size
        network.zero_grad()
        output = network(image)
        output.square().sum().backward()
        results.append([output.detach(), *(p.grad.clone() for p in network.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_chunk_bounds_what_is_kept_for_the_backward_pass(network: nn.Module, image: torch.Tensor) -> None:
    kept: list[int] = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    def kept_by(chunk: int) -> int:
        network.chunk = chunk
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            network(image)
        return sum(kept)

    assert kept_by(2) < kept_by(1000) / 2


@pytest.mark.parametrize("grad", [False, True])
def test_pieces_have_the_size_of_a_chunk(grad: bool) -> None:
    sizes: list[int] = []

    def double(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return 2 * x

    x = torch.rand(7, 2, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(chunked(double, x, 3), 2 * x)
    assert sizes == [3, 3, 1]
