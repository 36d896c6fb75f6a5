"""Explanation maps on disc: NIfTI in the scan's space, a picture of each, and ``maps.json`` for the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from scipy.stats import bootstrap

from ..paths import written_whole

__all__ = ["Explanation", "file_stem", "write_explanations"]


@dataclass(frozen=True)
class Explanation:
    """One map.

    Args:
        subject: who.
        source: the raw scan.
        label: class index, ``None`` where unknown.
        predicted: class index that the map explains.
        volume: (1, X, Y, Z) map on the scan's grid, not negative.
        background: (1, X, Y, Z) what the network saw, on the same grid.
        correlation: with the map of a network with random weights, ``None`` where undefined.
        further: what else its entry in ``maps.json`` says.
        title: of the picture, and name of the files, where a subject has several maps; by default the subject.
    """

    subject: str
    source: str
    label: int | None
    predicted: int
    volume: MetaTensor
    background: MetaTensor
    correlation: float | None
    further: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    @property
    def name(self) -> str:
        """What the map is called."""
        return self.title or self.subject


def write_explanations(
    explanations: Sequence[Explanation], class_names: Sequence[str], output_dir: str, method: str
) -> list[dict[str, Any]]:
    """Write the maps, their pictures and ``maps.json``; return its entries."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, explanation in enumerate(explanations):
        name = file_stem(number, explanation.name)
        _write_nifti(explanation, folder / f"{name}.nii.gz")
        _write_picture(explanation, folder / f"{name}.png")
        entries.append(
            {
                "subject": explanation.subject,
                "title": explanation.name,
                "source": Path(explanation.source).name,
                "label": None if explanation.label is None else class_names[explanation.label],
                "predicted": class_names[explanation.predicted],
                "png": f"{name}.png",
                "nifti": f"{name}.nii.gz",
                "randomised_weights_correlation": explanation.correlation,
                **explanation.further,
            }
        )
    summary = {
        "method": method,
        "randomised_weights_correlation": _mean_with_interval([e.correlation for e in explanations]),
        "maps": entries,
    }
    with written_whole(folder / "maps.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1, allow_nan=False))
    return entries


def file_stem(number: int, subject: str) -> str:
    """Return the name of the files of the explanation with this number, without suffix."""
    return f"{number:02d}_" + re.sub(r"[^\w.-]+", "-", subject)


def _mean_with_interval(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean and 95 % bootstrap interval over the maps where the correlation is defined; ``undefined`` counts the others."""
    known = np.array([v for v in values if v is not None])
    summary: dict[str, float | int | None] = {"mean": None, "low": None, "high": None, "undefined": len(values) - len(known)}
    if len(known):
        summary["mean"] = float(known.mean())
    if len(known) > 1 and np.ptp(known) > 0:
        interval = bootstrap((known,), np.mean, method="percentile", rng=0).confidence_interval
        summary |= {"low": float(interval.low), "high": float(interval.high)}
    return summary


def _nifti(image: MetaTensor) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(image[0], dtype=np.float32), np.asarray(image.affine, dtype=np.float64))


def _write_nifti(explanation: Explanation, path: Path) -> None:
    with written_whole(path) as temporary:
        nib.save(_nifti(explanation.volume), temporary)


def _write_picture(explanation: Explanation, path: Path) -> None:
    # outside the head a coarse map is only its own interpolation
    heat = explanation.volume * (explanation.background > 0)
    with written_whole(path) as temporary:
        if heat.shape[-1] == 1:
            _slice_picture(heat, explanation).savefig(temporary, dpi=110)
        else:
            _volume_picture(heat, explanation, temporary)


def _volume_picture(heat: MetaTensor, explanation: Explanation, path: Path) -> None:
    """Three planes through the map's peak, by nilearn, which takes care of the orientation."""
    from nilearn.plotting import plot_stat_map  # a second to import, which every training would wait for

    display = plot_stat_map(
        _nifti(heat),
        bg_img=_nifti(explanation.background),
        figure=Figure(figsize=(8, 3.2)),
        display_mode="ortho",
        cut_coords=_peak(heat),
        threshold=0.3 * float(heat.max()),
        transparency=0.55,
        cmap="inferno",
        vmin=0,
        title=explanation.name,
    )
    display.savefig(str(path), dpi=110)


def _peak(volume: MetaTensor) -> list[float]:
    """World coordinates (mm) of the map's maximum."""
    array = np.asarray(volume[0])
    voxel = np.unravel_index(array.argmax(), array.shape)
    return apply_affine(np.asarray(volume.affine), voxel).tolist()


def _slice_picture(heat: MetaTensor, explanation: Explanation) -> Figure:
    figure = Figure(figsize=(3.6, 3.6))
    axes = figure.add_subplot()
    values = np.asarray(heat[0, ..., 0]).T
    # X to the right and Y upwards, as in RAS
    axes.imshow(np.asarray(explanation.background[0, ..., 0]).T, cmap="gray", origin="lower")
    axes.imshow(values, cmap="inferno", origin="lower", alpha=0.6 * values / max(float(values.max()), 1e-12))
    axes.set_title(explanation.name, fontsize=9)
    axes.set_axis_off()
    return figure
