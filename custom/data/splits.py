"""Training, validation and test parts that share no subject.

Each class is one way to split, named in the ``split`` block of a configuration. Its invariants, tested for all of them:
the parts are disjoint in ``group``; together they hold every record; the same seed gives the same parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from .records import Record

__all__ = ["PARTS", "HoldOut", "KFold", "LeaveOneGroupOut", "LeaveOneRunOut", "Split", "column_of"]

PARTS = ("training", "validation", "test")


class Split(Protocol):
    """A way to split records: ``parts`` returns the part of every record, ``describe`` says how for the datalist."""

    @property
    def group(self) -> str: ...

    def parts(self, records: Sequence[Record]) -> list[str]: ...

    def describe(self) -> dict[str, Any]: ...


def column_of(record: Record, name: str) -> Any:
    """Return ``record.subject``, ``record.label`` or a column of the study's table.

    Raises:
        ValueError: if the record lacks it: a split by a column that is not there would put strangers together.
    """
    value = getattr(record, name) if name in ("subject", "label") else record.columns.get(name)
    if value is None:
        raise ValueError(f"{record.image} (subject {record.subject}) has no '{name}', which the split needs.")
    return value


@dataclass(frozen=True)
class _ByGroup:
    """Grouped by one column and stratified by others (together), through scikit-learn's ``StratifiedGroupKFold``."""

    group: str = "subject"
    stratify: str | Sequence[str] = "label"
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        return {"method": type(self).__name__, **asdict(self)}

    def _fold(self, records: Sequence[Record], candidates: np.ndarray, n_splits: int, fold: int) -> np.ndarray:
        """Return the members of one fold of the candidates (indices into ``records``)."""
        groups = np.array([str(column_of(records[i], self.group)) for i in candidates])
        columns = [self.stratify] if isinstance(self.stratify, str) else self.stratify
        strata = np.array([" ".join(str(column_of(records[i], c)) for c in columns) for i in candidates])
        if len(set(groups)) < n_splits:
            raise ValueError(
                f"cannot make {n_splits} folds of {len(set(groups))} values of '{self.group}': "
                "lower n_splits, raise the fraction, or add data; of few subjects runs can be left out (leave_run_out.json)."
            )
        if max(Counter(strata).values()) < n_splits:
            raise ValueError(
                f"no value of {' and '.join(columns)} has {n_splits} scans, one per fold: stratify by less "
                "(--split::stratify label), lower n_splits or raise the fraction."
            )
        splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=self.seed)
        return candidates[list(splitter.split(candidates, strata, groups))[fold][1]]

    def _named(self, records: Sequence[Record], test: np.ndarray, validation_fraction: float) -> list[str]:
        """Take the validation part out of what is not test, and name the part of every record."""
        rest = np.setdiff1d(np.arange(len(records)), test)
        validation = self._fold(records, rest, _folds(validation_fraction), 0)
        names = np.full(len(records), "training", dtype=object)
        names[test], names[validation] = "test", "validation"
        return names.tolist()


def _folds(fraction: float) -> int:
    if not 0 < fraction <= 0.5:
        raise ValueError(f"a part of {fraction} of the subjects is not in (0, 0.5].")
    return round(1 / fraction)


@dataclass(frozen=True)
class HoldOut(_ByGroup):
    """One test part and one validation part of about the given fractions.

    Args:
        test: fraction of the groups in the test part.
        validation: fraction of the *remaining* groups in the validation part.
    """

    test: float = 0.2
    validation: float = 0.2

    def parts(self, records: Sequence[Record]) -> list[str]:
        test = self._fold(records, np.arange(len(records)), _folds(self.test), 0)
        return self._named(records, test, self.validation)


@dataclass(frozen=True)
class KFold(_ByGroup):
    """Fold ``fold`` of ``n_splits`` is the test part; the others hold the validation part.

    Args:
        n_splits: number of folds.
        fold: which one is tested, from 0.
        validation: fraction of the groups outside the test fold in the validation part.
    """

    n_splits: int = 5
    fold: int = 0
    validation: float = 0.2

    def parts(self, records: Sequence[Record]) -> list[str]:
        if not 0 <= self.fold < self.n_splits:
            raise ValueError(f"fold {self.fold} is not one of 0 … {self.n_splits - 1}.")
        test = self._fold(records, np.arange(len(records)), self.n_splits, self.fold)
        return self._named(records, test, self.validation)


@dataclass(frozen=True)
class LeaveOneGroupOut(_ByGroup):
    """Everything with one value of a column (a site, a dataset, a run) is the test part.

    Args:
        column: the column left out by.
        held_out: its value in the test part.
        validation: fraction of the remaining groups in the validation part.
    """

    column: str = "site"
    held_out: str | int = ""
    validation: float = 0.2

    def parts(self, records: Sequence[Record]) -> list[str]:
        values = np.array([str(column_of(r, self.column)) for r in records])
        test = np.flatnonzero(values == str(self.held_out))
        if len(test) in (0, len(records)):
            raise ValueError(
                f"'{self.column}' is {self.held_out!r} for {len(test)} of {len(records)} scans, so nothing can be left "
                f"out: give one of {sorted(set(values))}, by leave_…_out.json with --held_out_…"
            )
        return self._named(records, test, self.validation)


@dataclass(frozen=True)
class LeaveOneRunOut(_ByGroup):
    """Within subjects: one run of every subject is the test part, another one the validation part, the rest trains.

    The question is another one than with subjects left out: how well the model does on further runs of people whom it knows.
    Runs, not frames, are kept apart, since neighbouring frames are nearly the same frame.

    Args:
        column: what tells the runs of a subject apart.
        held_out: its value in the test part.
        validation: its value in the validation part; None takes the value that follows ``held_out`` in sorted order, and after
            the last one the first.
    """

    group: str = "scan"
    column: str = "run"
    held_out: str | int = ""
    validation: str | int | None = None
    within_subjects: bool = True

    def parts(self, records: Sequence[Record]) -> list[str]:
        values = [str(column_of(r, self.column)) for r in records]
        known = sorted(set(values), key=lambda v: (len(v), v))  # run 10 comes after run 9
        test = str(self.held_out)
        if test not in known or len(known) < 3:
            raise ValueError(
                f"'{self.column}' {test!r} cannot be left out: its values are {known} (--held_out_{self.column}), and "
                "training, validation and test need one each."
            )
        validation = known[(known.index(test) + 1) % len(known)] if self.validation is None else str(self.validation)
        if validation not in known or validation == test:
            raise ValueError(f"'{self.column}' {validation!r} cannot validate: the values are {known}, {test!r} is the test.")
        return [{test: "test", validation: "validation"}.get(v, "training") for v in values]
