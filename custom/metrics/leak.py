"""Leak detector: with permuted labels an honest evaluation scores chance (Ojala & Garriga 2010).

Labels are permuted at the level at which they were assigned, over training, validation and test together. A score above
chance then means that the split lets the network recognise a unit rather than its class.
"""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np

from ..data.splits import PARTS

__all__ = ["permute_labels"]


def permute_labels(datalist: dict, seed: int, unit: str = "subject", within: str | None = None) -> dict:
    """Permute labels among units; all rows of a unit keep one label.

    Args:
        datalist: MONAI datalist with ``training``, ``validation`` and ``test``; it is not changed.
        seed: of the permutation, recorded as ``datalist["permuted"]``.
        unit: column that names what a label was assigned to.
        within: permute only among units that share this column's value, e.g. the run of a block.

    Returns:
        A copy with permuted labels; how often each label occurs among the units (of a group) is unchanged.

    Raises:
        ValueError: a unit has several labels or several values of ``within``, or a row lacks one of the columns.
    """
    permuted = copy.deepcopy(datalist)
    rows = [row for part in PARTS for row in permuted.get(part, [])]
    label = _one_value(rows, unit, "label")
    group = _one_value(rows, unit, within) if within else dict.fromkeys(label)
    members = defaultdict(list)
    for name in sorted(label, key=str):
        members[group[name]].append(name)
    rng = np.random.default_rng(seed)
    new: dict = {}
    for names in (members[g] for g in sorted(members, key=str)):
        new |= zip(names, [label[names[i]] for i in rng.permutation(len(names))], strict=True)
    for row in rows:
        row["label"] = new[row[unit]]
    return permuted | {"permuted": seed}


def _one_value(rows: list[dict], unit: str, column: str) -> dict:
    found: dict = {}
    for row in rows:
        if unit not in row or row.get(column) is None:
            raise ValueError(f"{row.get('image', row)}: no {unit!r} or {column!r}; prepare the study with this column")
        if found.setdefault(row[unit], row[column]) != row[column]:
            raise ValueError(f"{unit} {row[unit]} has several values of {column!r}: choose the unit that has one")
    return found
