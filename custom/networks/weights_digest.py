"""Which weights made the features: a harmonizer or a probe fits one network only."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

__all__ = ["weights_digest"]


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 of all tensors of the module's state, in hexadecimal; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            # seen as bytes, since NumPy has no bfloat16
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
