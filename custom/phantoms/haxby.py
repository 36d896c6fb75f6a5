"""A synthetic study of eight kinds of objects, in the layout in which nilearn fetches Haxby's.

Haxby et al., *Distributed and overlapping representations of faces and objects in ventral temporal cortex*, Science 2001, is
the study it imitates; no voxel of it is in here. All kinds of objects excite ventral temporal cortex on both sides, and each
kind in a pattern of its own: a smooth random map over the whole region, so that the patterns overlap, drawn anew for every
subject. Those of faces and houses are stronger. Nothing but the response depends on the kind.

A run has 121 frames, eight blocks of nine frames, and rest before, between and after them, placed as in the real runs. The
labels are those of the response: a stimulus begins 6 s before its label, so that the label needs no haemodynamic delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from ..data.haxby_layouts import CLASSES, REST
from .bold import brain_mask
from .folder import MARKER, make_room
from .task_bold import HRF, affine_of, draw_brain, focus, simulate_run, write_map

__all__ = ["STARTS", "TR", "activation", "draw_order", "draw_patterns", "region", "simulate_subject", "write_study"]

TR = 2.5  # seconds
N_FRAMES = 121
STARTS = (6, 21, 35, 49, 63, 78, 92, 106)  # first frames of the blocks, those of the real labels
BLOCK = 9  # frames
DELAY = 6.0  # seconds from a stimulus to its label
CENTRE, WIDTH = (0.5, -0.45, -0.35), 0.35  # of the region on one side, every axis from -1 to 1
SMOOTHNESS = 0.6  # voxels, standard deviation of the Gaussian over a pattern
COMMON = 1.0  # of all kinds of objects, where the standard deviation of a pattern is 1
STRONGER = {"face": 1.5, "house": 1.5}
TSNR = 100.0  # of every subject, so that an effect in per cent is as easy to see in all of them


def write_study(
    raw_dir: str | Path,
    n_subjects: int = 1,
    n_runs: int = 8,
    effect: float = 0.6,
    shape: tuple[int, int, int] = (12, 14, 6),
    seed: int = 0,
) -> Path:
    """Write a synthetic study; a subject depends on ``(seed, number)`` and the study's sizes alone.

    Beside ``haxby2001/`` there are ``SYNTHETIC``, which marks the study, and ``truth/``, the patterns in per cent, which only
    tests read.

    Args:
        raw_dir: folder to write to; an earlier synthetic study in it is replaced.
        n_subjects: number of subjects.
        n_runs: runs of each.
        effect: standard deviation, over the region's voxels, of the patterns in per cent of a voxel's mean; 0 makes runs that
            say nothing. By default a linear SVM knows some 0.6 of the frames of a run that it has not seen, as of real ones.
        shape: voxels of a scan.
        seed: of the study.

    Returns:
        ``raw_dir``.

    Raises:
        FileExistsError: ``raw_dir`` holds something that is not a synthetic study.
        ValueError: if there is no subject or no run.
    """
    if n_subjects < 1 or n_runs < 1:
        raise ValueError(f"{n_subjects} subjects with {n_runs} runs are no study: give 1 or more of both")
    root = Path(raw_dir)
    make_room(root, "*")
    (root / MARKER).write_text(
        "Synthetic study, made by custom.phantoms.haxby: no scan and no person is real.\n"
        f"{n_subjects} subjects, {n_runs} runs each, effect {effect} %, seed {seed}\n"
    )
    study = root / "haxby2001"
    write_map(study / "mask.nii.gz", brain_mask(shape).astype(np.uint8))
    for number in tqdm(range(1, n_subjects + 1), desc="phantom", unit="subject", disable=None):
        scan, labels = simulate_subject(number, n_runs, effect, shape, seed)
        _write_subject(study / f"subj{number}", scan, labels, n_runs)
        for kind, pattern in draw_patterns(number, shape, seed).items():
            write_map(root / "truth" / f"sub-{number}_{kind}.nii.gz", effect * pattern)
    return root


def region(shape: Sequence[int]) -> np.ndarray:
    """Return ventral temporal cortex, on both sides; bool array of ``shape``."""
    return focus(shape, [CENTRE], WIDTH, mirrored=True) > 0.5


def draw_patterns(number: int, shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Return the response of a subject to each kind of object at effect 1, in per cent; float32 arrays of ``shape``.

    What all kinds have in common is the same in every voxel of the region. What a kind adds has a mean of 0 over the region and
    a standard deviation of 1, more in those of :py:data:`STRONGER`.
    """
    rng = np.random.default_rng([seed, number, 0])
    inside = region(shape)
    patterns = {}
    for kind in CLASSES:
        own = gaussian_filter(rng.normal(size=shape), SMOOTHNESS)[inside]
        pattern = np.zeros(shape, np.float32)
        pattern[inside] = COMMON + STRONGER.get(kind, 1.0) * (own - own.mean()) / own.std()
        patterns[kind] = pattern
    return patterns


