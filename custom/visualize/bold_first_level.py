"""One raw run of a BOLD analysis: loading, the general linear model, responses in per cent, time courses, head motion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.transforms import Compose

from ..metrics.response_maps import event_design
from ..transforms.temporal_zscore import CONSTANT

__all__ = ["Run", "Series", "framewise_displacement", "labels_of", "load", "response_height", "responses", "time_courses"]

HIGH_PASS = 0.01  # Hz, nilearn's; the model has cosine drifts below it
BRAIN = 0.1  # of the 98th percentile of the temporal mean, FSL's threshold
LEAD = 2  # frames before the onset in a time course


@dataclass(frozen=True)
class Run:
    """A raw run and the rows of its events.

    Args:
        name: unique in the study.
        subject: the person.
        source: path of the raw scan.
        inputs: its further files by key.
        events: with ``onset``, ``duration`` (seconds) and ``label``.
    """

    name: str
    subject: str
    source: str
    inputs: Mapping[str, str]
    events: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """A run's brain.

    Args:
        voxels: (T, V) float64, in the scanner's units.
        level: (V,) their temporal means.
        inside: (X, Y, Z) bool, where they are.
        affine: 4×4, voxels to mm.
        repetition_time: in seconds, ``None`` where it is not known.
    """

    voxels: np.ndarray
    level: np.ndarray
    inside: np.ndarray
    affine: np.ndarray
    repetition_time: float | None

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Return values (V,) as (X, Y, Z), 0 outside the brain."""
        filled = np.zeros(self.inside.shape)
        filled[self.inside] = values
        return filled


def load(run: Run, prepare: Compose) -> Series:
    """Return the brain of a run: voxels above a tenth of the robust maximum of the temporal mean, unless constant.

    Args:
        run: to read.
        prepare: raw scan ``{"image": path, …}`` → image (T, X, Y, Z).

    Raises:
        ValueError: naming a run with NaN, or without a baseline.
    """
    image = prepare({**run.inputs, "image": run.source})["image"]
    voxels = image.as_tensor().numpy()
    mean = voxels.mean(0, dtype=np.float64)
    inside = mean > BRAIN * max(np.percentile(mean, 98), 0)
    series = voxels[:, inside].astype(np.float64)
    level, spread = mean[inside], series.std(0)
    if not np.isfinite(mean).all() or not inside.any() or np.median(level) < np.median(spread):
        raise ValueError(
            f"{run.source}: NaN, or no baseline of which a per cent could be taken (detrended or z-scored?): give the scan's "
            "transforms up to the resampling only."
        )
    varying = spread > CONSTANT * level
    inside[inside] = varying
    time = image.meta.get("repetition_time")
    return Series(series[:, varying], level[varying], inside, np.asarray(image.affine, dtype=np.float64), time)


def responses(run: Run, series: Series, durations: Mapping[int, float]) -> dict[int, np.ndarray]:
    """Return the per cent signal change (X, Y, Z) of every label that the run's events have.

    Args:
        run: with the events.
        series: of the run.
        durations: of the isolated event by label, see :py:func:`response_height`.
    """
    design, beta = _fit(run, series.voxels, series.repetition_time)
    time, found = float(series.repetition_time or 0), {}
    for label in labels_of(run.events):
        change = beta[list(design).index(str(label))] * response_height(durations[label], time) / series.level
        found[label] = series.volume(100 * change)
    return found


def response_height(duration: float, repetition_time: float) -> float:
    """Return the height, trough to peak, of the modelled response to one event of so many seconds.

    It is that of a regressor of nilearn's design matrix for runs of this repetition time.
    """
    from nilearn.glm.first_level import compute_regressor

    # ten times the frames and a tenth of the oversampling: an event of no duration lasts one step, which depends on both
    times = np.arange(0, duration + 40, repetition_time / 10)
    response, _ = compute_regressor(np.array([[0.0], [duration], [1.0]]), "glover", times, oversampling=5)
    return float(np.ptp(response))


def time_courses(
    run: Run, series: Series, selected: Mapping[str, np.ndarray], class_names: Sequence[str], seconds: np.ndarray
) -> Iterator[pd.DataFrame]:
    """Yield the run's mean response to every class in every set of voxels, drifts removed as the model has them.

    Args:
        run: with the events.
        series: of the run.
        selected: name → voxels, bool (X, Y, Z) inside the brain of all runs.
        class_names: in the order of the labels.
        seconds: after the onset.

    Returns:
        Tables ``subject``, ``voxels_of``, ``class``, ``seconds``, ``percent``; NaN beyond the run's end.
    """
    chosen = [voxels[series.inside] for voxels in selected.values()]
    means = np.stack([100 * (series.voxels[:, c] / series.level[c] - 1).mean(1) for c in chosen], 1)
    design, beta = _fit(run, means, series.repetition_time)
    drifts = ~design.columns.isin([str(label) for label in labels_of(run.events)])
    signals = means - design.to_numpy()[:, drifts] @ beta[drifts]
    for name, signal in zip(selected, signals.T, strict=True):
        for label in labels_of(run.events):
            onsets = np.array([row["onset"] for row in run.events if row["label"] == label])
            values = np.interp(onsets[:, None] + seconds, design.index, signal, left=np.nan, right=np.nan)
            part = {"subject": run.subject, "voxels_of": name, "class": class_names[label], "seconds": seconds}
            yield pd.DataFrame({**part, "percent": pd.DataFrame(values).mean()})


def labels_of(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the labels that occur in rows, in order."""
    return sorted({row["label"] for row in rows})


def framewise_displacement(source: str) -> float | None:
    """Return a run's mean framewise displacement in mm, where fMRIPrep's confounds lie beside it.

    Raises:
        ValueError: naming a table of confounds without it.
    """
    name = re.sub(
        r"(_(space|res|den|desc)-[A-Za-z0-9]+)*_bold\.nii(\.gz)?$", "_desc-confounds_timeseries.tsv", Path(source).name
    )
    table = Path(source).with_name(name)
    if name == Path(source).name or not table.is_file():
        return None
    values = pd.read_csv(table, sep="\t", na_values="n/a")
    if "framewise_displacement" not in values or values["framewise_displacement"].isna().all():
        raise ValueError(f"{table}: no framewise_displacement, which fMRIPrep writes: copy the table again, or remove it.")
    return float(values["framewise_displacement"].mean())  # the first frame has none


def _fit(run: Run, series: np.ndarray, repetition_time: float | None) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the design matrix of a run, whose conditions are called by their labels, and the betas (columns, V)."""
    from nilearn.glm import OLSModel

    labels = [str(row["label"]) for row in run.events]
    design = event_design(run.events, labels, len(series), repetition_time, run.source, HIGH_PASS)
    return design, OLSModel(design.to_numpy()).fit(series).theta  # unbiased with autocorrelated noise too
