from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from custom.networks import OnnxNetwork, export_onnx

INPUTS = {
    "image": {"shape": ["batch", "frames", 3], "dtype": "float32"},
    "mask": {"shape": ["batch", "frames"], "dtype": "bool"},
}


class MaskedMean(nn.Module):
    """Mean over the valid frames."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        valid = mask.to(image.dtype)[..., None]
        return self.head((image * valid).sum(1) / valid.sum(1))


def export(network: nn.Module, folder: Path, **more) -> OnnxNetwork:
    torch.save(network.state_dict(), folder / "model.pt")
    return OnnxNetwork(export_onnx(network, str(folder / "model.pt"), str(folder / "model.onnx"), INPUTS, **more))


def test_batch_and_frames_may_differ_from_the_example(tmp_path: Path) -> None:
    network = MaskedMean()
    exported = export(network, tmp_path)
    image, mask = torch.rand(5, 7, 3), torch.rand(5, 7) > 0.3
    torch.testing.assert_close(exported(image, mask=mask), network(image, mask))


def test_file_tells_of_its_network(tmp_path: Path) -> None:
    network = MaskedMean()
    exported = export(network, tmp_path, metadata=lambda network: {"classes": list(range(network.head.out_features))})
    assert exported.metadata["classes"] == [0, 1]
    assert len(exported.metadata["weights_sha256"]) == 64


def test_an_input_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    exported = export(MaskedMean(), tmp_path)
    with pytest.raises(ValueError, match="takes image, mask; it was given image"):
        exported(torch.rand(1, 4, 3))
    with pytest.raises(ValueError, match="site"):
        exported(torch.rand(1, 4, 3), torch.ones(1, 4).bool(), site=torch.zeros(1))


def test_a_file_that_differs_from_pytorch_is_not_kept(tmp_path: Path) -> None:
    class ByBatch(MaskedMean):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            exporting = torch.compiler.is_exporting()
            return super().forward(image, mask) + (0.0 if exporting else 1.0)

    with pytest.raises(ValueError, match="differs from PyTorch by 1"):
        export(ByBatch(), tmp_path)
    assert not (tmp_path / "model.onnx").is_file()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.json"):
        OnnxNetwork(str(tmp_path / "model.onnx"))
