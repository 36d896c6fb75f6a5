"""Phenotypic tables of ABIDE I and II → one row per subject, under the same names.

ABIDE I is UTF-8, ABIDE II latin-1 with a trailing blank in ``AGE_AT_SCAN ``. A missing value is ``-9999`` or empty. Sites are
kept as the table names them: UM_1 and UM_2 are two scanners or two protocols, so two sites.

References: Di Martino et al., The Autism Brain Imaging Data Exchange, Mol Psychiatry 19 (2014) 659-667; Enhancing studies of
the connectome in autism using ABIDE II, Sci Data 4 (2017) 170010.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from .bids_tables import refuse_long_lines

__all__ = ["QC", "read_phenotypes", "subject_of"]

# image quality of the functional scan, as the Preprocessed Connectomes Project measured it; mean_fd and *_fd are head motion
QC = (
    "func_efc",
    "func_fber",
    "func_fwhm",
    "func_dvars",
    "func_outlier",
    "func_quality",
    "func_mean_fd",
    "func_num_fd",
    "func_perc_fd",
    "func_gsr",
)
# name here → names in tables, the first that is there counts
NAMES = {
    "subject": ("SUB_ID", "subject"),
    "site": ("SITE_ID", "site"),
    "dx": ("DX_GROUP", "dx"),
    "age": ("AGE_AT_SCAN", "age"),
    "sex": ("SEX", "sex"),
    "file_id": ("FILE_ID", "file_id"),
}
MAX_AGE = 120  # years
NUMBERS = ("dx", "age", *QC)
SEX = {"1": "M", "2": "F", "M": "M", "F": "F"}
MISSING = ("", "-9999", "-9999.0", "NA", "N/A", "n/a", "NaN", "nan")
ABIDE_ID = re.compile(r"(?<!\d)0{0,2}(\d{5})(?!\d)")


def subject_of(name: str) -> str:
    """Return the subject of a file's or a table's name: ``50004``, ``0050004`` and ``Pitt_0050004_rest`` are ``0050004``.

    A name without exactly one ABIDE id stands for itself.
    """
    if name.isdecimal():
        return f"{int(name):07d}"
    ids = ABIDE_ID.findall(name)
    return f"{int(ids[0]):07d}" if len(ids) == 1 else name


def read_phenotypes(path: str | Path) -> pd.DataFrame:
    """Return the columns subject, site, dx, age, sex and file_id, and what the table has of :py:data:`QC`.

    Missing values are ``None``, and so is every value of a column that the table lacks; ``sex`` is "M" or "F".

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: naming the table and the subject, for a table without subjects, a subject listed twice, a number that is
            none, an age that nobody has, or a sex that is neither 1 nor 2; and for what is no CSV.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"the phenotypic table {file} does not exist: put it there, or give --table.")
    frame = _read_texts(file)
    sources = {new: next((old for old in names if old in frame), None) for new, names in NAMES.items()}
    sources |= {column: column for column in QC if column in frame}
    if sources["subject"] is None:
        raise ValueError(f"{file} has no column {' or '.join(NAMES['subject'])}; its columns are {list(frame.columns)}.")
    texts = pd.DataFrame({new: frame[old] if old else "" for new, old in sources.items()})
    texts["subject"] = texts["subject"].map(subject_of)
    _refuse_subjects(texts["subject"], file)
    table = texts.mask(texts.isin(MISSING))
    for column in table.columns.intersection(NUMBERS):
        table[column] = _numbers(table, column, file)
    _refuse_ages(table, file)
    table["sex"] = _sex(table, file)
    return table.astype(object).where(table.notna(), None)


def _read_texts(file: Path) -> pd.DataFrame:
    """Read every cell as text, without the blanks around it and without empty rows."""
    try:
        try:
            frame = pd.read_csv(file, encoding="utf-8-sig", dtype=str, keep_default_na=False)
        except UnicodeDecodeError:
            frame = pd.read_csv(file, encoding="latin-1", dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{file} is no table of comma-separated values ({error}): export it again.") from error
    refuse_long_lines(frame, file)
    frame = frame.rename(columns=str.strip).apply(lambda column: column.str.strip())
    return frame[(frame != "").any(axis=1)]


def _refuse_subjects(subjects: pd.Series, file: Path) -> None:
    if subjects.isin(MISSING).any():
        raise ValueError(f"{file}: row {int(subjects.isin(MISSING).to_numpy().argmax()) + 1} names no subject.")
    twice = subjects[subjects.duplicated()].tolist()
    if twice:
        raise ValueError(f"{file} lists subject {twice[0]} twice: keep one row per subject.")


def _numbers(table: pd.DataFrame, column: str, file: Path) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = table[table[column].notna() & numbers.isna()]
    if len(wrong):
        row = wrong.iloc[0]
        raise ValueError(f"{file}: {column} of subject {row['subject']} is {row[column]!r}, not a number.")
    return numbers


def _refuse_ages(table: pd.DataFrame, file: Path) -> None:
    """Raise for another code of a missing age than ABIDE's, such as 999: as a covariate it would outweigh everyone."""
    wrong = table[table["age"].notna() & ~table["age"].between(0, MAX_AGE, inclusive="right")]
    if len(wrong):
        row = wrong.iloc[0]
        raise ValueError(f"{file}: age of subject {row['subject']} is {row['age']:g} years; empty or -9999 is a missing one.")


def _sex(table: pd.DataFrame, file: Path) -> pd.Series:
    known = table["sex"].map(SEX)
    wrong = table[table["sex"].notna() & known.isna()]
    if len(wrong):
        row = wrong.iloc[0]
        raise ValueError(f"{file}: sex of subject {row['subject']} is {row['sex']!r}; 1 is male, 2 is female.")
    return known
