"""An epoch over prepared data after the first: windows of 4D scans, and volumes with the OASIS bundle's augmentation."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset

from custom.transforms import MapBOLDd, RandTemporalWindowd, SeededCompose

from .load import Shape, bold
from .row import Row, Ways

__all__ = ["ROWS", "TRAIN"]

TRAIN = Path(__file__).resolve().parents[2] / "bundles" / "oasis_mri_alzheimers_classification" / "configs" / "train.json"


def windows(folder: Path, shape: Shape, frames: int, count: int) -> Ways:
    """A window of every scan: of all scans pickled in one file, read once an epoch; of cached memory maps."""
    rows, scans = [{"image": str(folder / f"{i}.nii")} for i in range(count)], [bold(shape) + i for i in range(count)]
    for row, scan in zip(rows, scans, strict=True):
        nib.save(nib.Nifti1Image(np.moveaxis(scan, 0, -1), np.eye(4)), row["image"])
    with (folder / "scans.pickle").open("wb") as file:
        pickle.dump(scans, file, protocol=5)  # no copy in memory
    transform = SeededCompose([MapBOLDd("image"), RandTemporalWindowd("image", frames)])
    transform.set_random_state(0)  # the same windows in every epoch
    cached = CacheDataset(rows, transform, copy_cache=False, progress=False)
    starts = [item["image"].meta["window_start"] for item in cached]

    def unpickle() -> list[torch.Tensor]:
        with (folder / "scans.pickle").open("rb") as file:
            chunk = pickle.load(file)
        return [torch.from_numpy(scan[start : start + frames]) for scan, start in zip(chunk, starts, strict=True)]

    held = sum(scan.nbytes for scan in scans), len(pickle.dumps(cached._cache))
    return Ways(unpickle, lambda: [item["image"] for item in cached], held)


def volumes(folder: Path, side: int, count: int) -> Ways:
    """Prepared volumes with the bundle's transforms: read anew in every epoch, or held by MONAI's CacheDataset."""
    rows = [{"image": str(folder / f"{i}.nii"), "label": 0, "subject": str(i)} for i in range(count)]
    for i, row in enumerate(rows):
        nib.save(nib.Nifti1Image(bold((side,) * 3 + (1,))[..., 0] + i, np.eye(4)), row["image"])
    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    transform = parser.get_parsed_content("train::preprocessing")
    transform.set_random_state(0)
    plain, cached = Dataset(rows, transform), CacheDataset(rows, transform, progress=False)
    return Ways(lambda: [item["image"] for item in plain], lambda: [item["image"] for item in cached])


ROWS = (
    Row(
        "cache",
        "{frames} frames of each of {count} scans, {shape}",
        "scans pickled in one file",
        windows,
        {"shape": (176, 64, 64, 34), "frames": 32, "count": 4},
        0,
    ),
    Row("cache", "{count} volumes of {side}³, augmented", "Dataset", volumes, {"side": 96, "count": 8}, 0),
)
