"""Covariates as columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["LABEL", "code_covariates", "code_labels"]

LABEL = "label"


def code_covariates(covariates: pd.DataFrame, subjects: Sequence[str]) -> pd.DataFrame:
    """Return numbers; a text column of two values becomes 0 and 1 and is renamed, such as ``sex`` to ``sex=M``.

    Raises:
        ValueError: a value is missing, infinite or, in a column of numbers, a text; or a text column has not two values.
    """
    if len(covariates) != len(subjects):
        raise ValueError(f"{len(covariates)} rows of covariates for {len(subjects)} subjects.")
    coded = {}
    for name in covariates.columns:
        column = covariates[name]
        missing = column.isna() | column.isin([np.inf, -np.inf, ""])
        if missing.any():
            raise ValueError(
                f"subject {subjects[int(missing.to_numpy().argmax())]} has no {name} ({int(missing.sum())} such subjects): "
                "complete the study's table, leave the subject out, or take the column out of the covariates."
            )
        key, values = _coded(str(name), column)
        coded[key] = values
    return pd.DataFrame(coded, index=range(len(subjects)))


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


def _coded(name: str, column: pd.Series) -> tuple[str, np.ndarray]:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return name, numbers.to_numpy(float)
    if numbers.notna().any():
        raise ValueError(f"{name} mixes numbers and texts such as {column[numbers.isna()].iloc[0]!r}: correct the table.")
    values = sorted(set(map(str, column)))
    if len(values) == 1:
        raise ValueError(f"{name} is {values[0]} for everybody: leave it out of the covariates.")
    if len(values) != 2:
        raise ValueError(f"{name} has the values {', '.join(values[:5])}: code texts other than of two values as numbers.")
    return f"{name}={values[1]}", (column.map(str) == values[1]).to_numpy(float)
