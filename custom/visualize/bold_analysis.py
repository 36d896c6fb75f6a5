"""Voxel-wise BOLD analysis of a study, to be looked at before anything is modelled: responses, time courses, noise, motion.

Every run has a general linear model of its own; the per cent signal changes of a subject's runs are averaged, and a one-sample
t over subjects says what holds for the group (Holmes and Friston, NeuroImage 7 (1998) S754: the summary statistic approach).

* Per cent signal change is 100 · β · h / m: m the voxel's temporal mean, h the height from trough to peak of the modelled
  response to one isolated event of the class' median duration, so that runs of other timing can be compared (Pernet, Frontiers
  in Neuroscience 8 (2014) 1). What the rows do not list, rest and unused conditions, is the baseline.
* Temporal SNR is the mean over the standard deviation of the raw series, drift included.
* The time courses are those of the voxels of highest |t|. These were chosen on the same data: the curves describe, they test
  nothing (Kriegeskorte et al., Nature Neuroscience 12 (2009) 535).

Give the rows of the *training* part: who looks at maps of the test subjects before choosing a model has used them.
Voxels correspond where the scans are in one space, such as MNI; ``one_space`` in ``analysis.json`` says whether the grids do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from monai.transforms import Compose
from nibabel.affines import apply_affine
from scipy.stats import t as student

from ..paths import written_whole
from .bold_first_level import LEAD, Run, Series, framewise_displacement, labels_of, load, responses, time_courses
from .bold_pictures import run_figure, time_course_figure, write_volume_picture

__all__ = ["analyse_bold"]

SHARE = 0.01  # of the brain's voxels whose time course is shown, ten at least
P_VALUE = 0.01  # two-sided, uncorrected: below it a voxel is coloured
MOTION = "mean_framewise_displacement_mm"


def analyse_bold(
    rows: Sequence[Mapping[str, Any]],
    scan_transforms: Sequence[Callable],
    class_names: Sequence[str],
    output_dir: str,
    frames: int = 16,
) -> dict[str, Any]:
    """Analyse the raw runs of a datalist; write maps, tables, pictures and ``analysis.json``.

    Every run is read twice, and one is in memory at a time.

    Args:
        rows: of the datalist's training part: windows with ``source``, ``inputs``, ``scan``, ``subject``, ``label``, ``onset``
            and ``duration``.
        scan_transforms: raw scan ``{"image": path, "mask": path or absent}`` → image (T, X, Y, Z) of one grid for all, in the
            scanner's units: up to the resampling, without detrending and z-scoring.
        class_names: in the order of the labels.
        output_dir: receives the files.
        frames: of a time course, from an event's onset on, in repetition times of the first run.

    Returns:
        What ``analysis.json`` holds; its paths are relative to ``output_dir``.

    Raises:
        FileNotFoundError: naming a raw scan that is no longer there.
        ValueError: naming a run without a baseline, of another grid or of unknown repetition time; or if a class has fewer
            than two subjects.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}: a time course has one frame at least.")
    runs, prepare, folder = _runs(rows), Compose(list(scan_transforms)), Path(output_dir)
    group = _first_pass(runs, prepare, class_names)
    maps = [_write_map(name, moments, group, folder) for name, moments in group.responses.items()]
    courses = _over_subjects(pd.concat(_second_pass(runs, prepare, group, class_names, frames)))
    return _write(folder, group, maps, courses)


class _Moments:
    """Mean and one-sample t of maps that come one at a time."""

    def __init__(self) -> None:
        self.n, self.sum, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, volume: np.ndarray) -> None:
        self.n, self.sum, self.squares = self.n + 1, self.sum + volume, self.squares + volume**2

    @property
    def mean(self) -> np.ndarray:
        return self.sum / self.n

    @property
    def t(self) -> np.ndarray:
        """0 where all maps agree to rounding, as outside the brain."""
        error = np.sqrt((self.squares / self.n - self.mean**2).clip(min=0) / (self.n - 1))
        return np.divide(self.mean, error, out=np.zeros_like(error), where=error > 1e-6 * np.abs(self.mean))


