"""A network as one ONNX file, and that file in place of the network.

MONAI's ``onnx_export`` knows networks of one input, and makes whatever the batch of its example decides a constant. Here every
input has a name, axes that may vary have one too, and the file is run beside PyTorch before it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import nn
from torch.export import Dim

from ..own_files import load_tensors
from ..paths import file_digest, written_whole

__all__ = ["OnnxNetwork", "export_onnx"]

onnxruntime, _ = optional_import("onnxruntime")

OUTPUT = "pred"
RECORDED = 2, 16  # lengths of the batch and of other named axes in the example that the graph is recorded with,
COMPARED = 1, 24  # and in the one that the file is compared by
TOLERANCE = 1e-3  # of the largest output,
SMALLEST = 1e-2  # or of this: terms of order 1 that cancel, as in an untrained denoiser, leave 5e-6 of float noise

Inputs = Mapping[str, Mapping[str, Any]]


def export_onnx(
    network: nn.Module,
    ckpt_path: str,
    path: str,
    inputs: Inputs,
    metadata: Callable[[nn.Module], Mapping[str, Any]] = lambda network: {},
) -> str:
    """Write a trained network as an ONNX file with the output ``pred``, and compare it with PyTorch.

    They are compared once, by a batch and other named axes of another length than the graph was recorded with. The same
    weights give the same bytes wherever this runs.

    Args:
        network: whose ``forward`` takes the inputs in this order.
        ckpt_path: its weights, a plain state dict; the file remembers their SHA-256.
        path: of the ONNX file.
        inputs: name -> ``shape`` and ``dtype`` (a name in torch). An axis given by a name varies, axes of one name together;
            ``batch`` is such a name.
        metadata: of the network with its weights: further entries for the file, which JSON can hold.

    Returns:
        ``path``.

    Raises:
        ValueError: if the file gives something else than PyTorch; nothing is written then.
    """
    network.load_state_dict(load_tensors(ckpt_path, "take a copy, or run train.json again."))
    network = network.cpu().eval()
    program = torch.onnx.export(
        network,
        tuple(_example(inputs, *RECORDED).values()),
        input_names=list(inputs),
        output_names=[OUTPUT],
        dynamic_shapes=_dynamic_shapes(inputs),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # says the dynamo exporter
    known = {"weights_sha256": file_digest(ckpt_path), **metadata(network)}
    program.model.metadata_props.update({key: json.dumps(value) for key, value in known.items()})
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the lines of source, with their place on this machine
    with written_whole(path) as temporary:
        program.save(temporary)
        _compare(network, OnnxNetwork(str(temporary)), _example(inputs, *COMPARED))
    return path


class OnnxNetwork(nn.Module):
    """A network that an ONNX file computes, on the CPU, by onnxruntime.

    Args:
        path: of the file, as :py:func:`export_onnx` writes it.

    Attributes:
        metadata: what the file says of itself.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if something else has written it.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no exported network at {path}: run inference.json with export.json first.")
        self.session = _session(path)
        self.names = [node.name for node in self.session.get_inputs()]
        self.dtypes = {node.name: _dtype(node.type) for node in self.session.get_inputs()}
        self.metadata = _metadata(path, self.session.get_modelmeta().custom_metadata_map)

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        """Return the output; arguments as those of the exported network, in the order of its inputs or by name.

        Raises:
            ValueError: naming inputs that are missing, that the file does not have, or that are given twice.
        """
        twice = kwargs.keys() & self.names[: len(args)]
        if twice:
            raise ValueError(f"the exported network was given {', '.join(sorted(twice))} by place and by name.")
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        if len(args) > len(self.names) or set(given) != set(self.names):
            raise ValueError(f"the exported network takes {', '.join(self.names)}; it was given {', '.join(given)}.")
        feed = {name: value.detach().cpu().to(self.dtypes[name]).numpy() for name, value in given.items()}
        return torch.from_numpy(self.session.run([OUTPUT], feed)[0])


def _session(path: str) -> Any:
    errors = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()  # which have no class of their own above them
    damaged = (UnicodeDecodeError, *(e for e in errors if isinstance(e, type) and issubclass(e, Exception)))
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except damaged as error:  # type: ignore[misc]  # what a module without types holds
        raise ValueError(f"{path} is damaged, or no ONNX file ({error}): run inference.json with export.json again.") from error


def _metadata(path: str, told: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = {key: json.loads(value) for key, value in told.items()}
    except ValueError as error:
        raise ValueError(f"{path} was not written by export.json: its metadata are no JSON ({error}).") from error
    if "weights_sha256" not in found:
        raise ValueError(f"{path} was not written by export.json: it does not say the SHA-256 of its weights.")
    return found


def _dtype(onnx_type: str) -> torch.dtype:
    """``tensor(float)`` -> torch.float32, and so on."""
    name = onnx_type[len("tensor(") : -1]
    return getattr(torch, {"float": "float32", "double": "float64"}.get(name, name))


def _example(inputs: Inputs, batch: int, other: int) -> dict[str, torch.Tensor]:
    """Return noise for floats, ones for the rest (a valid frame, the second site or class); named axes have the lengths."""
    generator = torch.Generator().manual_seed(0)
    example = {}
    for name, spec in inputs.items():
        shape = [axis if not isinstance(axis, str) else batch if axis == "batch" else other for axis in spec["shape"]]
        dtype = getattr(torch, spec["dtype"])
        noise = dtype.is_floating_point
        example[name] = torch.rand(shape, generator=generator, dtype=dtype) if noise else torch.ones(shape, dtype=dtype)
    return example


def _dynamic_shapes(inputs: Inputs) -> tuple[dict[int, Any], ...]:
    names = {axis for spec in inputs.values() for axis in spec["shape"] if isinstance(axis, str)}
    dims = {name: Dim(name, min=1 if name == "batch" else 2, max=2**16) for name in names}
    return tuple({i: dims[axis] for i, axis in enumerate(spec["shape"]) if isinstance(axis, str)} for spec in inputs.values())


def _compare(network: nn.Module, exported: OnnxNetwork, example: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if the example does not come out as from PyTorch."""
    with torch.no_grad():
        wanted = network(*example.values())
    difference = float((exported(**example) - wanted).abs().max())
    if not difference <= TOLERANCE * max(SMALLEST, float(wanted.abs().max())):
        raise ValueError(f"the exported network differs from PyTorch by {difference:.3g}: it is not written.")
