"""What a study module says about a study before any voxel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Column", "Event", "Record", "Study"]

Column = str | int | float | None


@dataclass(frozen=True)
class Event:
    """Something that happened in a run: a trial, a block.

    Args:
        onset: seconds after the run's first frame.
        duration: seconds.
        label: index into ``Study.class_names``, ``None`` where there is no label (inference).
        columns: what the events file says beside: trial_type, …
    """

    onset: float
    duration: float
    label: int | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One scan.

    Args:
        name: unique in the study and fit for a file name.
        subject: the person; all scans of a person share it.
        image: path of the scan.
        label: index into ``Study.class_names``, ``None`` where there is no label (inference).
        columns: what the study's table says beside the label: session, site, age, …; ``None`` is a missing value.
        inputs: further files of the scan by key, handed to the transforms beside ``image``: ``{"mask": path}``.
        events: of a run whose windows are labelled one by one, in order of onset; then ``label`` stays ``None``. The transforms
            get them as ``events``.
        pair: name shared by records of which either all or none count, such as the early and the late run of a subject.
    """

    name: str
    subject: str
    image: str
    label: int | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[Event] = ()
    pair: str | None = None


@dataclass(frozen=True)
class Study:
    """The scans of a study, and what was left out of it.

    Args:
        name: of the study, as the report prints it.
        records: the scans, in a fixed order.
        class_names: one name per class index.
        dropped: reason → number of scans that the raw study holds and ``records`` does not.
        synthetic: whether a phantom generator wrote the study.
        subjects_known: ``False`` where the files bear no subject and near-duplicates stand in for one.
    """

    name: str
    records: list[Record]
    class_names: list[str]
    dropped: Mapping[str, int] = field(default_factory=dict)
    synthetic: bool = False
    subjects_known: bool = True
