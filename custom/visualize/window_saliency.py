"""Which voxels decided between the classes of a task run's windows, and when: integrated gradients, class by class.

A run holds windows of several classes. Every window is explained by itself, as in :py:mod:`.saliency`; the map of a run and a
class is the mean over the windows that the network gives to that class, and so is the time course, which counts from an event's
onset. Frames beyond the run's end are 0 and get nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from ..paths import written_whole
from .background import prepared, run_and_windows
from .displays import COLOURS, new_figure
from .evidence import margin
from .explanation import explanation_of, randomised
from .maps import Explanation, file_stem, write_explanations
from .saliency import attribute, differentiable

__all__ = ["time_course", "write_window_saliency"]

Item = Mapping[Any, Any]


@dataclass(frozen=True)
class _Attributed:
    """What is kept of a window's attributions: absolute values, summed over frames (1, X, Y, Z) and over voxels (F,)."""

    volume: torch.Tensor
    course: np.ndarray
    completeness: Mapping[str, float | None]


def write_window_saliency(
    network: nn.Module,
    scans: Sequence[Item],
    scan_transforms: Sequence[Callable],
    class_names: Sequence[str],
    output_dir: str,
    device: torch.device,
    num_steps: int = 16,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Explain every run and every class that the network finds in it; write NIfTI maps, time courses and ``maps.json``.

    A map is the mean over windows of the sum over frames of the attributions' absolute values.

    Args:
        network: ``network(image (1, F, X, Y, Z), mask (1, F)) -> logits``, with its weights loaded.
        scans: ``{"image": raw file, "mask": its mask or absent, "events": …, "scan": …, "subject": …, "label": …}``.
        scan_transforms: raw run → prepared run → list of its windows. The first one loads image and mask, the last one is
            :py:class:`~custom.transforms.event_window.SplitEventsd`; those between that can be inverted bring the map back onto
            the run's grid.
        class_names: in the order of the logits.
        output_dir: receives the files.
        device: to work on.
        num_steps: points on the path from the baseline to a window.
        seed: of the random weights; each map gets other ones.

    Returns:
        The entries of ``maps.json``. ``subject`` names the class too; ``label`` is the run's, of windows that have their own
        labels ``correct_windows`` says how many of ``windows`` are given their class rightly.

    Raises:
        BadScan: if no event of a run has a window.
        ValueError: if ``num_steps`` is below 1, or the last transform does not split.
    """
    network, (prepare, split) = network.to(device).eval(), run_and_windows(scan_transforms)
    explanations: list[Explanation] = []
    for scan in scans:
        item, background = prepared(scan, prepare)
        windows = split(item)
        predicted = [_predicted(network, window, device) for window in windows]
        for target in sorted(set(predicted)):
            of_class = [window for window, found in zip(windows, predicted, strict=True) if found == target]
            number, name = len(explanations), f"{scan['scan']} {class_names[target]}"
            attributed = _attribute(network, of_class, target, num_steps, device)
            control = _attribute(randomised(network, seed + number), of_class, target, num_steps, device)
            course = time_course([one.course for one in attributed], of_class, item["image"].meta["repetition_time"])
            files = _write_time_course(course, class_names[target], Path(output_dir) / file_stem(number, name))
            maps = _map(attributed)
            further = {**files, **_counts(of_class, target), "completeness": _completeness(attributed)}
            inside = (item["image"].as_tensor() != 0).any(0, keepdim=True)
            explanations.append(
                explanation_of(
                    scan,
                    target,
                    maps[None],
                    _map(control)[None],
                    inside[None],
                    [item],
                    prepare,
                    background,
                    further=further,
                    title=name,
                )
            )
    return write_explanations(explanations, class_names, output_dir, method="Integrated gradients")


def time_course(courses: Sequence[np.ndarray], windows: Sequence[Item], repetition_time: float) -> pd.DataFrame:
    """Return how much the frames of the windows of one class count, averaged over the windows.

    Args:
        courses: attribution (F,) of every window's frames.
        windows: their ``start`` (frame of the run), ``onset`` (seconds) and ``frame_mask`` (F,).
        repetition_time: seconds from frame to frame.

    Returns:
        ``frame`` of the window; ``seconds`` from the event's onset to the frame's start; ``attribution``; ``windows`` that have
        the frame. Frames beyond the run's end are left out.
    """
    tables = []
    for course, window in zip(courses, windows, strict=True):
        frame = np.arange(len(course))
        seconds = (window["start"] + frame) * repetition_time - window["onset"]
        table = pd.DataFrame({"frame": frame, "seconds": seconds, "attribution": course})
        tables.append(table[np.asarray(window["frame_mask"], dtype=bool)])
    frames = pd.concat(tables).groupby("frame")
    return frames.mean().assign(windows=frames.size()).reset_index()


def _predicted(network: nn.Module, window: Item, device: torch.device) -> int:
    with torch.no_grad():
        return int(network(window["image"].as_tensor()[None].to(device), window["frame_mask"][None].to(device))[0].argmax())


def _attribute(
    network: nn.Module, windows: Sequence[Item], target: int, num_steps: int, device: torch.device
) -> list[_Attributed]:
    twin, results = differentiable(network), []
    for window in windows:
        explained = _explained(twin, window["frame_mask"][None].to(device), target)
        attributions, completeness = attribute(explained, window["image"].as_tensor().to(device), num_steps)
        strength = attributions.abs()
        course = strength.sum((1, 2, 3), dtype=torch.float64).cpu().numpy()
        results.append(_Attributed(strength.sum(0, keepdim=True).cpu(), course, completeness))
    return results


def _explained(network: nn.Module, mask: torch.Tensor, target: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def explained(image: torch.Tensor) -> torch.Tensor:
        return margin(network(image[None], mask)[0], target)

    return explained


def _map(attributed: Sequence[_Attributed]) -> torch.Tensor:
    return torch.stack([one.volume for one in attributed]).mean(0)


def _completeness(attributed: Sequence[_Attributed]) -> dict[str, float | None]:
    """Means over the windows; in the gap, a window's surplus does not make up for another's deficit."""
    sums = [(one.completeness["attributed"], one.completeness["logit_difference"]) for one in attributed]
    found, expected = np.array(sums, dtype=np.float64).T
    gap, total = float(np.abs(found - expected).sum()), float(np.abs(expected).sum())
    relative = gap / total if total else None
    return {"attributed": float(found.mean()), "logit_difference": float(expected.mean()), "relative_gap": relative}


def _counts(windows: Sequence[Item], target: int) -> dict[str, int]:
    labels = [int(window["label"]) for window in windows if window.get("label") is not None]
    return {"windows": len(windows)} | ({"correct_windows": labels.count(target)} if labels else {})


def _write_time_course(table: pd.DataFrame, class_name: str, stem: Path) -> dict[str, str]:
    """Write ``<stem>_time.csv`` and ``<stem>_time.png``; return their names for ``maps.json``."""
    csv, png = (stem.with_name(f"{stem.name}_time{suffix}") for suffix in (".csv", ".png"))
    with written_whole(csv) as temporary:
        table.to_csv(temporary, index=False)
    with written_whole(png) as temporary:
        _time_figure(table, class_name).savefig(temporary, dpi=110)
    return {"time_csv": csv.name, "time_png": png.name}


def _time_figure(table: pd.DataFrame, class_name: str) -> Figure:
    figure, (ax,) = new_figure(width=8, height=2.6)
    ax.plot(table["seconds"], table["attribution"], color=COLOURS[0], marker="o", linewidth=2)
    ax.axvline(0, color="grey", linewidth=0.8, linestyle=":")
    ax.set(xlabel="seconds after the event's onset", ylabel="attribution", title=f"When the evidence for {class_name} comes")
    ax.set_ylim(bottom=0)
    return figure
