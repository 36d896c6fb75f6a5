"""The hybrid decodes real data through the bundle's own configs, beside a linear SVM: fingers, and pictures seen (Haxby)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_cases import CASES, Paths, run_workflow
from real_runs import one_subject, write_fingers, write_haxby

CASE = next(c for c in CASES if "motor" in c.name)


def leave_run_out(paths: Paths, needs: dict[str, Any], run: str, training: dict[str, Any]) -> dict[str, dict]:
    """Prepare, train and evaluate with one run as the test part; return the models' figures."""
    run_workflow(CASE, "preprocess", "leave_run_out", held_out_run=run, **paths.preprocess, **needs["preprocess"])
    run_workflow(CASE, "train", **paths.train, **needs["train"], **training)
    run_workflow(CASE, "train", "evaluate", **paths.train, **needs["train"])
    return json.loads((paths.eval / "metrics.json").read_text())["models"]


@pytest.mark.parametrize("run", ["4"])
def test_fingers_of_one_hemisphere(real_data: Path, tmp_path: Path, run: str):
    needs = write_fingers(real_data, tmp_path / "all", hemispheres=1)
    one_subject(tmp_path / "all", "sub-h01", tmp_path / "raw")
    models = leave_run_out(Paths(tmp_path), needs, run, {"epochs": 30, "batch_size": 8, "noise": 0.5, "max_shift": 0})
    assert models["network"]["accuracy"]["value"] >= 0.6  # of five; chance is 0.2
    assert models["mean map + linear SVM"]["accuracy"]["value"] >= 0.6


def test_pictures_seen_by_subject_1(real_data: Path, tmp_path: Path):
    needs = write_haxby(real_data, tmp_path / "raw")
    models = leave_run_out(Paths(tmp_path), needs, "8", {"epochs": 12, "batch_size": 8, "max_shift": 0})
    assert models["network"]["auc"]["value"] >= 0.65  # of eight blocks, one of each class; chance is 0.5
