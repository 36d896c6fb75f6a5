"""The three layouts in which Haxby's study is handed on: where its runs lie and where their labels stand.

``nilearn``
    ``subj1/bold.nii.gz``, all runs of a subject one after the other; ``subj1/labels.txt`` with the columns ``labels`` and
    ``chunks`` and a line per frame, run 1 is chunk 0; ``subj1/mask4_vt.nii.gz`` and others; ``mask.nii.gz`` beside
    the subjects.
``OpenfMRI``
    ``sub001/BOLD/task001_run001/bold.nii.gz`` with ``bold_events.tsv``, an event per block.
``BIDS``
    ds000105, an event per picture; the pictures of a block become one event.

Tables and headers are read, never voxels.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import nibabel as nib

from ..bids import ROOT, repetition_time
from ..errors import reading
from . import bids_task
from .bids_layout import timing
from .bids_tables import read_events, trials_of
from .records import Column, Event, Record

__all__ = ["CLASSES", "IMAGE", "REST", "Source", "blocks_of", "find_layout", "layouts_in", "number_of", "read_records"]

logger = logging.getLogger(__name__)

CLASSES = ("face", "house", "cat", "bottle", "scissors", "shoe", "chair", "scrambledpix")
REST = "rest"
IMAGE = "bold.nii.gz"
PAUSE = 2.5  # seconds, the study's TR: the pictures of a block come faster than that
LAYOUTS = {"nilearn": "subj*/*.nii*", "OpenfMRI": "sub*/BOLD/task*_run*", "BIDS": ROOT}  # a name in it gives a layout away


@dataclass(frozen=True)
class Source:
    """A study on disc, and how to read it.

    Args:
        layout: one of :py:data:`LAYOUTS`.
        root: the folder of its subjects.
        image: name of the images; those of BIDS have names of their own.
        mask: name of the brain masks, see :py:func:`read_records`.
        repetition_time: seconds, in place of what the headers say.
    """

    layout: str
    root: Path
    image: str = IMAGE
    mask: str | None = None
    repetition_time: float | None = None

    def __str__(self) -> str:
        return f"{self.root} ({self.layout} layout)"


def find_layout(folder: Path) -> tuple[str, Path]:
    """Return the layout of a folder, or of the one folder in it that has a layout, and that folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several.
    """
    below = sorted(place for place in folder.glob("*") if place.is_dir())
    found = layouts_in(folder) or [one for place in below for one in layouts_in(place)]
    if not found:
        raise FileNotFoundError(
            f"no study of Haxby in {folder} or in a folder of it, looked for {LAYOUTS}: give another --raw_dir, or fetch it by "
            "`python scripts/download.py haxby RAW_DIR`."
        )
    if len(found) > 1:
        told = ", ".join(f"{root} ({layout} layout)" for layout, root in found)
        raise ValueError(f"{folder} holds several: {told}. Give one of them as --raw_dir.")
    return found[0]


def layouts_in(folder: Path) -> list[tuple[str, Path]]:
    """Return the layouts of which a folder has a name."""
    return [(layout, folder) for layout, pattern in LAYOUTS.items() if next(folder.glob(pattern), None)]


def number_of(name: str) -> int:
    """Return the number at the end of ``subj1``, ``sub001``, ``sub-1`` or ``task001_run003``.

    Raises:
        ValueError: if there is none.
    """
    found = re.search(r"\d+$", name)
    if found is None:
        raise ValueError(f"'{name}' is no subject or run of Haxby's study, which have numbers: take it out of the folder.")
    return int(found[0])


def run_name(subject: int, run: int) -> str:
    """Return what a run is called in all layouts."""
    return f"sub-{subject}_run-{run:02d}"


def blocks_of(trials: Sequence[Event]) -> tuple[Event, ...]:
    """Join the trials of one kind that follow each other within less than a TR; events of no kind are no trials."""
    blocks: list[Event] = []
    for trial in trials:
        last = blocks[-1] if blocks else None
        if last and trial.columns and last.columns == trial.columns and trial.onset - last.onset - last.duration < PAUSE:
            blocks[-1] = replace(last, duration=trial.onset + trial.duration - last.onset)
        else:
            blocks.append(trial)
    return tuple(blocks)


def read_records(source: Source, dropped: Counter[str], labels_needed: bool = True) -> list[Record]:
    """Return the runs of a study with their labelled blocks, in order of subject and run; count what is left out.

    The mask is a file in the subject's folder, or else beside the subjects, with or without its ``.nii.gz``.

    Args:
        source: the study.
        dropped: reason → number, to be added to.
        labels_needed: whether a run without labels is an error; else it has no events.

    Raises:
        FileNotFoundError: if labels, images or the mask are absent.
        ValueError: for a damaged table or header, an unknown category, or labels of another length than the image.
    """
    read = {"nilearn": _read_nilearn, "OpenfMRI": _read_openfmri, "BIDS": _read_bids}[source.layout]
    return read(source, dropped, labels_needed)


def _read_nilearn(source: Source, dropped: Counter[str], labels_needed: bool) -> list[Record]:
    folders = [folder for folder in source.root.glob("subj*") if folder.is_dir()]
    return [
        record for folder in _with_image(folders, source, dropped) for record in _runs_of_file(folder, source, labels_needed)
    ]


def _runs_of_file(folder: Path, source: Source, labels_needed: bool) -> list[Record]:
    """Return the runs of a subject; without labels nothing says where one begins, and the file counts as a run."""
    image, table, subject = folder / source.image, folder / "labels.txt", number_of(folder.name)
    frames, tr = _frames(image, source.repetition_time)
    whole = Record(
        name=f"sub-{subject}",
        subject=f"sub-{subject}",
        image=str(image),
        columns={"dataset": source.root.name, "run": None, "tr": tr, "run_length": frames * tr},
        inputs=_mask(source, folder),
    )
    if not table.is_file() and not labels_needed:
        return [whole]
    runs = []
    for chunk, lines in groupby(enumerate(_read_labels(table, frames, image)), key=lambda line: line[1][1]):
        labels = [(frame, label) for frame, (label, _) in lines]
        start, stop = labels[0][0], labels[-1][0] + 1
        runs.append(
            replace(
                whole,
                name=run_name(subject, chunk + 1),
                columns={**whole.columns, "run": str(chunk + 1), "run_length": (stop - start) * tr},
                inputs={**whole.inputs, "frame_range": f"{start}:{stop}"},
                events=_blocks(labels, tr),
            )
        )
    return runs


def _frames(image: Path, stated: float | None) -> tuple[int, float]:
    """Return the number of frames of a file, and the seconds between two."""
    with reading(image, "no NIfTI", "fetch it again"):
        header = nib.load(image).header
    shape, seconds = header.get_data_shape(), stated or repetition_time(image, header)
    if len(shape) != 4:
        raise ValueError(f"{image} has shape {shape}, a run after the other (X, Y, Z, T) is wanted: fetch it again.")
    if not seconds:
        raise ValueError(f"{image}: its header does not say the time between two frames: give --repetition_time (2.5).")
    return shape[3], seconds


def _read_labels(table: Path, frames: int, image: Path) -> list[tuple[str, int]]:
    """Return category and chunk of every frame."""
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist, which says what {image} shows: fetch it again.")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is no text ({error}): fetch it again.") from error
    first, *lines = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    if first != ["labels", "chunks"]:
        raise ValueError(f"{table}: its first line is '{' '.join(first)}', 'labels chunks' is wanted: fetch it again.")
    for number, line in enumerate(lines, 2):
        if len(line) != 2 or not line[1].isdecimal():
            raise ValueError(f"{table}, line {number}: '{' '.join(line)}' is no category and number of a run: fetch it again.")
        if line[0] not in (*CLASSES, REST):
            raise ValueError(f"{table}, line {number}: unknown category '{line[0]}', known are {(*CLASSES, REST)}: correct it.")
    if len(lines) != frames:
        raise ValueError(f"{table} has labels of {len(lines)} frames, {image} has {frames}: fetch both again.")
    labels = [(label, int(chunk)) for label, chunk in lines]
    twice = [chunk for chunk, n in Counter(chunk for chunk, _ in groupby(c for _, c in labels)).items() if n > 1]
    if twice:
        raise ValueError(f"{table}: the frames of chunk {twice[0]} are not in a row: fetch it again.")
    return labels


def _blocks(labels: Sequence[tuple[int, str]], tr: float) -> tuple[Event, ...]:
    """Return the blocks of a run, of which frame (of the file) and category are given."""
    blocks = []
    for kind, members in groupby(labels, key=lambda line: line[1]):
        frames = [frame - labels[0][0] for frame, _ in members]
        if kind != REST:
            blocks.append(Event(frames[0] * tr, len(frames) * tr, CLASSES.index(kind), {"trial_type": kind}))
    return tuple(blocks)


def _read_openfmri(source: Source, dropped: Counter[str], labels_needed: bool) -> list[Record]:
    records = []
    for folder in _with_image(list(source.root.glob(LAYOUTS["OpenfMRI"])), source, dropped):
        image, table, person, run = folder / source.image, folder / "bold_events.tsv", folder.parents[1], number_of(folder.name)
        subject = number_of(person.name)
        records.append(
            Record(
                name=run_name(subject, run),
                subject=f"sub-{subject}",
                image=str(image),
                columns={"dataset": source.root.name, "run": str(run), **_timing(image, source.repetition_time)},
                inputs=_mask(source, person),
                events=_of_table(table, image) if labels_needed or table.is_file() else (),
            )
        )
    return records


def _timing(image: Path, stated: float | None) -> dict[str, Column]:
    """Return ``tr`` and ``run_length`` in seconds; a damaged image is warned of only, preparation will reject it."""
    known = timing(image)
    if stated is None:
        return known
    tr, length = known["tr"], known["run_length"]
    scaled = length * stated / tr if isinstance(length, float) and isinstance(tr, float) else None
    return {"tr": stated, "run_length": scaled}


def _of_table(table: Path, image: Path) -> tuple[Event, ...]:
    """Return the blocks of ``bold_events.tsv``."""
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist, which says what {image} shows: fetch it again.")
    trials = [trial for trial in trials_of(read_events(table)) if trial.columns["trial_type"] != REST]
    for trial in trials:
        kind = trial.columns["trial_type"]
        if kind not in CLASSES:
            known = (*CLASSES, REST)
            raise ValueError(f"{table}: unknown category '{kind}' at {trial.onset:g} s, known are {known}: correct it.")
    return blocks_of([replace(trial, label=CLASSES.index(str(trial.columns["trial_type"]))) for trial in trials])


def _with_image(folders: Sequence[Path], source: Source, dropped: Counter[str]) -> list[Path]:
    """Return the folders that hold an image, in order of their numbers; count the others."""
    ordered = sorted(folders, key=lambda folder: [number_of(p) for p in folder.relative_to(source.root).parts if p != "BOLD"])
    good = [folder for folder in ordered if (folder / source.image).is_file()]
    if not good:
        there = sorted({file.name for folder in ordered for file in folder.glob("*bold*.nii*")})
        raise FileNotFoundError(f"no {source.image} in the folders of {source}, which have {there}: give --image.")
    for folder in ordered:
        if folder not in good:
            reason = f"folder without {source.image}"
            logger.warning(f"{folder}: {reason}.")
            dropped[reason] += 1
    return good


def _mask(source: Source, person: Path) -> dict[str, str]:
    """Return ``{"mask": path}``, empty where none is asked for and nilearn's layout has none of its own."""
    if source.mask is None:
        own = source.root / "mask.nii.gz"
        return {"mask": str(own)} if source.layout == "nilearn" and own.is_file() else {}
    candidates = [place / f"{source.mask}{end}" for place in (person, source.root) for end in ("", ".nii.gz", ".nii")]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        there = sorted({str(file.relative_to(source.root)) for file in source.root.glob("*mask*/*.nii*")})
        there += sorted({file.name for place in (person, source.root) for file in place.glob("*mask*.nii*")})
        raise FileNotFoundError(f"no mask {source.mask} in {person} or {source.root}, which have {there}: correct --mask.")
    return {"mask": str(found)}


def _read_bids(source: Source, dropped: Counter[str], labels_needed: bool) -> list[Record]:
    if source.image != IMAGE:
        raise ValueError(f"{source}: its images are called *_bold.nii.gz: leave --image {source.image} out.")
    study = bids_task.read_study(str(source.root), "trial_type", {name: [name] for name in CLASSES}, ignored=(REST,))
    dropped.update(study.dropped)
    return [_of_bids(record, source) for record in study.records]


def _of_bids(record: Record, source: Source) -> Record:
    """Bring a record of ds000105 to what the other layouts give."""
    if record.columns["run"] is None:
        raise ValueError(f"{record.image} has no run-<number> in its name, which tells the runs apart: rename it.")
    subject = number_of(record.subject)
    columns = {key: value for key, value in record.columns.items() if key not in ("session", "task")}
    return replace(
        record,
        name=run_name(subject, int(record.columns["run"])),
        subject=f"sub-{subject}",
        columns={**columns, **_timing(Path(record.image), source.repetition_time)},
        inputs={**record.inputs, **_mask(source, source.root / record.subject)},
        events=blocks_of(record.events),
    )
