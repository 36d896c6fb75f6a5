"""What a baseline sees of a unit (subject): columns of the datalist, or coarse pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from ..own_files import read_table

__all__ = ["BlockMeans", "StoredFeatures", "Unavailable", "column_table", "feature_columns", "read_features"]

AGAIN = "run the training's stages again."

Units = Mapping[str, list[dict]]


class Unavailable(ValueError):
    """What the baseline is made of is not there for every unit (a column, frames): the report lists it with the reason."""


def column_table(units: Units, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of the datalist, one line per unit.

    Numbers that differ between the rows of a unit (age and nWBV of a rescan) are averaged; text must not differ.

    Raises:
        Unavailable: no unit, or not every unit, has a value of a column.
        ValueError: a unit has several texts.
    """
    values = {c: {name: [r[c] for r in rows if _given(r.get(c))] for name, rows in units.items()} for c in columns}
    for column, found in values.items():
        empty = [name for name, v in found.items() if not v]
        if len(empty) == len(units):
            raise Unavailable(f"no row of the datalist has the column {column!r}")
        if empty:
            raise Unavailable(
                f"no {column!r} for {_some(empty)}: complete the study's table, or leave the column out of the baseline"
            )
    return pd.DataFrame({c: {k: _combine(k, c, v) for k, v in found.items()} for c, found in values.items()})


class BlockMeans:
    """The prepared images of a unit, reduced to ``size`` block means per axis and laid end to end.

    Args:
        size: blocks per axis.
        views: columns that say which view of the unit a row is (plane, slice). Rows of the same view (rescans) are
            averaged, different views are laid end to end in sorted order. Columns that the rows lack are ignored.
    """

    def __init__(self, size: int = 32, views: Sequence[str] = ("plane", "slice")) -> None:
        self.size, self.views = size, tuple(views)

    def __call__(self, rows: Sequence[dict]) -> dict[str, np.ndarray]:
        """Rows of one unit -> name of the view -> (size ** dimensions,) float32."""
        found: dict[str, list[np.ndarray]] = {}
        for row in rows:
            view = " ".join(f"{v} {row[v]}" for v in self.views if row.get(v) is not None)
            found.setdefault(view, []).append(_block_means(row["image"], self.size))
        return {view: np.mean(found[view], axis=0) for view in sorted(found)}

    def table(self, units: Units) -> np.ndarray:
        """Array of shape (n_units, n_views * size ** dimensions).

        Raises:
            ValueError: the units do not all have the same views.
        """
        views = {name: self(rows) for name, rows in units.items()}
        shapes = {name: {view: x.shape for view, x in found.items()} for name, found in views.items()}
        first, expected = next(iter(shapes.items()))
        odd = [name for name, found in shapes.items() if found != expected]
        if odd:
            raise ValueError(
                f"{_some(odd)}: other views or image dimensions than {first}, which has {list(expected)}; "
                "prepare the same views of everyone, or name the columns of `views`"
            )
        return np.stack([np.concatenate(list(v.values())) for v in views.values()])


class StoredFeatures:
    """The features that a network computed for the subjects, from the tables that ``custom.handlers.FeatureTable`` wrote.

    Args:
        paths: of the tables; between them they hold every subject once.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)

    def __call__(self, units: Units) -> np.ndarray:
        """(n_units, n_features); raises ValueError for a damaged table, or a unit that none holds."""
        table = pd.concat([read_features(path) for path in self.paths]).set_index("subject")
        absent = [name for name in units if name not in table.index]
        if absent:
            raise ValueError(f"{_some(absent)}: no features in {', '.join(self.paths)}; run the training's stages again")
        return table.loc[list(units), feature_columns(table)].to_numpy()


def read_features(path: str | Path) -> pd.DataFrame:
    """Return a table that ``custom.handlers.FeatureTable`` wrote: a line per subject with ``f0``, ``f1`` ….

    Raises:
        ValueError: if it is damaged; names the file and what to do.
    """
    table = read_table(path, AGAIN, columns=("subject", "label", "f0"))
    features = table[feature_columns(table)]
    if table["subject"].isna().any() or not all(dtype.kind in "if" for dtype in features.dtypes):
        raise ValueError(f"{path} is damaged (a line without a subject, or what is no number among the features): {AGAIN}")
    return table


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns ``f0``, ``f1`` … in a table of features."""
    return [c for c in table.columns if c[:1] == "f" and c[1:].isdigit()]


def _block_means(path: str, size: int) -> np.ndarray:
    image = nib.Nifti1Image.from_filename(path).get_fdata(caching="unchanged", dtype=np.float32).squeeze()
    if image.ndim not in (2, 3) or not np.isfinite(image).all():
        raise ValueError(f"{path}: needs a finite 2D or 3D image, this one has shape {image.shape}; prepare it again")
    pool = adaptive_avg_pool2d if image.ndim == 2 else adaptive_avg_pool3d
    return pool(torch.from_numpy(np.ascontiguousarray(image))[None], size).flatten().numpy()


def _given(value: object) -> bool:
    return value is not None and value != "" and value == value  # NaN differs from itself


def _combine(unit: str, column: str, values: list) -> float | str:
    if not any(isinstance(v, str | bool) for v in values):
        return float(np.mean(values))
    if len(set(map(str, values))) > 1:
        raise ValueError(f"{unit} has several values of {column!r}, {sorted(set(map(str, values)))}: correct the table")
    return str(values[0])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
