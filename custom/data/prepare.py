"""Raw study → prepared dataset: transforms over records, in parallel, to be taken up again where it stopped.

What is written for a record is listed in ``images/<record>.json``, last, so a record is done or not done. The transforms
are known by a hash beside the images: other transforms want another folder.
"""

from __future__ import annotations

import copy
import csv
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
from joblib import Parallel, delayed
from monai.utils import optional_import
from tqdm import tqdm

from ..errors import BadScan
from ..folder_lock import FolderLock
from ..paths import written_whole
from .datalist import write_datalist
from .prepare_record import Run, prepare_record, steps_of
from .records import Record, Study
from .splits import Split
from .windows import Windows

__all__ = ["prepare"]

logger = logging.getLogger(__name__)

DTYPES = ("float32", "int16")


def prepare(
    study: Study,
    transform: Callable[[dict], dict | list[dict]],
    split: Split,
    dataset_dir: str,
    datalist: str,
    num_workers: int = 1,
    dtype: str = "float32",
    windows: Windows | None = None,
    dask_scheduler: str | None = None,
) -> dict[str, Any]:
    """Apply a transform to every record, write its images, list what was rejected, split the rest.

    Workers are joblib processes of this machine, or of a Dask cluster. Each holds one scan at a time, so memory does not grow
    with the study.

    Args:
        study: the records.
        transform: from ``{"image": path}`` and the record's ``inputs`` and ``events`` to a (1, X, Y, Z) image, to a
            (T, X, Y, Z) series, or to several images (slices) in a list. What it puts into ``report`` stands in the row, what
            it puts into ``scale`` (2, X, Y, Z) is written beside the image, see :py:func:`scale_path`.
        split: how to split what was not rejected.
        dataset_dir: receives ``images/*.nii`` (uncompressed) and ``rejected.csv``.
        datalist: path of the list to write.
        num_workers: number of processes on this machine; a Dask cluster uses all it has.
        dtype: of the voxels on disc, ``float32`` or ``int16``; integers are scaled to the image's range.
        windows: of a study of runs with events: which frames belong to an event.
        dask_scheduler: address of a Dask scheduler with two workers or more, which see the same paths and can import this
            package; those that join it later are not used.

    Returns:
        The content of the datalist.

    Raises:
        ValueError: for another ``dtype``, if the folder holds images made by other transforms, or if no scan was good.
        FolderInUse: if another process prepares into the folder.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}.")
    with FolderLock(dataset_dir), _cluster(dask_scheduler):
        # a worker on another machine may stand in another directory
        return _prepare(study, transform, split, Path(dataset_dir).absolute(), datalist, num_workers, dtype, windows)


@contextmanager
def _cluster(dask_scheduler: str | None) -> Iterator[None]:
    """Let a Dask cluster be joblib's workers, where one is named."""
    if dask_scheduler is None:
        yield
        return
    distributed, installed = optional_import("distributed")
    if not installed:
        raise ModuleNotFoundError(
            f"dask_scheduler is {dask_scheduler}, and Dask is not installed, it is no requirement of this package: "
            "pip install dask distributed 'numpy<2', or leave dask_scheduler out."
        )
    with distributed.Client(dask_scheduler) as client:
        threads = sum(client.ncores().values())
        if threads < 2:  # joblib would do all the work in this process
            raise ValueError(
                f"the Dask scheduler {dask_scheduler} has {threads} worker threads: start two workers or more first."
            )
        with joblib.parallel_config(backend="dask"):
            yield


def _prepare(
    study: Study,
    transform: Callable[[dict], dict | list[dict]],
    split: Split,
    folder: Path,
    datalist: str,
    num_workers: int,
    dtype: str,
    windows: Windows | None,
) -> dict[str, Any]:
    _refuse_equal_names(study.records)
    run = Run.of_this_process(folder, transform, dtype)
    _claim(run)
    worker = copy.deepcopy(transform)  # MONAI's readers remember what they read, and a recipe that has changed is another one
    jobs = (delayed(prepare_record)(record, worker, run) for record in study.records)
    # a generator, and in order of completion: the bar moves with the scans and nothing but file names comes back
    outcomes = Parallel(n_jobs=num_workers, return_as="generator_unordered")(jobs)
    bar = tqdm(outcomes, total=len(study.records), desc="preprocess", unit="scan", disable=not sys.stderr.isatty())
    results = dict(bar)
    _refuse_absent(folder, results)
    results = {r.name: _placed(r, results[r.name], windows) for r in study.records}
    results |= _without_partner(study.records, results)
    rejected = {name: reason for name, reason in results.items() if isinstance(reason, str)}
    _write_rejected(folder / "rejected.csv", [r for r in study.records if r.name in rejected], rejected)
    prepared = {name: rows for name, rows in results.items() if not isinstance(rows, str)}
    if not prepared:
        first = next((rejected[record.name] for record in study.records), "the study holds none")
        raise ValueError(
            f"none of the {len(study.records)} scans could be prepared: see {folder / 'rejected.csv'}. One reason: {first}"
        )
    logger.info(f"{len(prepared)} scans prepared in {folder}, {len(rejected)} rejected, dropped: {dict(study.dropped)}.")
    return write_datalist(datalist, study, split, prepared, windows, [type(t).__name__ for t in steps_of(transform)])


def _refuse_absent(folder: Path, results: Mapping[str, list[dict] | str]) -> None:
    names = [row["image"] for rows in results.values() if not isinstance(rows, str) for row in rows]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder / absent[0]} was written by a worker and is not here: let all workers share the file system that "
            "dataset_dir is on."
        )


def _without_partner(records: Sequence[Record], results: Mapping[str, list[dict] | str]) -> dict[str, str]:
    """Return why what is left of a pair is rejected as well: alone it would tilt the classes."""
    broken = {r.pair: r.image for r in records if r.pair and isinstance(results[r.name], str)}
    return {
        r.name: f"BadScan: {r.image}: the run that it is compared with, {broken[r.pair]}, was rejected."
        for r in records
        if r.pair in broken and not isinstance(results[r.name], str)
    }


def _placed(record: Record, written: list[dict] | str, windows: Windows | None) -> list[dict] | str:
    """Return the reason why a run's events have no place in it, or what was written of it."""
    if isinstance(written, str) or not record.events or windows is None:
        return written
    try:
        found = [windows.locate(record.events, w["frames"], w["repetition_time"], record.image) for w in written]
    except BadScan as error:
        return f"BadScan: {error}"
    return written if any(found) else f"BadScan: {record.image}: the run ends before any of its events' windows."


def _refuse_equal_names(records: Sequence[Record]) -> None:
    images: dict[str, str] = {}
    for record in records:
        if images.setdefault(record.name, record.image) != record.image:
            raise ValueError(f"{images[record.name]} and {record.image} are both called {record.name}: keep one of them.")


def _claim(run: Run) -> None:
    """Write which transforms the folder's images are made by, or refuse a folder made by others."""
    file = run.folder / "images" / "transforms.hash"
    if not file.exists():
        with written_whole(file) as temporary:
            temporary.write_text(run.recipe)
    elif file.read_text() != run.recipe:
        raise ValueError(f"{run.folder} was prepared by other transforms: give another --dataset_dir, or delete it.")


def _write_rejected(path: Path, records: Sequence[Record], reasons: Mapping[str, str]) -> None:
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "subject", "file", "reason"])
        for record in records:
            reason = re.sub(r"\s+", " ", reasons[record.name])
            writer.writerow([record.name, record.subject, record.image, reason])
            logger.warning(f"rejected {record.image} (subject {record.subject}): {reason}")
