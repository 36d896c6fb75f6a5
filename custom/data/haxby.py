"""Haxby's study of eight kinds of objects: which frames of which file show what.

It is read in three layouts, see :py:mod:`custom.data.haxby_layouts`. The labels of nilearn's and of OpenfMRI's old one are
aligned with the response: ``shift`` of :py:class:`~custom.data.windows.Windows` is 0. The onsets of ds000105 in BIDS are those
of the stimuli, and the response follows some 5 s later: there ``shift`` has to say so.

In all of them subjects are called ``sub-1``, runs ``sub-1_run-01``; rest is no event. Of a file of several runs a record's
``inputs`` name the run's own, ``{"frame_range": "121:242"}``, which :py:class:`~custom.transforms.load_bold.LoadBOLDd` reads.

Reference: Haxby et al., Distributed and overlapping representations of faces and objects in ventral temporal cortex, Science
293 (2001) 2425-2430.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import bids_task
from .haxby_layouts import CLASSES, IMAGE, REST, Source, blocks_of, find_layout, layouts_in, number_of, read_records
from .records import Event, Record, Study

__all__ = ["CLASSES", "list_scans", "read_study"]

logger = logging.getLogger(__name__)

DEEPEST = 4  # a run of OpenfMRI's layout lies so many folders below the study's


def read_study(
    raw_dir: str,
    image: str = IMAGE,
    mask: str | None = None,
    subjects: Sequence[int | str] | int | str | None = None,
    repetition_time: float | None = None,
) -> Study:
    """Return the runs of the study with their blocks; the columns of a record are dataset, run and ``tr`` in seconds.

    A run without any block, such as the eighth of subject 5, is counted in ``dropped``; one that lacks a class is warned of.

    Args:
        raw_dir: a folder in one of the layouts, or the folder that holds it.
        image: name of the images, such as ``bold_1slice.nii.gz``; those of BIDS have names of their own.
        mask: of the brain, a file in the subject's folder or else beside the subjects: ``mask4_vt``, ``masks25mm/brain``.
            None takes ``mask.nii.gz`` beside the subjects of nilearn's layout; without any, preparation estimates one.
        subjects: use these only, ``[1, 2]`` or ``["sub-1"]``.
        repetition_time: seconds; takes precedence over what the headers say.

    Raises:
        FileNotFoundError: if the folder is in none of the layouts, or images, labels or the mask are absent.
        ValueError: if it is in several; for a damaged table, an unknown category, labels of another length than the image, a
            class without blocks, or a subject that is not there.
    """
    raw = Path(raw_dir).absolute()  # the datalist keeps the scans' paths, whoever reads it from wherever
    source = Source(*find_layout(raw), image, mask, repetition_time)
    dropped: Counter[str] = Counter()
    found = _of_subjects(read_records(source, dropped), subjects, source)
    records = [record for record in found if _has_blocks(record, dropped)]
    _refuse_absent_classes(records, source)
    logger.info(f"{source}: {sum(len(r.events) for r in records)} blocks in {len(records)} runs, dropped: {dict(dropped)}.")
    return Study(
        name=f"Haxby 2001 ({source.layout} layout)",
        records=records,
        class_names=list(CLASSES),
        dropped=dict(dropped),
        synthetic=any((place / "SYNTHETIC").is_file() for place in (source.root, source.root.parent)),
    )


def list_scans(
    path: str, image: str = IMAGE, mask: str | None = None, every: float | None = None, repetition_time: float | None = None
) -> list[dict]:
    """Return image, subject, scan, events and, where they are there, mask and frame_range of the runs at a path.

    Args:
        path: a study in one of the layouts, a folder or a run of it; or a run of any name, or any folder of ``*_bold.nii.gz``.
        image: as in :py:func:`read_study`, where ``path`` is a folder.
        mask: as in :py:func:`read_study`.
        every: seconds; a run without labels is cut into events of that length.
        repetition_time: as in :py:func:`read_study`.

    Returns:
        Dictionaries whose ``events`` are without labels; ``scan`` is unique.

    Raises:
        FileNotFoundError: if there is no run, or no such mask.
        ValueError: as :py:func:`read_study`; if a run has no labels and ``every`` is not given, or its length is not known.
    """
    if every is not None and every <= 0:
        raise ValueError(f"every is {every} s: the length of an event is above 0.")
    place = Path(path).absolute()
    layout, root = _layout_around(place)
    if layout in ("", "BIDS"):
        return _bids_scans(place, root, mask, every)
    source = Source(layout, root, place.name if place.is_file() else image, mask, repetition_time)
    records = [
        record
        for record in read_records(source, Counter(), labels_needed=False)
        if place in (Path(record.image), *Path(record.image).parents)
    ]
    if not records:
        raise FileNotFoundError(f"no run ({source.image}) at {place} of {source}: give another --dataset_dir, or --image.")
    return [_scan(record, every) for record in records]


def _of_subjects(records: Sequence[Record], subjects: Sequence[int | str] | int | str | None, source: Source) -> list[Record]:
    if subjects is None:
        return list(records)
    wanted = [subjects] if isinstance(subjects, (int, str)) else subjects  # one on the command line
    asked = {f"sub-{number_of(str(subject))}" for subject in wanted}
    known = {record.subject for record in records}
    if asked - known or not asked:
        raise ValueError(f"{source} has no {', '.join(sorted(asked - known))}, only {sorted(known)}: correct --subjects.")
    return [record for record in records if record.subject in asked]


def _has_blocks(record: Record, dropped: Counter[str]) -> bool:
    """Count a run without blocks, and warn of the classes that a run lacks."""
    shown = {event.label for event in record.events}
    absent = [name for label, name in enumerate(CLASSES) if label not in shown]
    if absent:
        logger.warning(f"{record.name} ({record.image}) has no block of {', '.join(absent)}.")
    dropped.update([] if shown else ["run without a block of any class"])
    return bool(shown)


def _refuse_absent_classes(records: Sequence[Record], source: Source) -> None:
    shown = {event.label for record in records for event in record.events}
    absent = [name for label, name in enumerate(CLASSES) if label not in shown]
    if absent:
        raise ValueError(f"{source} has no block of {', '.join(absent)}: its labels are incomplete, fetch it again.")


def _layout_around(place: Path) -> tuple[str, Path]:
    """Return the layout that a path is in, or that is in the path, and its folder; no layout is ``""``."""
    for root in (place, *place.parents[:DEEPEST]):
        inside = place.relative_to(root).parts[:1]
        for layout, folder in layouts_in(root):
            if layout == "BIDS" or not inside or inside[0].startswith("sub"):
                return layout, folder
    below = place.is_dir() and any(layouts_in(folder) for folder in place.glob("*"))
    return find_layout(place) if below else ("", place)


def _bids_scans(place: Path, root: Path, mask: str | None, every: float | None) -> list[dict]:
    """Return the runs of a dataset in BIDS, or of any folder, the pictures of a block joined to one event."""
    classes: Mapping[str, Sequence[str]] = {name: [name] for name in CLASSES}
    scans = bids_task.list_scans(str(place), classes, ignored=(REST,), every=every)
    given = {"mask": str(_existing(root / mask))} if mask else {}
    return [{**scan, **given, "events": blocks_of(scan["events"])} for scan in scans]


def _existing(mask: Path) -> Path:
    if not mask.is_file():
        raise FileNotFoundError(f"no mask {mask}: correct --mask.")
    return mask


def _scan(record: Record, every: float | None) -> dict:
    events = tuple(replace(event, label=None) for event in record.events) or _pieces(record, every)
    return {"image": record.image, "subject": record.subject, "scan": record.name, **record.inputs, "events": events}


def _pieces(record: Record, every: float | None) -> tuple[Event, ...]:
    """Cut a run without labels up; its last piece may end after it."""
    if every is None:
        raise ValueError(f"{record.image} has no labels: give --scans::every, the seconds of the pieces to cut it into.")
    length = record.columns["run_length"]
    if not isinstance(length, float):
        raise ValueError(f"{record.image}: how long it is cannot be told: put RepetitionTime into a json beside it.")
    return tuple(Event(number * every, every) for number in range(math.ceil(round(length / every, 6))))
