"""Task runs of BIDS datasets: file names and tables → records whose events bear the labels.

``sub-01`` of two datasets are two people. ``run-1`` and ``run-01`` are one run. Events and repetition times are inherited, see
:py:mod:`custom.bids`. A damaged table stops the reading, since a trial that is left out or mislabelled in silence is worse; a
damaged image does not, preparation lists it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ..bids import applicable, entities, root_of, stem_of
from .bids_layout import Dataset, datasets_of, func_files, images_below, mask_of, name_of, timing
from .bids_tables import code_of, read_events, read_participants, trials_of
from .label_schemes import SCHEMES, NoStage, Run
from .records import Event, Record, Study

__all__ = ["list_scans", "read_study"]

logger = logging.getLogger(__name__)

# columns of a datalist's row that no participants.tsv may overwrite
TAKEN = (
    *("image", "label", "subject", "source", "inputs", "scan", "block", "onset", "duration", "start", "frames", "trial_type"),
    *("dataset", "session", "run", "task", "tr", "run_length", "mask", "events", "report"),
)

Codes = Sequence[str | int | float]


def read_study(
    raw_dir: str,
    scheme: str,
    classes: Mapping[str, Codes],
    ignored: Codes = (),
    tasks: Sequence[str] | None = None,
    derivatives: str | None = None,
    space: str | None = None,
) -> Study:
    """Return the runs of a raw study with their labelled events.

    A run that is not used is counted in ``dropped`` by reason. The columns of a record are dataset, session, run, task, ``tr``
    and ``run_length`` in seconds, and what ``participants.tsv`` says of the subject.

    Args:
        raw_dir: a BIDS dataset, or a folder of several.
        scheme: what the label is, one of :py:data:`~custom.data.label_schemes.SCHEMES`.
        classes: class name → its codes in the scheme, ``{"left leg": [3], "right leg": [4]}``.
        ignored: codes that are known; the events of those which no class names are left out.
        tasks: use these only, named as in the files.
        derivatives: folder of fMRIPrep's images, which stand in for the raw ones, with their brain masks; of several datasets a
            folder of such folders, each named as its dataset. Events and participants stay those of the raw dataset.
        space: of fMRIPrep's images, ``MNI152NLin2009cAsym``; None takes those in the scanner's own.

    Raises:
        FileNotFoundError: if there is no dataset, or no run that can be used.
        ValueError: for a damaged table, a code that is neither in a class nor ignored, a class without events, or two files of
            one run.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme '{scheme}' is not one of {', '.join(SCHEMES)}.")
    root = Path(raw_dir).absolute()  # the datalist keeps the scans' paths, whoever reads it from wherever
    label_of = _label_of(classes, ignored)
    dropped: Counter[str] = Counter()
    datasets = datasets_of(root, derivatives)
    found = [pair for dataset in datasets for pair in _runs(dataset, space, tasks, dropped)]
    _refuse_equal_names([record for _, record in found])
    _refuse_absent_tasks(tasks, {run.task for run, _ in found}, root)
    codes = SCHEMES[scheme]([run for run, _ in found])
    pairs = zip(found, codes, strict=True)
    labelled = [_labelled(run, record, of_run, label_of, scheme, dropped) for (run, record), of_run in pairs]
    records = _same_columns([record for record in labelled if record.events])
    if not records:
        raise FileNotFoundError(
            f"no run with events of a class in {root}; reasons: {dict(dropped) or 'no *_bold.nii.gz'}. Give --raw_dir a BIDS "
            "dataset whose images are there, or a folder of several, or another scheme."
        )
    _refuse_empty_classes(records, classes, scheme)
    logger.info(f"{sum(len(r.events) for r in records)} labelled events in {len(records)} runs, dropped: {dict(dropped)}.")
    places = {place for dataset in datasets for place in (root, dataset.root, dataset.root.parent)}
    return Study(
        name=f"{', '.join(dataset.root.name for dataset in datasets)} ({scheme})",
        records=records,
        class_names=list(classes),
        dropped=dict(dropped),
        synthetic=any((place / "SYNTHETIC").is_file() for place in places),
    )


