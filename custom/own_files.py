"""Read the small files that a run leaves for the next one: json, tables, tensors. A damaged one is an error that names it.

Tensors are loaded with ``weights_only=True``: what a checkpoint holds beside tensors and plain Python values, such as pickled
code, is refused and not executed.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .errors import DAMAGED_ARCHIVE

__all__ = ["NAMES", "load_tensors", "read_json", "read_table"]

# what torch.load makes of a damaged file
DAMAGED = (*DAMAGED_ARCHIVE, pickle.UnpicklingError, MemoryError, AttributeError, AssertionError)


NAMES = ("subject", "scan", "site", "baseline")  # 007 is no number


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """Return the content of a json file that holds an object.

    Raises:
        FileNotFoundError: if it is absent.
        ValueError: if it is damaged; names the file and what to do.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged (it holds a {type(content).__name__}): {remedy}")
    return content


def read_table(path: str | Path, remedy: str, columns: Collection[str] = (), names: Collection[str] = NAMES) -> pd.DataFrame:
    """Return a CSV whose numbers are those that were written to the last bit, and whose names are text.

    Args:
        path: of the file.
        remedy: what to do if it is damaged.
        columns: that it has to have.
        names: columns that are text.

    Raises:
        FileNotFoundError: if it is absent.
        ValueError: if it is damaged, or lacks one of the columns; names the file and what to do.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(names, str), float_precision="round_trip")
    except ValueError as error:  # pandas' own errors are such
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise ValueError(f"{path} is damaged (it has no column {lacking[0]}): {remedy}")
    return table


def load_tensors(path: str | Path, remedy: str, map_location: Any = "cpu") -> dict[str, Any]:
    """Return a dictionary of tensors and plain Python values that ``torch.save`` wrote.

    torch does not look at the checksums that its files (zip archives) hold, so a flipped bit would become another weight.

    Raises:
        FileNotFoundError: if the file is absent.
        ValueError: if it is damaged or holds other things; names the file and what to do.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: {remedy}")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()
            if broken:
                raise zipfile.BadZipFile(f"the checksum of {broken} is another")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is damaged, or holds something else than tensors (pickled code, say), which is not executed: {remedy}"
        ) from error
    except DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} is damaged, or no file of tensors ({reason}): {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__} where a dictionary of tensors is wanted: {remedy}")
    # another device has errors of its own, which are no damage: too little memory is a RuntimeError too
    return content if str(map_location) == "cpu" else torch.load(file, map_location=map_location, weights_only=True)
