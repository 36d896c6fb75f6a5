"""Synthetic BOLD of task runs, and the BIDS files around it.

Responses are the canonical HRF of nilearn on a run's events, in per cent of a voxel's mean (Pernet, *Misconceptions in the use
of the General Linear Model applied to functional MRI: a tutorial for junior neuro-imagers*, Front Neurosci 2014): the run's
regressor is scaled to a peak-to-peak of 1, so that an effect of 1 moves the voxel by 1 % from trough to peak.

The noise is like that of real runs: temporal SNR 45-140, AR(1) 0.1-0.45, drift 13-29 % of the variance, 25 smooth spatial
components of which the first makes up 10-26 %, a few frames that jump. Half of the drift has the same sign in every subject and
goes on from run to run, as a scanner warms up: whoever compares the levels of two runs measures time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from .artefacts import smooth_field
from .bold import Noise, ar1, brain_mask, drift

__all__ = [
    "TR",
    "Brain",
    "draw_brain",
    "focus",
    "response",
    "simulate_run",
    "task_noise",
    "write_dataset",
    "write_map",
    "write_run",
]

TR = 2.0  # seconds
FIELD_OF_VIEW = (200.0, 224.0, 160.0)  # mm
HRF = "spm"
COMPONENTS = 25
OTHERS, DECAY = 0.25, 0.85  # share of the variance of all components after the first, and from each to the next
WARM_UP = 0.2  # time constant of the shared drift within a run, as a share of the run
SPIKES, JUMP = 3, 1.5  # at most so many frames, and their standard deviation in those of the noise


@dataclass(frozen=True)
class Brain:
    """What all runs of a subject have in common.

    Args:
        mean: the scan without noise, in scanner units; (X, Y, Z), 0 outside the brain.
        noise: its ``physiology`` is the share of the first spatial component, its ``autocorrelation`` that of what remains
            beside components and drift.
    """

    mean: np.ndarray
    noise: Noise


def draw_brain(rng: np.random.Generator, shape: tuple[int, int, int], gain: float = 1.0) -> Brain:
    """Draw a subject; ``gain`` scales the scan as another scanner would."""
    noise = Noise(
        tsnr=rng.uniform(45, 140),
        autocorrelation=rng.uniform(0, 0.25),  # with components and drift a voxel gets to 0.3-0.45
        smoothness=(0.4, 0.4, 0.2),
        drift=rng.uniform(0.13, 0.29),
        physiology=rng.uniform(0.1, 0.26),
    )
    mean = 1000 * gain * (0.8 + 0.4 * rng.random(shape)) * brain_mask(shape)
    return Brain(mean.astype(np.float32), noise)


def focus(
    shape: Sequence[int],
    centres: Sequence[tuple[float, float, float]],
    width: float,
    shift: Sequence[float] = (0, 0, 0),
    mirrored: bool = False,
) -> np.ndarray:
    """Return a map of compact regions.

    Args:
        shape: of the grid, in RAS.
        centres: of the regions, every axis from -1 (left, posterior, inferior) to 1.
        width: standard deviation of a region, in the same units.
        shift: of all regions, in voxels.
        mirrored: whether every region has a twin on the other side.

    Returns:
        float32 array of ``shape``: 1 at the centres, which may lie between voxels, falling off as a Gaussian; 0 outside the
        brain.
    """
    axes = [np.linspace(-1, 1, n) - 2 * s / (n - 1) for n, s in zip(shape, shift, strict=True)]
    twins = [(-x, y, z) for x, y, z in centres] if mirrored else []
    blobs = []
    for centre in [*centres, *twins]:
        x, y, z = (np.exp(-0.5 * ((a - c) / width) ** 2) for a, c in zip(axes, centre, strict=True))
        blobs.append(np.einsum("x,y,z->xyz", x, y, z))
    return (np.max(blobs, axis=0) * brain_mask(shape)).astype(np.float32)


def response(events: pd.DataFrame, n_frames: int) -> np.ndarray:
    """Return the response to the events of one condition, of peak-to-peak 1; float32 (n_frames,).

    Args:
        events: with onset and duration in seconds.
        n_frames: of the run.
    """
    from nilearn.glm.first_level.hemodynamic_models import compute_regressor  # a second to import

    condition = np.stack([events["onset"], events["duration"], np.ones(len(events))])
    regressor = compute_regressor(condition, HRF, np.arange(n_frames) * TR)[0][:, 0]
    return (regressor / np.ptp(regressor)).astype(np.float32)


def task_noise(rng: np.random.Generator, n_frames: int, brain: Brain, run: int = 0) -> np.ndarray:
    """Draw everything in a run that is no response; float32 (n_frames, X, Y, Z), of variance 1 in the brain's median voxel.

    ``run`` counts the session's runs from 0: the shared drift stands higher in a later one, by the same map in every subject.
    """
    noise, shape = brain.noise, brain.mean.shape
    thermal = gaussian_filter(ar1(rng, n_frames, shape, noise.autocorrelation), (0, *noise.smoothness))
    fields = np.stack([smooth_field(rng, shape, order=6) for _ in range(COMPONENTS)])
    shares = DECAY ** np.arange(COMPONENTS - 1)
    shares = np.array([noise.physiology, *(OTHERS * shares / shares.sum())])
    courses = _resonances(rng, n_frames) * np.sqrt(shares)
    total = (
        np.sqrt(1 - noise.drift - shares.sum()) * thermal / thermal.std()
        + np.tensordot(courses.astype(np.float32), fields, 1)
        + np.sqrt(noise.drift / 2) * (drift(rng, n_frames, shape) + _shared_drift(n_frames, shape, run))
    )
    total /= np.median(total.std(0)[brain.mean > 0])
    return (total + _jumps(rng, n_frames)[:, None, None, None]).astype(np.float32)


def _resonances(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    """Draw the components' time courses: AR(2) that favour a frequency of 0.01-0.1 Hz, unit variance; (n_frames, 25)."""
    courses = []
    for frequency, radius in zip(rng.uniform(0.01, 0.1, COMPONENTS), rng.uniform(0.6, 0.9, COMPONENTS), strict=True):
        poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency * TR), radius**2]
        courses.append(lfilter([1.0], poles, rng.normal(size=n_frames + 50))[50:])  # 50 frames forget the start
    standardised = np.stack(courses, 1)
    return standardised / standardised.std(0)