def list_scans(
    path: str,
    classes: Mapping[str, Codes] | None = None,
    ignored: Codes = (),
    every: float | None = None,
    events_dir: str | None = None,
    space: str | None = None,
) -> list[dict]:
    """Return image, subject, scan, events and, where it is there, mask of one run, or of every run below a folder.

    Args:
        path: a run of any name, a BIDS dataset, a folder of several, or any folder of ``*_bold.nii.gz``.
        classes: class name → its trial types, as in :py:func:`read_study`; None where trial types are no classes.
        ignored: trial types; the events of those which no class names are left out.
        every: seconds; a run without an events file is cut into events of that length.
        events_dir: the raw dataset that holds the events of preprocessed runs.
        space: of the images to take from a folder of fMRIPrep.

    Returns:
        Dictionaries whose ``events`` are without labels; ``scan`` is unique.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: for a damaged table, two files of one run, a trial type of no class that is not ignored, or a run without
            events whose length or ``every`` is not known.
    """
    if every is not None and every <= 0:
        raise ValueError(f"every is {every} s: the length of an event is above 0.")
    place = Path(path).absolute()
    images = [place] if place.is_file() else [i for i in images_below(place) if space in (None, entities(i).get("space"))]
    if not images:
        raise FileNotFoundError(f"no run (*_bold.nii.gz, *_bold.nii) at {place}: give --dataset_dir one.")
    several = len({root_of(image) for image in images}) > 1
    raw = Path(events_dir).absolute() if events_dir else None
    label_of = _label_of(classes or {}, ignored)
    records = [
        replace(_unlabelled(i, several, raw), events=_to_predict(i, raw, label_of, every, bool(classes))) for i in images
    ]
    _refuse_equal_names(records)
    return [{"image": r.image, "subject": r.subject, "scan": r.name, **r.inputs, "events": r.events} for r in records]


def _label_of(classes: Mapping[str, Codes], ignored: Codes) -> dict[str, int | None]:
    """Return code → class index, ``None`` for an ignored one."""
    label_of: dict[str, int | None] = {}
    for label, codes in enumerate(classes.values()):
        for code in map(code_of, codes):
            if code in label_of:
                raise ValueError(f"the code '{code}' stands twice in classes {dict(classes)}.")
            label_of[code] = label
    return {**{code_of(code): None for code in ignored}, **label_of}


def _runs(
    dataset: Dataset, space: str | None, tasks: Collection[str] | None, dropped: Counter[str]
) -> Iterator[tuple[Run, Record]]:
    """Yield the runs that have an image and events; count the others."""
    participants = dataset.root / "participants.tsv"
    known = read_participants(participants) if participants.is_file() else {}
    used, subjects = set(), set()
    for image in dataset.images(space):
        parts = entities(image)
        events = next(applicable(image, "events.tsv", dataset.raw_folder(image)), None)
        used.add(events)
        reason = _why_not(image, parts.get("task"), tasks) or ("BOLD run without events.tsv" if events is None else "")
        if reason or events is None:
            logger.warning(f"{image}: {reason}.")
            dropped[reason] += 1
            continue
        subject = f"sub-{parts['sub']}"
        subjects.add(subject)
        run = Run(
            dataset.prefix + subject, parts.get("ses"), str(parts["task"]), parts.get("run"), str(events), read_events(events)
        )
        columns = {"dataset": dataset.root.name, "session": run.session, "run": run.run, "task": run.task, **timing(image)}
        person = {f"participant_{name}" if name in TAKEN else name: value for name, value in known.get(subject, {}).items()}
        yield run, Record(name_of(dataset.root, parts), run.subject, str(image), None, {**columns, **person}, mask_of(image))
    for subject in sorted(subjects - set(known)) if known else []:
        logger.warning(f"{participants} has no {subject}: that subject's age, sex and what else it tells are missing.")
    for file in func_files(dataset.root, "events", "tsv"):
        if file not in used and (tasks is None or entities(file).get("task") in tasks):
            logger.warning(f"{file}: events without a BOLD run.")
            dropped["events without a BOLD run"] += 1


def _why_not(image: Path, task: str | None, tasks: Collection[str] | None) -> str:
    """Return why a run is not used, by its name and whether its content is there."""
    if task is None:
        return "BOLD run without task-<label> in its name"
    if tasks is not None and task not in tasks:
        return f"task {task} is not among the tasks asked for"
    return "" if image.is_file() else "BOLD run whose content was not fetched (a link of git-annex that leads nowhere)"


