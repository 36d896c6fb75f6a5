"""Covariates as columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["LABEL", "apply_coding", "check_covariates", "code_covariates", "code_labels", "covariate_levels", "pooled_coding"]

LABEL = "label"


def code_covariates(covariates: pd.DataFrame, subjects: Sequence[str]) -> pd.DataFrame:
    """Return numbers; a text column of two values becomes 0 and 1 and is renamed, such as ``sex`` to ``sex=M``.

    Raises:
        ValueError: a value is missing, infinite or, in a column of numbers, a text; or a text column has not two values.
    """
    return apply_coding(covariates, pooled_coding([covariate_levels(covariates, subjects)]))


def covariate_levels(covariates: pd.DataFrame, subjects: Sequence[str]) -> dict[str, list[str]]:
    """Return what a site must say of its covariates so that all code them alike: the values of a text column, none of numbers.

    Raises:
        ValueError: a value is missing or infinite, a column mixes numbers and texts, or has more than two texts.
    """
    if len(covariates) != len(subjects):
        raise ValueError(f"{len(covariates)} rows of covariates for {len(subjects)} subjects.")
    levels = {}
    for name in covariates.columns:
        column = covariates[name]
        missing = column.isna() | column.isin([np.inf, -np.inf, ""])
        if missing.any():
            raise ValueError(
                f"subject {subjects[int(missing.to_numpy().argmax())]} has no {name} ({int(missing.sum())} such subjects): "
                "complete the study's table, leave the subject out, or take the column out of the covariates."
            )
        levels[str(name)] = _levels(str(name), column)
    return levels


def check_covariates(datalist: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Raise before anything is trained what the fit would raise after it.

    Args:
        datalist: as :py:func:`custom.data.read_datalist` returns it.
        columns: the covariates.

    Raises:
        ValueError: no row has such a column, or as :py:func:`code_covariates`.
    """
    rows = pd.DataFrame(datalist["training"]).drop_duplicates("subject")
    unknown = [name for name in columns if name not in rows]
    if unknown:
        raise ValueError(
            f"no row of the datalist has the covariate {unknown[0]!r}, its columns are {', '.join(map(str, rows.columns))}: "
            "have read_study call it so, or name the covariates by --covariates."
        )
    code_covariates(rows[list(columns)], rows["subject"].tolist())


def pooled_coding(levels: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, str | None]:
    """Return per column the text that is coded as 1, or None for numbers, from the levels of every site.

    Raises:
        ValueError: a column is a number at one site and a text at another, or its texts are not two values.
    """
    coding: dict[str, str | None] = {}
    for name in levels[0]:
        values = sorted({value for site in levels for value in site[name]})
        if values and not all(site[name] for site in levels):
            raise ValueError(
                f"{name} is a number at some sites and a text such as {values[0]!r} at others: correct the tables."
            )
        if len(values) == 1:
            raise ValueError(f"{name} is {values[0]} for everybody: leave it out of the covariates.")
        _check_two(name, values)
        coding[name] = values[1] if values else None
    return coding


def apply_coding(covariates: pd.DataFrame, coding: Mapping[str, str | None]) -> pd.DataFrame:
    """Return the columns of a coding as numbers."""
    coded = {}
    for name, one in coding.items():
        column = covariates[name]
        key = name if one is None else f"{name}={one}"
        coded[key] = (pd.to_numeric(column) if one is None else column.map(str) == one).to_numpy(float)
    return pd.DataFrame(coded, index=range(len(covariates)))


def code_labels(labels: pd.Series) -> pd.DataFrame:
    """Return one column of 0 and 1 per class but the first: ``label`` of two, ``label=1``, ``label=2`` … of more.

    Raises:
        ValueError: there is a single class.
    """
    columns = pd.get_dummies(labels.to_numpy(), dtype=float).iloc[:, 1:]
    if columns.shape[1] == 0:
        raise ValueError(f"every label of the fit is {labels.iloc[0]}: fit without labels.")
    names = [LABEL] if columns.shape[1] == 1 else [f"{LABEL}={value}" for value in columns.columns]
    return columns.set_axis(names, axis=1)


def _levels(name: str, column: pd.Series) -> list[str]:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return []
    if numbers.notna().any():
        raise ValueError(f"{name} mixes numbers and texts such as {column[numbers.isna()].iloc[0]!r}: correct the table.")
    values = sorted(set(map(str, column)))
    _check_two(name, values)
    return values


def _check_two(name: str, values: Sequence[str]) -> None:
    if len(values) > 2:
        raise ValueError(f"{name} has the values {', '.join(values[:5])}: code texts other than of two values as numbers.")