def _shared_drift(n_frames: int, shape: Sequence[int], run: int) -> np.ndarray:
    """Return a fixed smooth map times a ramp of unit variance: linear over the session, saturating anew in every run."""
    time = np.arange(n_frames) / n_frames
    ramp = time + 1 - np.exp(-time / WARM_UP)
    course = (ramp - ramp.mean() + run) / ramp.std()
    return np.multiply.outer(course.astype(np.float32), smooth_field(np.random.default_rng(0), shape, order=3))


def _jumps(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    course = np.zeros(n_frames, np.float32)
    frames = rng.choice(n_frames, rng.integers(0, SPIKES, endpoint=True), replace=False)
    course[frames] = rng.normal(0, JUMP, len(frames))
    return course


def simulate_run(rng: np.random.Generator, brain: Brain, percent: np.ndarray, run: int = 0) -> np.ndarray:
    """Return a run in scanner units, float32 (n_frames, X, Y, Z), with faint noise outside the brain.

    Args:
        rng: of the run.
        brain: of the subject.
        percent: the response, in per cent of a voxel's mean; (n_frames, X, Y, Z).
        run: number in the session, from 0.
    """
    noise = task_noise(rng, len(percent), brain, run)
    scan = brain.mean * (1 + percent / 100 + noise / brain.noise.tsnr)
    air = 3 * np.abs(rng.standard_normal(percent.shape, dtype=np.float32))
    return np.where(brain.mean > 0, scan, air).astype(np.float32)


def affine_of(shape: Sequence[int]) -> np.ndarray:
    """Return the RAS affine of a grid that fills the field of view, its centre at the origin; mm."""
    voxel = np.divide(FIELD_OF_VIEW, shape)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = -voxel * (np.array(shape) - 1) / 2
    return affine


def write_run(path: Path, scan: np.ndarray, events: pd.DataFrame) -> None:
    """Write ``path``, a ``_bold.nii.gz`` (X, Y, Z, T) of int16 in RAS with its TR, and the ``_events.tsv`` beside it."""
    image = nib.Nifti1Image(np.rint(scan.transpose(1, 2, 3, 0)).astype(np.int16), affine_of(scan.shape[1:]))
    image.header.set_zooms((*image.header.get_zooms()[:3], TR))
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    events.to_csv(path.with_name(path.name.replace("_bold.nii.gz", "_events.tsv")), sep="\t", index=False, na_rep="n/a")


def write_dataset(root: Path, name: str, tasks: Mapping[str, str], participants: Sequence[Mapping[str, object]]) -> None:
    """Write what stands at the root of a BIDS dataset; ``tasks`` names each task in the file names and in words."""
    root.mkdir(parents=True, exist_ok=True)
    description = {"Name": name, "BIDSVersion": "1.8.0", "DatasetType": "raw", "License": "CC0"}
    (root / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n")
    for task, words in tasks.items():
        sidecar = {"RepetitionTime": TR, "TaskName": words}
        (root / f"task-{task}_bold.json").write_text(json.dumps(sidecar, indent=2) + "\n")
    pd.DataFrame(participants).to_csv(root / "participants.tsv", sep="\t", index=False, na_rep="n/a")


def write_map(path: Path, regions: np.ndarray) -> None:
    """Write a region map as NIfTI in the space of the runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(regions, affine_of(regions.shape)).to_filename(path)
