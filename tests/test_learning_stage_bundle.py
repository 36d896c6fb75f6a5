"""What is particular to the learning stage bundle: label schemes, datasets left out, why trials are not split at random."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundle_cases import CASES, Paths, run_workflow
from sklearn.model_selection import BaseCrossValidator, GroupKFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from custom.data import PARTS, read_datalist
from custom.metrics import read_predictions
from custom.phantoms import learning_stage
from custom.transforms.temporal_window import map_bold

CASE = next(c for c in CASES if "learning_stage" in c.name)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A phantom of two datasets, prepared."""
    paths = Paths(tmp_path_factory.mktemp("stage"))
    CASE.write_study(paths.raw)
    run_workflow(CASE, "preprocess", **paths.preprocess, **CASE.preprocess)
    return paths


def rows_of(content: dict) -> list[dict]:
    return [row for part in PARTS for row in content[part]]


def test_every_subject_has_an_early_and_a_late_run_and_so_has_every_dataset_and_task(study: Paths):
    rows = rows_of(read_datalist(f"{study.data}/datalist.json"))
    for column in ("subject", "dataset", "task"):
        for value in {row[column] for row in rows}:
            scans = {row["scan"]: row["label"] for row in rows if row[column] == value}
            assert sorted(scans.values()).count(0) == len(scans) / 2, (column, value)


def test_a_dataset_is_left_out_whole(study: Paths, tmp_path: Path):
    path = f"{study.data}/left_out.json"
    override = study.preprocess | {"datalist_path": path, "held_out_dataset": "synthB", "split::validation": 0.5}
    run_workflow(CASE, "preprocess", "leave_dataset_out", **override, **CASE.preprocess)
    content = read_datalist(path)
    assert {part: {row["dataset"] for row in content[part]} for part in PARTS} == {
        "training": {"synthA"},
        "validation": {"synthA"},
        "test": {"synthB"},
    }
    paths = Paths(tmp_path).train | {"dataset_dir": study.data, "datalist_path": path}
    run_workflow(CASE, "train", epochs=1, **paths, **CASE.train)
    run_workflow(CASE, "train", "evaluate", **paths, **CASE.grid)
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    for name in ("dataset", "task", "run length"):
        assert metrics["models"][name]["accuracy"]["value"] == 0.5, name


def test_trials_of_a_learning_curve_are_units_of_their_own(study: Paths, tmp_path: Path):
    """The phantom's subjects get better, so that low comes early; no class of them is certain, hence two are made."""
    overlay = {"scheme": "learning_curve", "classes": {"lower": ["low"], "higher": ["middle", "high"]}}
    path = f"{study.data}/curve.json"
    override = study.preprocess | {"datalist_path": path, "split::stratify": ["dataset"]} | CASE.preprocess
    run_workflow(CASE, "preprocess", "learning_curve", **override, **overlay)
    paths = Paths(tmp_path).train | {"dataset_dir": study.data, "datalist_path": path}
    run_workflow(CASE, "train", "learning_curve", epochs=1, **paths, **CASE.train, **overlay)
    run_workflow(CASE, "train", "learning_curve", "evaluate", **paths, **CASE.grid, **overlay)
    table = read_predictions(tmp_path / "eval/predictions.csv", "block")
    assert set(table["block"]) == {row["block"] for row in read_datalist(path)["test"]}


def test_four_stages_by_task_and_run(study: Paths, tmp_path: Path):
    """The phantom's runs under the names that the real studies give their tasks."""
    raw = tmp_path / "raw"
    shutil.copytree(study.raw, raw)
    for task in ("tonecounting", "reversalweatherprediction"):
        for file in sorted((raw / "synthB").rglob("*task-weatherprediction_run-1_*")):
            shutil.copy(file, str(file).replace("weatherprediction", task))
    override = {"raw_dir": str(raw), "dataset_dir": str(tmp_path / "data"), **CASE.preprocess}
    run_workflow(CASE, "preprocess", "task_run", **override)
    content = read_datalist(tmp_path / "data/datalist.json")
    stages = {row["task"]: content["class_names"][row["label"]] for row in rows_of(content) if row["run"] == "1"}
    assert stages == {
        "probabilisticclassification": "acquisition",
        "weatherprediction": "acquisition",
        "tonecounting": "transfer",
        "reversalweatherprediction": "reversal",
    }
    paths = Paths(tmp_path).train
    run_workflow(CASE, "train", "task_run", epochs=1, **paths, **CASE.train)
    run_workflow(CASE, "train", "task_run", "evaluate", **paths, **CASE.grid)
    assert json.loads((tmp_path / "eval/metrics.json").read_text())["class_names"][2:] == ["transfer", "reversal"]


def test_gradients_explain_in_place_of_attention(study: Paths, tmp_path: Path):
    paths = Paths(tmp_path)
    run_workflow(CASE, "train", epochs=1, **paths.train | {"dataset_dir": study.data}, **CASE.train)
    override = paths.inference | {"dataset_dir": study.data} | CASE.inference
    run_workflow(CASE, "train", "evaluate", **paths.train | {"dataset_dir": study.data}, **CASE.grid)
    run_workflow(CASE, "inference", "explain", "explain_gradients", num_subjects=1, num_steps=2, **override)
    maps = json.loads((paths.eval / "explain/maps.json").read_text())
    assert maps["method"] == "Integrated gradients"
    assert {m["predicted"] for m in maps["maps"]} <= {"early", "late"}


def nearest_neighbour(windows: np.ndarray, labels: np.ndarray, splitter: BaseCrossValidator, groups: np.ndarray) -> float:
    classifier = KNeighborsClassifier(1, metric="cosine")
    return float(cross_val_score(classifier, windows, labels, cv=splitter, groups=groups).mean())


def test_trials_split_at_random_score_high_where_there_is_nothing_to_learn(tmp_path: Path):
    """No effect at all. Neighbouring windows share frames and a run's noise, and all windows of a run share the label."""
    paths = Paths(tmp_path)
    learning_stage.write_study(paths.raw, n_subjects=10, n_datasets=1, effect=0.0)
    grid = {"spacing": [16, 16, 16], "spatial_size": [12, 14, 10]}
    run_workflow(CASE, "preprocess", **paths.preprocess, **grid)
    rows = rows_of(read_datalist(f"{paths.data}/datalist.json"))
    windows = np.stack(
        [map_bold(r["image"]).frames(r["start"], r["start"] + r["frames"]).mean(0).numpy().ravel() for r in rows]
    )
    labels, subjects = np.array([r["label"] for r in rows]), np.array([r["subject"] for r in rows])
    assert nearest_neighbour(windows, labels, StratifiedKFold(5, shuffle=True, random_state=0), subjects) > 0.9
    assert nearest_neighbour(windows, labels, GroupKFold(5), subjects) == pytest.approx(0.5, abs=0.07)
