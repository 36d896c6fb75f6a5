"""How often the rows of a datalist are drawn in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["balanced_weights"]


def balanced_weights(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[float]:
    """Return a weight per row by which a random sampler draws every class equally often.

    For ``torch.utils.data.WeightedRandomSampler`` and ``monai.data.DistributedWeightedRandomSampler``; a class weight in the
    loss would balance a second time.

    Args:
        rows: of the training part, with ``label``.
        class_names: in the order of the labels.

    Returns:
        One over the number of rows of a row's class: the weights of every class sum to 1.

    Raises:
        ValueError: naming a class that has no row: it cannot be drawn.
    """
    counts = Counter(row["label"] for row in rows)
    absent = [name for label, name in enumerate(class_names) if not counts[label]]
    if absent:
        raise ValueError(f"no training row of class {', '.join(absent)}: merge classes, or split with another seed.")
    return [1 / counts[row["label"]] for row in rows]
