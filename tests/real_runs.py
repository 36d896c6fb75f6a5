"""Real runs from ``../shared/data``, written as BIDS datasets that the motor bundle's own configs read.

* fingers: betas of 12 hemispheres (Diedrichsen 2013), every run one image whose frames are its conditions. The voxels have no
  coordinates in the file, so they are laid out side by side, which a network must not take for neighbourhood.
* haxby: eight runs of subject 1 (Haxby 2001), one slice; the labels of its events are aligned already.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.io import loadmat

FINGERS = ["thumb", "index", "middle", "ring", "little"]
CATEGORIES = ["face", "house", "cat", "bottle", "scissors", "shoe", "chair", "scrambledpix"]
HEMISPHERES, RUNS = 12, 8

# what such runs need beside the motor bundle's defaults
ALIGNED: dict[str, Any] = {"onset_shift": 0, "tasks": None, "ignored": [], "fwhm": 0}


def write_fingers(data: Path, raw: Path, hemispheres: int = HEMISPHERES) -> dict[str, Any]:
    """Write the five contralateral conditions; return the overrides that preparing and training them need."""
    content = loadmat(data / "somatotopy" / "fingers_LR_12hemi_M1.mat", squeeze_me=True)
    shape = (8, 8, 8)  # more than a fifth stays empty, so that the runs count as masked
    for h in range(hemispheres):
        betas, condition, run = (content[key][h] for key in ("Data", "condVec", "partVec"))
        for r in np.unique(run):
            frames = np.zeros((len(FINGERS), np.prod(shape)), np.float32)
            for k in range(len(FINGERS)):
                (pattern,) = betas[(run == r) & (condition == k + 1)]
                frames[k, : pattern.size] = pattern
            image = np.moveaxis(frames.reshape(len(FINGERS), *shape), 0, -1)
            events = [(float(k), 1.0, FINGERS[k]) for k in range(len(FINGERS))]
            _write_run(raw, f"sub-h{h + 1:02d}", "finger", int(r), image, np.eye(4), 1.0, events)
    _write_dataset(raw, "Finger betas", [f"sub-h{h + 1:02d}" for h in range(hemispheres)])
    classes = {name: [name] for name in FINGERS}
    grid = {"spacing": [1, 1, 1], "spatial_size": list(shape), "target_repetition_time": 1.0}
    betas = {"scan_transforms::9::detrend": False, "scan_transforms::10": {"_target_": "Identityd", "keys": "image"}}
    return {"preprocess": {"classes": classes, **grid, **betas, **ALIGNED},
            "train": {"classes": classes, "frames": 1, "spatial_size": list(shape)}}  # fmt: skip


def write_haxby(data: Path, raw: Path) -> dict[str, Any]:
    """Write the eight runs of one slice within its mask; return the overrides that preparing and training them need."""
    folder = data / "haxby" / "sub001" / "BOLD"
    mask = nib.load(data / "haxby" / "mask_1slice.nii.gz").get_fdata() > 0
    for r in range(1, RUNS + 1):
        run = folder / f"task001_run{r:03d}"
        image = nib.load(run / "bold_1slice.nii.gz")
        voxels = image.get_fdata() * mask.reshape(*image.shape[:3], 1)
        table = pd.read_csv(next(run.glob("*.tsv")), sep="\t")
        events = list(table[["onset", "duration", "trial_type"]].itertuples(index=False, name=None))
        _write_run(raw, "sub-1", "objectviewing", r, voxels.astype(np.float32), image.affine, 2.5, events)
    _write_dataset(raw, "Haxby 2001", ["sub-1"])
    classes = {name: [name] for name in CATEGORIES}
    shape = list(image.shape[:3])
    grid = {"spacing": [3.1, 3.75, 3.75], "spatial_size": shape, "target_repetition_time": 2.5}
    return {"preprocess": {"classes": classes, **grid, **ALIGNED},
            "train": {"classes": classes, "frames": 9, "spatial_size": shape}}  # fmt: skip


def _write_run(
    raw: Path, subject: str, task: str, run: int, image: np.ndarray, affine: np.ndarray, tr: float, events: list
) -> None:
    folder = raw / subject / "func"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{subject}_task-{task}_run-{run}"
    picture = nib.Nifti1Image(image, affine)
    picture.header.set_zooms((*picture.header.get_zooms()[:3], tr))
    picture.header.set_xyzt_units("mm", "sec")
    nib.save(picture, folder / f"{stem}_bold.nii.gz")
    (folder / f"{stem}_bold.json").write_text(json.dumps({"RepetitionTime": tr, "TaskName": task}))
    pd.DataFrame(events, columns=["onset", "duration", "trial_type"]).to_csv(
        folder / f"{stem}_events.tsv", sep="\t", index=False
    )


def _write_dataset(raw: Path, name: str, subjects: list[str]) -> None:
    (raw / "dataset_description.json").write_text(json.dumps({"Name": name, "BIDSVersion": "1.8.0"}))
    pd.DataFrame({"participant_id": subjects}).to_csv(raw / "participants.tsv", sep="\t", index=False)


def one_subject(raw: Path, subject: str, to: Path) -> Path:
    """Copy a dataset with one of its subjects."""
    to.mkdir(parents=True)
    for name in ("dataset_description.json", "participants.tsv"):
        shutil.copy(raw / name, to)
    shutil.copytree(raw / subject, to / subject)
    return to
