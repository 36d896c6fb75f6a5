"""Whether the graph of a network is being recorded."""

from __future__ import annotations

import torch

__all__ = ["exporting"]


def exporting() -> bool:
    """Return whether a graph is recorded: what depends on values or the batch's size must not be decided then."""
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or torch.compiler.is_exporting()
