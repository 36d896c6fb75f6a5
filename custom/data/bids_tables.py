"""Tables of a BIDS dataset: ``events.tsv`` → the trials of a run, ``participants.tsv`` → the columns of a subject.

Every cell is read as text first; a missing value is ``n/a``.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .records import Column, Event

__all__ = ["MISSING", "code_of", "read_events", "read_participants", "trials_of"]

MISSING = "n/a"
REQUIRED = ("onset", "duration", "trial_type")
SEX = {"m": "M", "male": "M", "f": "F", "female": "F"}


def code_of(value: object) -> str:
    """Return how a trial type is written here: whole numbers without zeros around them, ``3.0`` and ``03`` as ``3``."""
    text = str(value).strip()
    return str(int(float(text))) if re.fullmatch(r"-?\d+(\.0*)?", text) else text


def read_events(path: str | Path) -> pd.DataFrame:
    """Return the trials of a run in order of onset.

    Rows whose ``trial_type`` is ``n/a`` are no trials and are left out: those of ds000002 are the trials of the baseline task,
    which have no duration either.

    Returns:
        ``onset`` and ``duration`` in seconds, ``trial_type`` as of :py:func:`code_of`, the other columns as text.

    Raises:
        ValueError: naming file and line, for a missing column, an onset or duration that is no number of seconds (``n/a`` is
            none), a negative duration, or an empty trial type; BIDS writes a missing one as ``n/a``.
    """
    file = Path(path)
    table = _read_texts(file)
    absent = [column for column in REQUIRED if column not in table]
    if absent:
        raise ValueError(f"{file} has no column {absent}; its columns are {list(table.columns)}.")
    empty = table.index[table["trial_type"] == ""]
    if len(empty):
        raise ValueError(f"{file}, line {empty[0]}: trial_type is empty: name it, or write {MISSING}.")
    trials = table[table["trial_type"] != MISSING].copy()
    trials["onset"] = _seconds(trials["onset"], file)
    trials["duration"] = _seconds(trials["duration"], file)
    negative = trials.index[trials["duration"] < 0]
    if len(negative):
        raise ValueError(f"{file}, line {negative[0]}: the duration is {trials['duration'][negative[0]]:g} s: correct it.")
    trials["trial_type"] = trials["trial_type"].map(code_of)
    return trials.sort_values("onset", kind="stable", ignore_index=True)


def trials_of(table: pd.DataFrame) -> list[Event]:
    """Return the rows of :py:func:`read_events` as events without labels."""
    columns = (table[name].tolist() for name in REQUIRED)
    return [Event(onset, duration, None, {"trial_type": kind}) for onset, duration, kind in zip(*columns, strict=True)]


def read_participants(path: str | Path) -> dict[str, dict[str, Column]]:
    """Return subject (``sub-01``) → its columns; a missing value is ``None``, sex "M" or "F" where the table knows it.

    A column of which every value is a number holds numbers.

    Raises:
        ValueError: naming the table, if it has no ``participant_id``, lists one twice, or an age is no number.
    """
    file = Path(path)
    table = _read_texts(file)
    if "participant_id" not in table:
        raise ValueError(f"{file} has no column participant_id; its columns are {list(table.columns)}.")
    subjects = "sub-" + table.pop("participant_id").str.removeprefix("sub-")
    if subjects.duplicated().any():
        raise ValueError(f"{file} lists {subjects[subjects.duplicated()].iloc[0]} twice: keep one row per subject.")
    values = table.mask(table.isin(["", MISSING]))
    if "sex" in values:
        values["sex"] = values["sex"].map(lambda sex: SEX.get(str(sex).lower(), sex))
    columns: dict[str, list[Any]] = {}
    for name in map(str, values):
        column, known = values[name], values[name].notna()
        numbers = pd.to_numeric(column, errors="coerce")
        wrong = column.index[known & numbers.isna()]
        if name == "age" and len(wrong):
            raise ValueError(f"{file}, line {wrong[0]}: the age of {subjects[wrong[0]]} is {column[wrong[0]]!r}, not a number.")
        columns[name] = (column if len(wrong) else numbers).astype(object).where(known, None).tolist()
    return {subject: {name: columns[name][row] for name in columns} for row, subject in enumerate(subjects)}


def _read_texts(file: Path) -> pd.DataFrame:
    """Return every cell as text without the blanks around it; the index is the line in the file, the names' line is 1."""
    try:
        table = pd.read_csv(
            file,
            sep="\t",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            quoting=csv.QUOTE_NONE,
            skip_blank_lines=False,
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no table of tab-separated values ({error}): export it again.") from error
    refuse_long_lines(table, file)
    table.index += 2
    table = table.fillna("").rename(columns=str.strip).apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)]


def refuse_long_lines(table: pd.DataFrame, file: Path) -> None:
    """Raise ValueError if lines have more cells than the first has names: pandas takes their first cells for row names."""
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{file}: lines have more cells than the first has names ({list(table.columns)}): correct it.")


def _seconds(texts: pd.Series, file: Path) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = texts.index[~np.isfinite(numbers)]
    if len(wrong):
        raise ValueError(f"{file}, line {wrong[0]}: {texts.name} is {texts[wrong[0]]!r}, seconds are wanted: correct it.")
    return numbers.astype(float)
