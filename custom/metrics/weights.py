"""Class weights for the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["class_weights"]


def class_weights(
    labels: Sequence[int], num_classes: int, clamp: float = 4.0, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Inverse class frequencies whose mean over the samples is 1, so that the loss keeps its scale.

    The largest weight is at most ``clamp`` times the smallest: a class of two subjects must not dominate the gradient.

    Args:
        labels: class indices of the training samples.
        num_classes: number of classes.
        clamp: largest allowed ratio of two weights, at least 1.
        device: of the tensor.

    Returns:
        float32 tensor of shape (num_classes,).

    Raises:
        ValueError: a class has no training sample, a label is no class index, or ``clamp`` is below 1.
    """
    if clamp < 1:
        raise ValueError(f"clamp is a ratio of weights and at least 1, not {clamp}")
    y = np.asarray(labels, dtype=int)
    if y.size == 0 or y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"labels {sorted(set(y.tolist()))} do not fit {num_classes} classes")
    counts = np.bincount(y, minlength=num_classes)
    if (counts == 0).any():
        absent = np.flatnonzero(counts == 0).tolist()
        raise ValueError(f"no training sample of class {absent}: merge classes, or split with another seed")
    weights = (1 / counts).clip(max=clamp / counts.max())
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32, device=device)
