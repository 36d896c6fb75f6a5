"""Pictures of ``anomalies.json``: areas under the curve by kind and size, and maps of planted anomalies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..paths import written_whole
from .displays import COLOURS, new_figure

__all__ = ["auc_figure", "example_figure", "write_anomaly_pictures"]

MARKERS = "osD^vPX"


def write_anomaly_pictures(folder: str | Path, shown: Sequence[str] | None = None) -> list[Path]:
    """Draw ``anomaly_auc.png`` and ``anomaly_examples.png`` beside the ``anomalies.json`` of a folder; return their paths.

    Args:
        folder: where ``custom.metrics.evaluate_anomalies`` has written.
        shown: names of the scores to draw; None: all.

    Raises:
        ValueError: for a name that was not judged.
    """
    folder = Path(folder)
    results = json.loads((folder / "anomalies.json").read_text())
    names = list(results["auc"]) if shown is None else list(shown)
    unknown = [name for name in names if name not in results["auc"]]
    if unknown:
        raise ValueError(f"{folder / 'anomalies.json'} has no score {', '.join(unknown)}; it has {', '.join(results['auc'])}.")
    with np.load(folder / "anomaly_examples.npz") as arrays:
        examples = {key: arrays[key] for key in arrays.files}
    figures = {"anomaly_auc.png": auc_figure(results, names), "anomaly_examples.png": example_figure(examples, names)}
    for name, figure in figures.items():
        with written_whole(folder / name) as temporary:
            figure.savefig(temporary, dpi=110)
    return [folder / name for name in figures]


def auc_figure(results: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """A panel per kind of anomaly: AUC of each score with its interval, from small to large.

    Args:
        results: what ``anomalies.json`` holds.
        names: of the scores.
    """
    kinds = list(results["sizes"])
    figure, axes = new_figure(len(kinds), width=2.9, height=3.2)
    for ax, kind in zip(axes, kinds, strict=True):
        for k, name in enumerate(names):
            found = results["auc"][name][kind]
            _points(ax, list(found.values()), k, len(names), name)
        numbers = [f"{size}\n{amount:.2g}" for size, amount in results["sizes"][kind].items()]
        ax.set_xticks(range(len(numbers)), numbers, fontsize=8)
        ax.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        kept = "tuning" if kind in results["tuning_kinds"] else "test"
        ax.set_title(f"{kind.replace('_', ' ')} ({kept})", fontsize=10)
        ax.set_ylim(0, 1.03)
    axes[0].set_ylabel("AUC, 95 % interval")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 6), fontsize=8, frameon=False)
    return figure


def _points(ax: Axes, intervals: Sequence[Mapping[str, float | None]], k: int, of: int, name: str) -> None:
    """Values with intervals, those of several scores side by side; an interval that is not known is not drawn."""
    values = np.array([i["value"] for i in intervals], dtype=float)
    low, high = (np.array([i[end] for i in intervals], dtype=float) for end in ("low", "high"))
    x = np.arange(len(values)) + 0.11 * (k - (of - 1) / 2)
    # a percentile interval need not hold its value
    spread = np.nan_to_num(np.stack([values - low, high - values])).clip(min=0)
    marker = MARKERS[k % len(MARKERS)]
    ax.errorbar(x, values, spread, fmt=marker, color=COLOURS[k % len(COLOURS)], markersize=4, linewidth=1, label=name)


def example_figure(examples: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """A row per kind: one frame of the window, what was planted, and the map of each score, on the same slice.

    Args:
        examples: ``<kind>/window``, ``<kind>/truth`` and ``<kind>/map/<score>``, each (F, X, Y, Z).
        names: of the scores; those without a map are left out.
    """
    kinds = list(dict.fromkeys(key.split("/")[0] for key in examples))
    mapped = [name for name in names if f"{kinds[0]}/map/{name}" in examples]
    _, x, y, _ = examples[f"{kinds[0]}/window"].shape
    columns = 2 + len(mapped)
    figure, axes = new_figure(len(kinds) * columns, width=2.1, height=2.1 * y / x + 0.35, columns=columns)
    for row, kind in enumerate(kinds):
        truth = examples[f"{kind}/truth"]
        frame, place = _most(truth)
        panels = axes[row * columns :]
        _slice(panels[0], examples[f"{kind}/window"][frame, :, :, place], f"window, {kind.replace('_', ' ')}", "RdBu_r", 3.0)
        _slice(panels[1], truth[frame, :, :, place].astype(float), "planted", "gray", 1.0)
        for ax, name in zip(panels[2:], mapped, strict=False):
            values = examples[f"{kind}/map/{name}"][frame, :, :, place]
            _slice(ax, values, name, "inferno", float(np.quantile(values, 0.998)))
    return figure


def _most(truth: np.ndarray) -> tuple[int, int]:
    """Frame and slice with most voxels of the anomaly."""
    frame, place = np.unravel_index(truth.sum((1, 2)).argmax(), (truth.shape[0], truth.shape[3]))
    return int(frame), int(place)


def _slice(ax: Axes, values: np.ndarray, title: str, colours: str, limit: float) -> None:
    low = -limit if colours == "RdBu_r" else 0.0
    ax.imshow(values.T, cmap=colours, origin="lower", vmin=low, vmax=max(limit, 1e-6))
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()
