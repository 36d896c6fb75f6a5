"""The whole network as one ONNX file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch.export import Dim

from ..paths import written_whole
from .classifier import HarmonizedClassifier

__all__ = ["export_onnx"]


def export_onnx(network: HarmonizedClassifier, ckpt_path: str, path: str, spatial_size: Sequence[int], num_frames: int) -> str:
    """Write extractor → affine(site) → head with the inputs ``image`` (B, T, X, Y, Z) and ``site`` (B,) int64, output ``pred``.

    Batch and frames are dynamic; MONAI's own ``onnx_export`` knows networks of one input only. The names of the sites, in the
    order of their indices, are in the file's meta data under ``sites``, as JSON.

    Args:
        network: the deployed network.
        ckpt_path: its ``model.pt``.
        path: of the ONNX file.
        spatial_size: X, Y, Z of the prepared scans.
        num_frames: of the example that the graph is recorded with.

    Returns:
        ``path``.
    """
    network.load_state_dict(torch.load(ckpt_path, map_location="cpu", weights_only=True))
    example = torch.zeros(2, num_frames, *spatial_size), torch.zeros(2, dtype=torch.int64)
    batch = Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network.cpu().eval(),
        example,
        input_names=["image", "site"],
        output_names=["pred"],
        dynamic_shapes={"image": {0: batch, 1: Dim("frames", min=2, max=2**16)}, "site": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # says the dynamo exporter
    program.model.metadata_props["sites"] = json.dumps(network.harmonizer.sites)
    with written_whole(path) as temporary:
        program.save(temporary)
    return path
