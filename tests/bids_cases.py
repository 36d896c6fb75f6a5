"""A small BIDS dataset, for the tests of what reads one: two subjects with a run each, two trials of it in a class."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from custom.data import Study
from custom.data.bids_task import read_study

TWO = {"a": ["a"], "b": ["b"]}
EVENTS = "onset\tduration\ttrial_type\n0\t4\ta\n8\t4\tb\n16\t4\trest\n"


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def save_run(path: Path, frames: int = 15, tr: float = 2.0) -> Path:
    image = nib.Nifti1Image(np.zeros((1, 1, 1, frames), np.uint8), np.eye(4))
    image.header.set_zooms((1, 1, 1, tr))
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_small(root: Path) -> Path:
    put(root / "dataset_description.json", "{}")
    put(root / "participants.tsv", "participant_id\tage\tsex\nsub-1\t20\tF\nsub-2\t30\tM\n")
    for subject in ("sub-1", "sub-2"):
        save_run(root / subject / "func" / f"{subject}_task-x_run-01_bold.nii.gz")
        put(root / subject / "func" / f"{subject}_task-x_run-01_events.tsv", EVENTS)
    return root


def read(root: Path, classes: dict = TWO, ignored: tuple = ("rest",), **options: object) -> Study:
    return read_study(str(root), options.pop("scheme", "trial_type"), classes, ignored, **options)


def func(root: Path, subject: str = "sub-1") -> Path:
    return root / subject / "func"