class _Group:
    """What the runs of a study add up to; ``inside`` is the brain that all of them have in common."""

    def __init__(self) -> None:
        self.inside = np.ones((), dtype=bool)
        self.affines: list[np.ndarray] = []
        self.responses: dict[str, _Moments] = {}
        self.background, self.tsnr = _Moments(), _Moments()
        self.table: list[dict[str, Any]] = []

    def add_run(self, run: Run, series: Series) -> None:
        if self.inside.shape not in ((), series.inside.shape):
            raise ValueError(f"{run.source}: grid {series.inside.shape} for {self.inside.shape}: resample to one spatial_size.")
        tsnr = series.level / series.voxels.std(0)
        self.inside = self.inside & series.inside
        self.affines.append(series.affine)
        self.background.add(series.volume(series.level / np.median(series.level)))  # scanners scale as they like
        self.tsnr.add(series.volume(tsnr))
        row = {
            "scan": run.name,
            "subject": run.subject,
            "frames": len(series.voxels),
            "repetition_time": series.repetition_time,
        }
        numbers = {"events": len(run.events), "tsnr": float(np.median(tsnr)), MOTION: framewise_displacement(run.source)}
        self.table.append(row | numbers)

    def add_subject(self, found: Mapping[str, np.ndarray], class_names: Sequence[str]) -> None:
        """Take a subject's maps by class; who has all classes also counts for the differences between them."""
        maps = dict(found)
        if len(class_names) > 1 and len(found) == len(class_names):
            for name in class_names[1:] if len(class_names) == 2 else class_names:
                rest = class_names[0] if len(class_names) == 2 else "the others"
                maps[f"{name} minus {rest}"] = found[name] - np.mean([found[c] for c in class_names if c != name], axis=0)
        for name, volume in maps.items():
            self.responses.setdefault(name, _Moments()).add(volume)

    def image(self, volume: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(np.where(self.inside, volume, 0).astype(np.float32), self.affines[0])


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[Run]:
    """Group rows by run, the runs in order of their subjects."""
    by_scan: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_scan.setdefault(str(row["scan"]), []).append(row)
    runs = [Run(name, str(e[0]["subject"]), e[0]["source"], e[0].get("inputs", {}), e) for name, e in by_scan.items()]
    absent = [run.source for run in runs if not Path(run.source).is_file()]
    if absent or not runs:
        what = f"{absent[0]} is no longer there ({len(absent)} raw scans are not)" if absent else "there is no run with events"
        raise FileNotFoundError(f"{what}: the analysis reads the raw study where preparation found it.")
    return sorted(runs, key=lambda run: (run.subject, run.name))


def _first_pass(runs: Sequence[Run], prepare: Compose, class_names: Sequence[str]) -> _Group:
    """Return the responses over subjects; raise if they are too few or have no brain in common."""
    events = [row for run in runs for row in run.events]
    durations = {k: float(np.median([row["duration"] for row in events if row["label"] == k])) for k in labels_of(events)}
    group = _Group()
    for _, members in groupby(runs, lambda run: run.subject):
        found: dict[str, _Moments] = {}
        for run in members:
            series = load(run, prepare)
            group.add_run(run, series)
            for label, change in responses(run, series, durations).items():
                found.setdefault(class_names[label], _Moments()).add(change)
        group.add_subject({name: moments.mean for name, moments in found.items()}, [class_names[k] for k in durations])
    few = [name for name, moments in group.responses.items() if moments.n < 2]
    if few:
        raise ValueError(f"only one subject has events of {', '.join(few)}: a t over subjects needs two.")
    if not group.inside.any():
        raise ValueError("the runs have no voxel of brain in common: bring them into one space, or check the spatial_size.")
    return group


def _second_pass(
    runs: Sequence[Run], prepare: Compose, group: _Group, class_names: Sequence[str], frames: int
) -> Iterator[pd.DataFrame]:
    """Yield the time courses of all runs, in the voxels that the first pass found."""
    selected = {name: _selected(moments.t, group.inside) for name, moments in group.responses.items()}
    seconds = np.arange(-LEAD, frames) * group.table[0]["repetition_time"]
    for run in runs:
        yield from time_courses(run, load(run, prepare), selected, class_names, seconds)


def _selected(t: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the bool volume of the voxels of highest |t|, all of the sign of the very highest."""
    values = t[inside] * np.sign(t[inside][np.abs(t[inside]).argmax()])
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(values)[-max(10, round(SHARE * len(values))) :]] = True
    volume = np.zeros(t.shape, dtype=bool)
    volume[inside] = chosen
    return volume


def _over_subjects(points: pd.DataFrame) -> pd.DataFrame:
    """Return mean and 95 % band over subjects, of moments that two subjects have."""
    keys = ["voxels_of", "class", "seconds"]
    subjects = points.groupby(["subject", *keys], sort=False)["percent"].mean().dropna()  # NaN lies beyond the run's end
    found = subjects.groupby(keys, sort=False).agg(["mean", "sem", "count"]).reset_index()
    found = found[found["count"] > 1].rename(columns={"mean": "percent", "count": "subjects"})
    half = student.ppf(0.975, found["subjects"] - 1) * found.pop("sem")
    return found.assign(low=found["percent"] - half, high=found["percent"] + half)


def _write_map(name: str, moments: _Moments, group: _Group, folder: Path) -> dict[str, Any]:
    """Write a map's NIfTI files and picture; return its entry."""
    change, t = group.image(moments.mean), group.image(moments.t)
    stem = re.sub(r"[^\w.-]+", "-", name)
    files = {"psc": f"psc_{stem}.nii.gz", "t": f"t_{stem}.nii.gz", "png": f"t_{stem}.png"}
    _save(change, folder / files["psc"])
    _save(t, folder / files["t"])
    threshold = float(student.ppf(1 - P_VALUE / 2, moments.n - 1))
    title = f"{name}: t over {moments.n} subjects, p < {P_VALUE:g} uncorrected"
    write_volume_picture(t, group.image(group.background.mean), folder / files["png"], title, threshold)
    values, percent = t.get_fdata(), change.get_fdata()
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    where = {"t": float(values[peak]), "percent": float(percent[peak]), "mm": apply_affine(t.affine, peak).round(1).tolist()}
    return {"map": name, "subjects": moments.n, **files, "threshold": threshold, "peak": where}


def _save(image: nib.Nifti1Image, path: Path) -> None:
    with written_whole(path) as temporary:
        nib.save(image, temporary)


def _write(folder: Path, group: _Group, maps: list[dict[str, Any]], courses: pd.DataFrame) -> dict[str, Any]:
    table = pd.DataFrame(group.table)
    motion = table.pop(MOTION).astype(float)
    given = motion.notna().any()
    table = table.assign(**{MOTION: motion}) if given else table
    tsnr = group.image(group.tsnr.mean)
    _save(tsnr, folder / "tsnr.nii.gz")
    title = f"temporal SNR, mean of {len(table)} runs"
    write_volume_picture(tsnr, group.image(group.background.mean), folder / "tsnr.png", title)
    for name, content in {"runs": table, "time_courses": courses}.items():
        with written_whole(folder / f"{name}.csv") as temporary:
            content.to_csv(temporary, index=False)
    for name, figure in {"runs": run_figure(table), "time_courses": time_course_figure(courses)}.items():
        with written_whole(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110)
    analysis = {
        "subjects": sorted(set(table["subject"])),
        "one_space": all(np.allclose(affine, group.affines[0], atol=0.01) for affine in group.affines),
        "brain_voxels": int(group.inside.sum()),
        "units": {"psc": "per cent of the temporal mean, trough to peak", "tsnr": "mean / standard deviation", "mm": "RAS"},
        "maps": maps,
        "time_courses": {"csv": "time_courses.csv", "png": "time_courses.png", "share_of_voxels": SHARE},
        "tsnr": {"nifti": "tsnr.nii.gz", "png": "tsnr.png", "median": float(table["tsnr"].median())},
        "motion": {"median_mm": float(motion.median()), "runs": int(motion.notna().sum())} if given else None,
        "runs": {"csv": "runs.csv", "png": "runs.png", "n": len(table)},
    }
    with written_whole(folder / "analysis.json") as temporary:
        temporary.write_text(json.dumps(analysis, indent=1, allow_nan=False))
    return analysis
