from __future__ import annotations

from pathlib import Path

import onnx
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


def test_an_input_given_by_place_and_by_name_is_named(tmp_path: Path) -> None:
    image = torch.rand(1, 4, 3)
    with pytest.raises(ValueError, match="was given image by place and by name"):
        export(MaskedMean(), tmp_path)(image, mask=torch.ones(1, 4).bool(), image=image)


class ByFrames(MaskedMean):
    """Another network than its graph, for any number of frames but the recorded one."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(image, mask) + (0.0 if torch.compiler.is_exporting() or image.shape[1] == 16 else 1.0)


class Small(MaskedMean):
    """Outputs below the tolerance, where the graph gives zeros."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(image, mask) * (0.0 if torch.compiler.is_exporting() else 1e-4)


@pytest.mark.parametrize(("network", "difference"), [(ByFrames(), "1"), (Small(), r"\d.*e-0[45]")], ids=["frames", "small"])
def test_a_file_that_differs_from_pytorch_is_not_kept(tmp_path: Path, network: nn.Module, difference: str) -> None:
    with pytest.raises(ValueError, match=f"differs from PyTorch by {difference}"):
        export(network, tmp_path)
    assert not (tmp_path / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("metadata", "message"), [({"author": "me"}, "its metadata are no JSON"), ({}, "does not say the SHA-256 of its weights")]
)
def test_a_file_of_another_tool_is_named(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    export(MaskedMean(), tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=rf"model\.onnx was not written by export\.json: .*{message}"):
        OnnxNetwork(str(tmp_path / "model.onnx"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.json"):
        OnnxNetwork(str(tmp_path / "model.onnx"))


@pytest.mark.parametrize("content", [b"", b"no ONNX", b"\x08\x07\xff\xff\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx (is damaged|was not written by export\.json)"):
        OnnxNetwork(str(path))


def test_damaged_weights_are_not_exported(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"model\.pt .*: take a copy, or run train\.json again"):
        export_onnx(nn.Identity(), str(tmp_path / "model.pt"), str(tmp_path / "model.onnx"), {}, lambda network: {})
