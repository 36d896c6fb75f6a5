"""``oasis_cross-sectional.csv`` and the copies of it that are about."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .bids_tables import refuse_long_lines
from .records import Column

__all__ = ["read_table"]

# columns that go into the datalist, under the names they get there. MMSE and the rest of the clinical examination are left
# out: they are nearly the label
COLUMNS = {"Age": "Age", "M/F": "Sex", "Educ": "Educ", "SES": "SES", "eTIV": "eTIV", "nWBV": "nWBV", "ASF": "ASF", "CDR": "CDR"}
REQUIRED = ("ID", "CDR")


def read_table(path: Path) -> dict[str, dict[str, Column]]:
    """Return session id → columns; a missing value is ``None``.

    Copies differ: a byte-order mark, columns in another order or absent, nWBV in thousandths (823 for 0.823).

    Raises:
        FileNotFoundError: if the table is absent.
        ValueError: if it is no table, a required column is absent, a session is listed twice, or a number is not one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the study's table {path} does not exist: put it there, or give --table.")
    try:
        frame = pd.read_csv(path, encoding="utf-8-sig", dtype=str, skipinitialspace=True)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table of comma-separated values ({error}): export it again.") from error
    refuse_long_lines(frame, path)
    frame = frame.rename(columns=str.strip).apply(lambda column: column.str.strip())
    absent = [c for c in REQUIRED if c not in frame]
    if absent:
        raise ValueError(f"{path} has no column {absent}; its columns are {list(frame.columns)}.")
    twice = frame["ID"][frame["ID"].duplicated()].tolist()
    if twice:
        raise ValueError(f"{path} lists {twice[0]} twice: keep one row per session.")
    present = {old: new for old, new in COLUMNS.items() if old in frame}
    columns = {new: _numbers(frame, old, path) if old != "M/F" else frame[old] for old, new in present.items()}
    if "nWBV" in columns:
        columns["nWBV"] = columns["nWBV"].where(columns["nWBV"] <= 1, columns["nWBV"] / 1000)
    table = pd.DataFrame(columns).astype(object)
    table = table.where(table.notna(), None)
    return dict(zip(frame["ID"], table.to_dict("records"), strict=True))


def _numbers(frame: pd.DataFrame, column: str, path: Path) -> pd.Series:
    values = frame[column].replace({"": None, "N/A": None, "NA": None})
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = frame["ID"][values.notna() & numbers.isna()].tolist()
    if wrong:
        raise ValueError(f"{path}: {column} of {wrong[0]} is {values[frame['ID'] == wrong[0]].iloc[0]!r}, not a number.")
    return numbers
