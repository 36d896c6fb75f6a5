"""What all explanations of scans share: the map back on the scan's grid, and the randomised-weights check.

Reference: Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018): a map that stays the same when the weights are
replaced by random ones shows the picture's edges, not what the network has learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.stats import spearmanr
from torch import nn

from .maps import Explanation

__all__ = ["explanation_of", "in_scan_space", "randomised", "rank_correlation"]


def explanation_of(
    scan: Mapping[str, Any],
    predicted: int,
    maps: torch.Tensor,
    control: torch.Tensor,
    inside: torch.Tensor,
    items: Sequence[Mapping[str, Any]],
    prepare: Compose,
    background: MetaTensor,
    **further: Any,
) -> Explanation:
    """Return the explanation of a scan by a map on the prepared grid.

    Args:
        scan: with ``subject``, ``image`` (raw file) and, where known, ``label``.
        predicted: class index that the map explains.
        maps: (N, *spatial), one for each of the items.
        control: the maps of a network with random weights.
        inside: where the two are compared, bool, of their shape.
        items: what the map is of, prepared.
        prepare: raw scan → items, which is inverted.
        background: (1, X, Y, Z) on the scan's grid.
        **further: of :py:class:`Explanation`.
    """
    return Explanation(
        subject=str(scan["subject"]),
        source=str(scan["image"]),
        label=scan.get("label"),
        predicted=predicted,
        volume=in_scan_space(maps, items, prepare),
        background=background,
        correlation=rank_correlation(maps, control, inside),
        **further,
    )


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network whose every parameter is drawn anew by its module's own initialisation."""
    twin = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in twin.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return twin.eval()


def rank_correlation(maps: torch.Tensor, control: torch.Tensor, brain: torch.Tensor) -> float | None:
    """Return Spearman's correlation of two maps within the brain; ``None`` if one of them is constant there."""
    a, b = (np.asarray(x.cpu())[np.asarray(brain.cpu())] for x in (maps, control))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def in_scan_space(maps: torch.Tensor, items: Sequence[Mapping[str, Any]], prepare: Compose) -> MetaTensor:
    """Take maps, one per prepared image, back through the transforms; slices of a volume come together in it.

    Args:
        maps: (N, 1, *spatial).
        items: the N prepared items. Their images have the maps' spatial shape and any number of channels.
        prepare: what made them; only its invertible transforms are inverted.

    Returns:
        (1, X, Y, Z) on the raw scan's grid; where slices overlap, the largest value.
    """
    volumes = []
    for values, item in zip(maps.cpu(), items, strict=True):
        image = item["image"]
        history = copy.deepcopy(image.applied_operations)  # the inverse uses the list up
        values = MetaTensor(values.reshape(-1, *image.shape[1:]), meta=image.meta, applied_operations=history)
        volumes.append(prepare.inverse({**item, "image": values})["image"])
    together = torch.stack([v.as_tensor() for v in volumes]).amax(0)
    return MetaTensor(together, affine=volumes[0].affine)
