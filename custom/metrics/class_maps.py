"""Mean map of every class: do generated windows of a class look like that class in a held-out run?

A mean map of generated windows is set beside that of the training runs, which is what the generator can know, both judged
against the held-out run. Both are means over many windows, the held-out map over few, so no comparison comes near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs

from .bootstrap import percentile_interval, resample
from .window_statistics import correlation

__all__ = ["class_mean_maps", "compare_class_maps", "interval_over", "map_ssim"]

KERNEL, SIGMA = 7, 1.5  # voxels: maps have 20-64 voxels along an axis, the usual 11 would average over a third of a brain
FIGURES = ("correlation", "ssim", "specific_correlation")


def class_mean_maps(windows: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Mean over the windows and frames of each class, (len(classes), X, Y, Z) float64.

    Args:
        windows: (N, F, X, Y, Z).
        labels: (N,).
        classes: labels, in the order of the maps.

    Raises:
        ValueError: naming classes without a window.
    """
    empty = [c for c in classes if not (labels == c).any()]
    if empty:
        raise ValueError(f"no window of the classes {empty}, so they have no mean map: leave them out, or generate them.")
    return np.stack([windows[labels == c].mean((0, 1), dtype=np.float64) for c in classes])


def map_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Structural similarity of two maps, mean over the mask (Wang et al. 2004, IEEE TIP 13(4), equation 13; by MONAI).

    A Gaussian window of 7 voxels and σ = 1.5, in 2D if Z = 1, else in 3D. Maps are 0 outside the mask, and beyond the grid.

    Args:
        a: (X, Y, Z).
        b: (X, Y, Z).
        mask: (X, Y, Z) bool.
        data_range: the span of values that differences are small or large against.

    Raises:
        ValueError: if the data range is not positive.
    """
    if not data_range > 0:
        raise ValueError(f"a data range of {data_range}: the maps are constant, their structure cannot be compared.")
    dims = 2 if mask.shape[-1] == 1 else 3
    pair = torch.from_numpy(np.stack([a * mask, b * mask]).astype(np.float64))[:, None]
    pair = pair.squeeze(-1) if dims == 2 else pair
    pair = torch.nn.functional.pad(pair, [KERNEL // 2] * (2 * dims))
    options = {"spatial_dims": dims, "kernel_size": [KERNEL] * dims, "kernel_sigma": [SIGMA] * dims, "data_range": data_range}
    similarity, _ = compute_ssim_and_cs(pair[:1], pair[1:], **options)
    return float(similarity[0, 0].numpy().reshape(mask.shape)[mask].mean())


def compare_class_maps(
    fake: np.ndarray, train: np.ndarray, test: np.ndarray, mask: np.ndarray, class_names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Compare mean maps with those of held-out runs.

    Args:
        fake: (C, X, Y, Z) mean maps of generated windows.
        train: (C, X, Y, Z) those of the training runs, the ceiling.
        test: (C, X, Y, Z) those of the held-out runs.
        mask: (X, Y, Z) bool.
        class_names: of the C classes.
        seed: of the resamples.

    Returns:
        ``generated``, ``ceiling`` and ``difference`` (generated - ceiling): figure → ``value``, ``low``, ``high``, the mean
        over classes with a 95 % interval over the choice of classes (not of runs). ``classes``: name → the figures of that
        class. ``data_range`` of the SSIM: maximum - minimum of all held-out maps in the mask. Figures: ``correlation`` and
        ``ssim`` of the maps; ``specific_correlation`` after the mean map of all classes was taken off each set, without which
        maps correlate that have nothing of their class. ``None`` where one of the maps is constant.
    """
    data_range = float(np.ptp(test[:, mask]))
    found = {name: _figures(maps, test, mask, data_range) for name, maps in (("generated", fake), ("ceiling", train))}
    classes = {
        name: {source: {key: values[key][c] for key in FIGURES} for source, values in found.items()}
        for c, name in enumerate(class_names)
    }
    means: dict[str, Any] = {s: {key: interval_over(v[key], seed) for key in FIGURES} for s, v in found.items()}
    pairs = {key: zip(found["generated"][key], found["ceiling"][key], strict=True) for key in FIGURES}
    means["difference"] = {
        key: interval_over([None if a is None or b is None else a - b for a, b in both], seed) for key, both in pairs.items()
    }
    return {**means, "classes": classes, "data_range": data_range}


def interval_over(values: Sequence[float | None], seed: int = 0, n: int = 1000) -> dict[str, float | None]:
    """Mean with its 95 % bootstrap interval; all ``None`` if a value is, bounds ``None`` of a single one."""
    known = np.array([v for v in values if v is not None])
    if len(known) < len(values) or len(known) == 0:
        return {"value": None, "low": None, "high": None}
    if len(known) == 1:
        return {"value": float(known[0]), "low": None, "high": None}
    samples = resample(len(known), n=n, seed=seed) @ known / len(known)
    return dict(percentile_interval(float(known.mean()), samples))


def _figures(maps: np.ndarray, test: np.ndarray, mask: np.ndarray, data_range: float) -> dict[str, list[float | None]]:
    own, own_test = maps - maps.mean(0), test - test.mean(0)
    return {
        "correlation": [correlation(a[mask], b[mask]) for a, b in zip(maps, test, strict=True)],
        "ssim": [map_ssim(a, b, mask, data_range) if data_range > 0 else None for a, b in zip(maps, test, strict=True)],
        "specific_correlation": [correlation(a[mask], b[mask]) for a, b in zip(own, own_test, strict=True)],
    }