def _labelled(
    run: Run, record: Record, codes: list[str] | NoStage, label_of: Mapping[str, int | None], scheme: str, dropped: Counter[str]
) -> Record:
    """Give the record those events of the run that are of a class."""
    if isinstance(codes, NoStage):
        dropped[f"no stage in scheme {scheme}: {codes.reason}"] += 1
        return record
    events = [
        replace(trial, label=_label(code, trial, run, label_of, scheme))
        for code, trial in zip(codes, trials_of(run.events), strict=True)
    ]
    used = tuple(event for event in events if event.label is not None)
    twice = [one for one, other in pairwise(used) if one.onset == other.onset]
    if twice:
        raise ValueError(f"{run.file}: two events begin at {twice[0].onset:g} s: correct the table, a window has one label.")
    if not used:
        dropped["no event of any class"] += 1
    pair = f"{run.subject} {run.session} {run.task}" if scheme == "early_late" else None
    return replace(record, events=used, pair=pair)


def _label(code: str, trial: Event, run: Run, label_of: Mapping[str, int | None], scheme: str) -> int | None:
    if code not in label_of:
        raise ValueError(
            f"{run.file}: the event at {trial.onset:g} s has the code '{code}' in scheme {scheme}, the known codes are "
            f"{list(label_of)}: put it into a class or into ignored."
        )
    return label_of[code]


def _same_columns(records: Sequence[Record]) -> list[Record]:
    """Give every record the columns of all: not every dataset tells the age, not every subject is in the table."""
    names = dict.fromkeys(name for record in records for name in record.columns)
    return [replace(record, columns={**names, **record.columns}) for record in records]


def _refuse_equal_names(records: Sequence[Record]) -> None:
    files: dict[str, str] = {}
    for record in records:
        if files.setdefault(record.name, record.image) != record.image:
            raise ValueError(f"{files[record.name]} and {record.image} are both of the run {record.name}: keep one of them.")


def _refuse_absent_tasks(tasks: Sequence[str] | None, found: Collection[str], root: Path) -> None:
    absent = sorted(set(tasks or ()) - set(found))
    if absent and found:
        raise ValueError(f"{root} has no run with events of the task '{absent[0]}', only of {sorted(found)}.")


def _refuse_empty_classes(records: Sequence[Record], classes: Mapping[str, Codes], scheme: str) -> None:
    seen = {event.label for record in records for event in record.events}
    for label, (name, codes) in enumerate(classes.items()):
        if label not in seen:
            raise ValueError(f"no event has a code of class '{name}', {list(codes)}, in scheme {scheme}: correct the classes.")


def _unlabelled(image: Path, several: bool, raw: Path | None) -> Record:
    root, parts = raw or root_of(image), entities(image)
    subject = f"sub-{parts['sub']}" if parts.get("sub") else stem_of(image)
    name = name_of(root, parts) if parts.get("sub") and parts.get("task") else stem_of(image)
    return Record(name, f"{root.name}_{subject}" if several and root else subject, str(image), inputs=mask_of(image))


def _to_predict(
    image: Path, raw: Path | None, label_of: Mapping[str, int | None], every: float | None, known_only: bool
) -> tuple[Event, ...]:
    """Return the events of the run's file, or pieces of the run."""
    events = next(applicable(image, "events.tsv", _mirrored(image, raw) if raw else None), None)
    if events is not None:
        trials = [(str(trial.columns["trial_type"]), trial) for trial in trials_of(read_events(events))]
        strange = [code for code, _ in trials if known_only and code not in label_of]
        if strange:
            raise ValueError(
                f"{events}: the trial type '{strange[0]}' is of no class: name it in --scans::ignored, as in "
                f"preparation; known are {list(label_of)}."
            )
        return tuple(trial for code, trial in trials if label_of.get(code, 0) is not None)
    if every is None:
        raise ValueError(
            f"{image} has no events.tsv: give --scans::every, the seconds of the pieces to cut it into, or --scans::events_dir."
        )
    length = timing(image)["run_length"]
    if not isinstance(length, float):
        raise ValueError(f"{image}: how long it is cannot be told: put RepetitionTime into a BIDS json beside it.")
    return tuple(Event(number * every, every) for number in range(math.ceil(round(length / every, 6))))


def _mirrored(image: Path, raw: Path) -> Path:
    root = root_of(image)
    return raw / image.parent.relative_to(root) if root else raw
