"""One record of a study: its scan through the transforms, its images written, and that it is done.

This is what a worker does, in this process, in another one, or on another machine of a cluster.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import Compose
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..errors import BadScan
from ..folder_lock import alive
from ..own_files import read_json
from ..paths import explained, written_whole
from .records import Record

__all__ = ["Run", "prepare_record", "save_image", "scale_path", "steps_of"]

# what a damaged or unsuitable file raises in our checks, nibabel (memory maps: ValueError), PIL and zlib; anything else is a
# fault of the program and stops the run
BAD_INPUT = (BadScan, OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)

DELETE = "delete it, and the scan is prepared again."

# what is wrong with the machine, now, and not with the scan: listed as rejected it would be missing from the study for good
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOMEM)


@dataclass(frozen=True)
class Run:
    """What a worker is to know of the run it belongs to.

    Args:
        folder: for what is written.
        dtype: of the voxels.
        recipe: hash of the transforms and the dtype.
        owner: process id and machine of the process that holds the folder's lock.
    """

    folder: Path
    dtype: str
    recipe: str
    owner: tuple[int, str]

    @classmethod
    def of_this_process(cls, folder: Path, transform: Callable, dtype: str) -> Run:
        # the recipe by value, whereas a pickle differs with the identity of equal strings
        return cls(folder, dtype, joblib.hash([*steps_of(transform), dtype]), (os.getpid(), _machine()))

    def go_on(self) -> None:
        """Raise SystemExit if the owner was killed: its lock is free, and another run may be writing here by now.

        Of an owner on another machine (a Dask cluster) nothing is known.
        """
        process, machine = self.owner
        if machine == _machine() and not alive(process):
            raise SystemExit("the run that this worker belongs to was killed")


def _machine() -> str:
    """Return what process ids are of: the host, and on Linux the container."""
    container = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(container) if container.is_symlink() else ''}"


def prepare_record(record: Record, transform: Callable, run: Run) -> tuple[str, list[dict] | str]:
    """Return what was written of a record, now or in an earlier run, or the reason why not."""
    rows = _done(record, run)
    if rows is not None:
        return record.name, rows
    try:
        items = transform({"image": record.image, **record.inputs, **({"events": record.events} if record.events else {})})
    except (RuntimeError, *BAD_INPUT) as error:
        cause = _root(error)
        if not isinstance(cause, BAD_INPUT):
            raise
        _refuse_passing(record, error)
        return record.name, f"{type(cause).__name__}: {cause}"
    return record.name, _write_all(record, items if isinstance(items, list) else [items], run)


def _done(record: Record, run: Run) -> list[dict] | None:
    """Return what an earlier run by the same transforms wrote of a record, ``None`` if it is to be prepared."""
    done = _listing(record, run)
    if not done.is_file():
        return None
    content = read_json(done, DELETE)
    images = content.get("images")
    if "source" not in content or not isinstance(images, list) or not all(isinstance(i, dict) and "image" in i for i in images):
        raise ValueError(f"{done} is damaged (it does not say what was written): {DELETE}")
    if content["source"] != record.image:
        raise ValueError(
            f"{run.folder} holds what {content['source']} was prepared to, and {record.image} is called {record.name} too: "
            "give another --dataset_dir."
        )
    if content.get("made_of", _made_of(record)) != _made_of(record):
        raise ValueError(
            f"{run.folder} holds {record.image} prepared with other events (other classes?), another mask or another TR: give "
            "another --dataset_dir, or delete it."
        )
    if content.get("recipe", run.recipe) != run.recipe:  # by a worker that outlived its run, in a folder emptied since
        return None
    rows = content["images"]
    names = [*(row["image"] for row in rows), *content.get("scales", [])]
    return rows if all((run.folder / name).is_file() for name in names) else None


def _listing(record: Record, run: Run) -> Path:
    return run.folder / "images" / f"{record.name}.json"


def _write_all(record: Record, pieces: Sequence[Mapping[str, Any]], run: Run) -> list[dict[str, Any]]:
    """Write a record's images, and when they are there what they are."""
    rows = [_write(record, item, run) for item in pieces]
    scales = [str(scale_path(row["image"])) for row, item in zip(rows, pieces, strict=True) if "scale" in item]
    beside = {"scales": scales} if scales else {}
    known = {"source": record.image, "made_of": _made_of(record), "recipe": run.recipe, "images": rows, **beside}
    run.go_on()
    with written_whole(_listing(record, run)) as temporary:
        temporary.write_text(json.dumps(known))
    return rows


def _made_of(record: Record) -> str:
    """Return a hash of what an image depends on beside its source: mask, TR, and when events are, but not their labels."""
    moments = [(event.onset, event.duration) for event in record.events]
    return joblib.hash([dict(record.inputs), record.columns.get("tr"), moments])


def _root(error: BaseException) -> BaseException:
    """Return what was raised first, which MONAI wraps in a RuntimeError; a BadScan says more than its own cause."""
    while error.__cause__ is not None and not isinstance(error, BadScan):
        error = error.__cause__
    return error


def _refuse_passing(record: Record, error: BaseException) -> None:
    """Raise what is no fault of the scan: no room, no memory, too many open files, a file server that is away.

    nibabel takes a file that it cannot open for one of unknown type, so the scan is opened once more.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in PASSING:
            raise explained(cause, Path(cause.filename or record.image)) from error
        cause = cause.__cause__
    try:
        with open(record.image, "rb") as file:
            file.read(1)
    except OSError as again:
        if again.errno in PASSING:
            raise explained(again, Path(record.image)) from error


def _write(record: Record, item: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Write one image; a transform that cuts a scan up says which piece it is in the item's ``slice``."""
    piece = {"slice": int(item["slice"])} if "slice" in item else {}
    suffix = f"_slice-{piece['slice']:03d}" if piece else ""
    name = f"images/{record.name}{suffix}.nii"
    run.go_on()
    save_image(run.folder / name, item["image"], run.dtype)
    if "scale" in item:
        save_image(scale_path(run.folder / name), item["scale"])
    time = {"frames": len(item["image"]), "repetition_time": item["image"].meta.get("repetition_time")} if record.events else {}
    return {"image": name, **piece, **time, **item.get("report", {})}


def steps_of(transform: Callable) -> Sequence[Callable]:
    """Return the transforms that one is made of."""
    return transform.flatten().transforms if isinstance(transform, Compose) else [transform]


def save_image(path: Path, image: MetaTensor, dtype: str = "float32") -> None:
    """Write a (1, X, Y, Z) image or a (T, X, Y, Z) series as uncompressed NIfTI, whole or not at all.

    A series keeps its TR (``repetition_time`` of its meta data, in seconds), where it has one.
    """
    affine = to_affine_nd(3, np.asarray(image.affine, dtype=np.float64))
    array = np.asarray(image, dtype=np.float32)
    picture = nib.Nifti1Image(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1), affine)
    picture.set_data_dtype(dtype)  # nibabel finds slope and intercept for integers when it saves
    if picture.ndim == 4:
        picture.header.set_zooms((*picture.header.get_zooms()[:3], image.meta.get("repetition_time") or 0.0))
        picture.header.set_xyzt_units("mm", "sec")
    with written_whole(path) as temporary:
        nib.save(picture, temporary)


def scale_path(image: str | Path) -> Path:
    """Return where the mean and the standard deviation (X, Y, Z, 2) lie that a prepared run was standardised by."""
    return Path(image).with_name(f"{Path(image).stem}_scale.nii")
