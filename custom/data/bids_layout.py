"""Folders of BIDS datasets: where the runs of a study lie, what a run is called, how long it is.

A study is one dataset, or a folder of several. Preprocessed images may stand in for the raw ones, in a folder that mirrors the
raw dataset's. Of an image only the header is read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from ..bids import ROOT, entities, repetition_time, stem_of
from ..errors import DAMAGED_SCAN, BadScan
from .records import Column

__all__ = ["Dataset", "datasets_of", "func_files", "images_below", "mask_of", "name_of", "timing"]

logger = logging.getLogger(__name__)

NAMED = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run")  # what tells the scans of a dataset apart, in BIDS' order
BOLD = re.compile(r"(_desc-preproc)?_bold$")


@dataclass(frozen=True)
class Dataset:
    """A raw dataset.

    Args:
        root: its folder.
        prefix: of its subjects; ``sub-01`` of two datasets are two people.
        derivatives: folder of fMRIPrep's images, which stand in for the raw ones.
    """

    root: Path
    prefix: str = ""
    derivatives: Path | None = None

    def images(self, space: str | None = None) -> list[Path]:
        """Return the runs; of preprocessed ones those of a space.

        Raises:
            ValueError: if the preprocessed runs are of other spaces.
        """
        if self.derivatives is None:
            return func_files(self.root, "bold", "nii*")
        spaces = {image: entities(image).get("space") for image in func_files(self.derivatives, "desc-preproc_bold", "nii*")}
        if spaces and space not in spaces.values():
            known = sorted({str(s) for s in spaces.values()})
            raise ValueError(f"{self.derivatives} has no run in space {space}: give one of {known}; None is the scanner's own.")
        return [image for image, of in spaces.items() if of == space]

    def raw_folder(self, image: Path) -> Path:
        """Return the folder of the raw dataset that mirrors the image's."""
        return self.root / image.parent.relative_to(self.derivatives or self.root)


def datasets_of(root: Path, derivatives: str | None = None) -> list[Dataset]:
    """Return the dataset, or the datasets of a folder of several; ``derivatives`` then has a folder of the same name each.

    Raises:
        FileNotFoundError: if there is none.
    """
    roots = _roots(root)
    if not roots:
        raise FileNotFoundError(
            f"no {ROOT} in {root} or in a folder of it: give --raw_dir a BIDS dataset or a folder of several."
        )
    preprocessed = Path(derivatives).absolute() if derivatives else None
    if len(roots) == 1:
        return [Dataset(roots[0], "", preprocessed)]
    return [Dataset(r, f"{r.name}_", preprocessed / r.name if preprocessed else None) for r in roots]


def images_below(folder: Path) -> list[Path]:
    """Return the runs of a dataset, of a folder of several, or of any other folder and those below it."""
    roots = _roots(folder)
    found = [image for root in roots for image in func_files(root, "bold", "nii*")] or sorted(folder.rglob("*_bold.nii*"))
    return [image for image in found if image.name.endswith((".nii", ".nii.gz"))]


def _roots(folder: Path) -> list[Path]:
    return [folder] if (folder / ROOT).is_file() else sorted(file.parent for file in folder.glob(f"*/{ROOT}"))


def func_files(root: Path, tag: str, suffix: str) -> list[Path]:
    """Return the files ``sub-*_<tag>.<suffix>`` in a dataset's folders of functional data, sorted."""
    # slow to import for those who read no BIDS
    from nilearn.interfaces.bids import get_bids_files

    return [Path(file) for file in get_bids_files(root, file_tag=tag, file_type=suffix, modality_folder="func")]


def name_of(root: Path | None, parts: Mapping[str, str | None]) -> str:
    """Return ``<dataset>_sub-01_ses-1_task-x_run-1`` of the entities of a run."""
    dataset = [re.sub(r"[^\w.-]+", "-", root.name)] if root else []
    return "_".join([*dataset, *(f"{key}-{parts[key]}" for key in NAMED if parts.get(key))])


def timing(image: Path) -> dict[str, Column]:
    """Return ``tr`` and ``run_length`` in seconds, ``None`` where nothing says them.

    An image or a json that cannot be read is warned of only: preparation will reject the run and say why.
    """
    header = _header(image)
    try:
        seconds = repetition_time(image, header)
    except BadScan as error:
        logger.warning(str(error))
        seconds = None
    shape: tuple[int, ...] = header.get_data_shape() if header is not None else ()
    return {"tr": seconds, "run_length": int(shape[3]) * seconds if seconds and len(shape) > 3 else None}


def _header(image: Path) -> nib.Nifti1Header | None:
    try:
        return nib.load(image).header
    except DAMAGED_SCAN as error:
        logger.warning(f"{image}: damaged, or no NIfTI ({error}).")
        return None


def mask_of(image: Path) -> dict[str, str]:
    """Return ``{"mask": path}`` of the brain mask beside a run, if there is one."""
    base = BOLD.sub("", stem_of(image))
    candidates = (image.with_name(f"{base}_desc-brain_mask{suffix}") for suffix in (".nii.gz", ".nii"))
    mask = next((candidate for candidate in candidates if candidate.is_file()), None)
    return {"mask": str(mask)} if mask else {}
