"""Names of BIDS files: what they say, and which of them apply to a run. Nothing here looks into an image.

The inheritance principle: a table or json applies to every image at or below its folder whose name holds all ``key-label``
parts of its own; the nearest counts, of several in a folder the one with most parts.

Reference: Gorgolewski et al., The brain imaging data structure, Sci Data 3 (2016) 160044.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import nibabel as nib

from .errors import BadScan

__all__ = ["ROOT", "applicable", "entities", "repetition_time", "root_of", "stem_of"]

ROOT = "dataset_description.json"  # every BIDS dataset has one in its topmost folder
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
LONGEST_TR = 60.0  # seconds; a larger number is one of milliseconds


def stem_of(path: str | Path) -> str:
    """Return the name of a NIfTI file without its suffix."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name)


def root_of(path: str | Path) -> Path | None:
    """Return the folder of the dataset that a file or folder belongs to, ``None`` outside any."""
    place = Path(path).absolute()
    return next((folder for folder in (place, *place.parents) if (folder / ROOT).is_file()), None)


def entities(path: str | Path) -> dict[str, str | None]:
    """Return ``{"sub": "01", "task": "rest", "run": "1"}`` of ``sub-01_task-rest_run-01_bold.nii.gz``.

    A run's number has no leading zeros, since of one run a dataset may write ``run-01`` and what is derived of it ``run-1``. A
    part without a label is a key with ``None``.
    """
    # slow to import for those who read no BIDS
    from nilearn.interfaces.bids import parse_bids_filename

    found = parse_bids_filename(str(path))["entities"]
    run = found.get("run")
    return {**found, "run": str(int(run))} if run and run.isdecimal() else dict(found)


def applicable(image: str | Path, name: str, folder: Path | None = None) -> Iterator[Path]:
    """Yield the files that apply to an image by inheritance, the one that counts first.

    Args:
        image: of the run.
        name: the end of their names: ``events.tsv``, ``bold.json``.
        folder: where to begin, in place of the image's own: the raw dataset's, of a preprocessed image.

    Raises:
        BadScan: for two files of equal rank.
    """
    own = (entities(image) | {stem_of(image).split("_")[-1]: None}).items()
    for place in _upwards(folder or Path(image).absolute().parent):
        files = [file for file in place.glob(f"*{name}") if file.name.split("_")[-1] == name]
        rank = {file: len(entities(file)) for file in files if entities(file).items() <= own}
        best_first = sorted(rank, key=lambda file: -rank[file])
        for first, second in pairwise(best_first):
            if rank[first] == rank[second]:
                raise BadScan(f"{image}: {first} and {second} apply equally: keep one of them.")
        yield from best_first


def _upwards(folder: Path) -> list[Path]:
    """Return the folder and those above it up to the dataset's."""
    root = root_of(folder)
    return [folder, *(place for place in folder.parents if root in (place, *place.parents))] if root else [folder]


def repetition_time(image: str | Path, header: nib.Nifti1Header | None = None) -> float | None:
    """Return the seconds from frame to frame that the nearest json states, else the header.

    Args:
        image: a NIfTI file; its own ``<name>.json`` counts first, then what it inherits.
        header: of the image, if that was read.

    Returns:
        ``None`` where nothing says it: a header without a unit, or with a time that cannot be one, says nothing.

    Raises:
        BadScan: if a json is none, or the time no number of seconds above 0.
    """
    own = Path(image).with_name(f"{stem_of(image)}.json")
    for sidecar in chain([own] if own.is_file() else [], applicable(image, "bold.json")):
        content = _content(sidecar)
        if "RepetitionTime" in content:
            return _seconds(content["RepetitionTime"], sidecar)
    return None if header is None else _seconds_of(header)


def _content(sidecar: Path) -> dict:
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadScan(f"{sidecar}: not a BIDS file, since it is no JSON ({error}): correct or delete it.") from error
    if not isinstance(content, dict):
        raise BadScan(f"{sidecar}: not a BIDS file, since it holds a {type(content).__name__}: correct or delete it.")
    return content


def _seconds_of(header: nib.Nifti1Header) -> float | None:
    zooms = header.get_zooms()
    try:
        unit = header.get_xyzt_units()[1]
    except KeyError:  # a number that stands for no unit
        return None
    seconds = round(float(zooms[3]) * SECONDS.get(unit, 0.0), 6) if len(zooms) > 3 else 0.0  # float32 has no more digits
    return seconds if 0 < seconds <= LONGEST_TR else None


def _seconds(value: object, source: str | Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST_TR:
        raise BadScan(
            f"{source}: RepetitionTime is {value!r}, seconds above 0 and up to {LONGEST_TR:g} are wanted: correct it."
        )
    return float(value)
