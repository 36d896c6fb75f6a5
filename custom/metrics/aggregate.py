"""From rows (slices, planes, windows) to subjects: the rows of one unit vote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..own_files import NAMES, read_table

__all__ = ["probabilities", "probability_columns", "read_predictions", "subject_table"]

PREFIX = "p_"


def probability_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns ``p_<class name>``, in the order of the classes."""
    return [c for c in table.columns if c.startswith(PREFIX)]


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """Array of shape (n_units, n_classes), float64."""
    return table[probability_columns(table)].to_numpy(dtype=float)


def read_predictions(path: str | Path, unit: str = "subject") -> pd.DataFrame:
    """Read a predictions table; the identifiers stay text, so that subject ``0051`` does not become 51.

    Raises:
        ValueError: if it is damaged, or not of such units; names the file and what to do.
    """
    return read_table(path, "run the evaluation again.", columns=(unit,), names=(*NAMES, unit))


def subject_table(rows: pd.DataFrame, unit: str = "subject") -> pd.DataFrame:
    """Average the probabilities of each unit's rows: a soft vote in which every row counts the same.

    Args:
        rows: one line per image: the column ``unit``, ``p_<class>`` ... and ``label``, unless labels are unknown.
        unit: column that names what a label belongs to. Where it is not the subject, ``subject`` and ``scan`` are kept
            beside it.

    Returns:
        One line per unit, sorted: ``unit`` (``subject``, ``scan``), ``label``, ``predicted`` (class index), ``rows`` (how many
        voted), ``p_<class>`` ... ``label`` is empty (NaN) where the rows have none.

    Raises:
        ValueError: a unit has two labels, or a row's values are no probabilities; the message names the units.
    """
    _check_probabilities(rows, unit)
    rows = rows if "label" in rows else rows.assign(label=np.nan)
    keys = [unit, *(k for k in ("subject", "scan") if unit != "subject" and k != unit and k in rows)]
    groups = rows.groupby(unit, sort=True)
    for column in ("label", *keys[1:]):
        several = groups[column].nunique(dropna=False)
        if (several > 1).any():
            names = ", ".join(map(str, several.index[several > 1][:5]))
            raise ValueError(f"one {unit}, several values of {column!r}: {names}; correct the datalist, predict again")
    table = groups[probability_columns(rows)].mean()
    table.insert(0, "rows", groups.size())
    table.insert(0, "predicted", probabilities(table).argmax(1))
    table.insert(0, "label", groups["label"].first())
    for key in reversed(keys[1:]):
        table.insert(0, key, groups[key].first())
    if table["label"].notna().all():
        table["label"] = table["label"].astype(int)
    return table.reset_index()


def _check_probabilities(rows: pd.DataFrame, unit: str) -> None:
    missing = [c for c in [unit] if c not in rows] + ([] if probability_columns(rows) else [f"{PREFIX}<class name>"])
    if missing:
        raise ValueError(f"the predictions have no column {', '.join(missing)}; they have {', '.join(rows.columns)}")
    p = probabilities(rows)
    # NaN fails every comparison, so it is caught here too
    good = ((p >= -1e-6) & (p <= 1 + 1e-6)).all(1) & (np.abs(p.sum(1) - 1) < 1e-3)
    if not good.all():
        names = ", ".join(map(str, rows.loc[~good, unit].unique()[:5]))
        raise ValueError(
            f"NaN, or values that are no probabilities, for {unit} {names}; if these are logits, apply a softmax first"
        )