def draw_order(rng: np.random.Generator) -> list[str]:
    """Draw which kind of object each block of a run shows."""
    return [CLASSES[i] for i in rng.permutation(len(CLASSES))]


def activation(order: list[str], patterns: dict[str, np.ndarray]) -> np.ndarray:
    """Return the response to a run's blocks in per cent; float32 (T, X, Y, Z).

    A block's course is the canonical HRF on its stimulus, of peak-to-peak 1.
    """
    from nilearn.glm.first_level.hemodynamic_models import compute_regressor  # a second to import

    times = TR * np.arange(N_FRAMES)
    conditions = [np.array([[TR * start - DELAY], [TR * BLOCK], [1.0]]) for start in STARTS]
    courses = np.stack([compute_regressor(block, HRF, times)[0][:, 0] for block in conditions], 1)
    maps = np.stack([patterns[kind] for kind in order])
    return np.tensordot(courses / np.ptp(courses, axis=0), maps, 1).astype(np.float32)


def simulate_subject(
    number: int, n_runs: int, effect: float, shape: tuple[int, int, int], seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Return the runs of a subject one after the other, float32 (T, X, Y, Z) in scanner units, and the label of every frame."""
    brain = draw_brain(np.random.default_rng([seed, number, 1]), shape)
    brain = replace(brain, noise=replace(brain.noise, tsnr=TSNR))
    patterns = draw_patterns(number, shape, seed)
    scans, labels = [], []
    for run in range(n_runs):
        rng = np.random.default_rng([seed, number, 2 + run])
        order = draw_order(rng)
        scans.append(simulate_run(rng, brain, effect * activation(order, patterns), run))
        shown = dict(zip(STARTS, order, strict=True))
        labels += [next((shown[s] for s in STARTS if s <= frame < s + BLOCK), REST) for frame in range(N_FRAMES)]
    return np.concatenate(scans), labels


def _write_subject(folder: Path, scan: np.ndarray, labels: list[str], n_runs: int) -> None:
    """Write image, labels and mask as they are named and laid out in the real study."""
    image = nib.Nifti1Image(np.rint(scan.transpose(1, 2, 3, 0)).astype(np.int16), affine_of(scan.shape[1:]))
    image.header.set_zooms((*image.header.get_zooms()[:3], TR))
    image.header.set_xyzt_units("mm", "sec")
    folder.mkdir(parents=True)
    image.to_filename(folder / "bold.nii.gz")
    chunks = np.repeat(np.arange(n_runs), N_FRAMES)
    lines = [f"{label} {chunk}" for label, chunk in zip(labels, chunks, strict=True)]
    (folder / "labels.txt").write_text("\n".join(["labels chunks", *lines]) + "\n")
    write_map(folder / "mask4_vt.nii.gz", region(scan.shape[1:]).astype(np.uint8))
