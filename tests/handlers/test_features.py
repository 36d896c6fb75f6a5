from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from torch import nn

from custom.handlers import FeatureTable

# two scans of one subject, one of the other; scan c is of another part
ROWS = [
    {"image": "a.nii", "subject": "0002", "label": 1, "site": "NYU", "age": 10.0},
    {"image": "b.nii", "subject": "0002", "label": 1, "site": "NYU", "age": 10.0},
    {"image": "c.nii", "subject": "0001", "label": 0, "site": "UM_1", "age": None},
]
DATALIST = {"training": ROWS[:2], "validation": [], "test": ROWS[2:]}
LAYER = nn.Linear(2, 2)


def item(image: str, value: float) -> dict[str, Any]:
    return {"image": MetaTensor(torch.full((1, 2), value), meta={"filename_or_obj": image})}


def run(path: Path, batches: list[list[dict]], datalist: dict = DATALIST, columns: tuple[str, ...] = ("site",)) -> FeatureTable:
    def step(engine: Engine, batch: list[dict]) -> None:
        LAYER(torch.cat([x["image"].as_tensor() for x in batch]))

    engine, table = Engine(step), FeatureTable(LAYER, str(path), datalist, columns)
    table.attach(engine)
    engine.run(batches)
    return table


def test_one_line_per_subject_with_the_mean_of_its_scans(tmp_path: Path):
    run(tmp_path / "f.csv", [[item("b.nii", 2.0), item("c.nii", 7.0)], [item("a.nii", 4.0)]])
    found = pd.read_csv(tmp_path / "f.csv", dtype={"subject": str})
    assert found.to_dict("list") == {
        "subject": ["0001", "0002"],
        "part": ["test", "training"],
        "label": [0, 1],
        "site": ["UM_1", "NYU"],
        "f0": [7.0, 3.0],
        "f1": [7.0, 3.0],
    }


def test_a_missing_covariate_stays_missing(tmp_path: Path):
    table = run(tmp_path / "f.csv", [[item("c.nii", 1.0), item("a.nii", 1.0)]], columns=("age",)).table
    assert np.isnan(table["age"][0])
    assert table["age"][1] == 10


def test_order_and_size_of_the_batches_do_not_matter(tmp_path: Path):
    items = [item("a.nii", 0.1), item("b.nii", 0.2), item("c.nii", 0.3)]
    one = run(tmp_path / "f.csv", [items]).table
    other = run(tmp_path / "f.csv", [[x] for x in reversed(items)]).table
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_nothing_stays_hooked(tmp_path: Path):
    run(tmp_path / "f.csv", [[item("a.nii", 1.0)]])
    assert not LAYER._forward_pre_hooks


def test_a_strange_scan_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"x\.nii is not in the datalist"):
        run(tmp_path / "f.csv", [[item("x.nii", 1.0)]])


def test_a_subject_of_two_sites_is_named(tmp_path: Path):
    datalist = {"training": [ROWS[0], ROWS[1] | {"site": "UCLA_1"}], "validation": [], "test": []}
    with pytest.raises(ValueError, match="subject 0002 has several values of 'site'"):
        run(tmp_path / "f.csv", [[item("a.nii", 1.0), item("b.nii", 1.0)]], datalist)
