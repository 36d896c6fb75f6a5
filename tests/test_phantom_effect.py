"""A network learns what the phantom holds, and nothing where it holds nothing: the whole way, on test subjects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundle_cases import CASES, Paths, run_workflow
from haxby_decoding import CHANCE, accuracies, folds, prepare

from custom.phantoms import abide, haxby, learning_stage, motor, oasis

OASIS, ABIDE, STAGE, MOTOR = (next(c for c in CASES if name in c.name) for name in ("oasis", "abide", "stage", "motor"))
SMALL = {"spacing": 4, "spatial_size": 48}
SHIFT = {"train::random_transforms::1::translate_range": [1, 1, 1]}  # voxels of 4 mm


def oasis_auc(effect: float, folder: Path) -> dict[str, float]:
    """AUC of CDR 0 against CDR above 0 on 20 of 60 synthetic subjects of 60 years and more, with its interval."""
    paths = Paths(folder)
    oasis.write_study(paths.raw, n_subjects=60, effect=effect, voxel_size=4.0, with_cdr_only=True, age_min=60)
    run_workflow(OASIS, "preprocess", "binary", **paths.preprocess, **SMALL, **{"split::test": 0.33})
    run_workflow(OASIS, "train", "binary", **paths.train, **SHIFT, epochs=30, patience=0)
    run_workflow(OASIS, "train", "binary", "evaluate", **paths.train)
    return json.loads((paths.eval / "metrics.json").read_text())["models"]["network"]["auc"]


@pytest.mark.slow
def test_oasis_default_effect_is_learnt(tmp_path: Path) -> None:
    assert oasis_auc(1.0, tmp_path)["value"] >= 0.80


@pytest.mark.slow
def test_oasis_without_effect_scores_chance(tmp_path: Path) -> None:
    auc = oasis_auc(0.0, tmp_path)
    assert auc["low"] <= 0.5 <= auc["high"]


def abide_models(effect: float, folder: Path) -> dict[str, dict]:
    """Figures of all models on 40 of 120 synthetic subjects of six sites."""
    paths, shape = Paths(folder), (10, 12, 6)
    abide.write_study(paths.raw, n_sites=6, subjects_per_site=20, effect=effect, shape=shape, n_frames=60)
    run_workflow(ABIDE, "preprocess", **paths.preprocess, **ABIDE.preprocess, **{"split::test": 0.33})
    run_workflow(ABIDE, "train", "strided_stem", **paths.train, epochs=16, frames=24, patience=0)
    run_workflow(ABIDE, "train", "strided_stem", "evaluate", **paths.train)
    return json.loads((paths.eval / "metrics.json").read_text())["models"]


def test_abide_default_effect_is_learnt(tmp_path: Path) -> None:
    models = abide_models(1.0, tmp_path)
    assert models["network"]["auc"]["value"] >= 0.80
    assert models["network"]["auc_within_site"]["value"] >= 0.75
    assert models["site"]["auc_within_site"]["value"] == 0.5


def test_abide_without_effect_scores_chance(tmp_path: Path) -> None:
    """Within sites. Pooled over sites, the site alone is above chance, since sites differ in their share of ASD."""
    models = abide_models(0.0, tmp_path)
    within = models["network"]["auc_within_site"]
    assert within["low"] <= 0.5 <= within["high"]
    assert models["site"]["auc"]["value"] > 0.6
    assert models["network"]["auc"]["value"] < models["site"]["auc"]["value"] + 0.1


def motor_accuracy(effect: float, folder: Path) -> dict[str, float]:
    """Accuracies of the network and of a linear SVM on three of nine synthetic subjects, four classes."""
    paths, grid = Paths(folder), {"spatial_size": [18, 20, 14]}
    motor.write_study(paths.raw, n_subjects=9, n_runs=4, effect=effect, conditions=(3, 4, 5, 6))
    run_workflow(MOTOR, "preprocess", **paths.preprocess, **grid, spacing=[11.2, 11.2, 11.2], **{"split::test": 0.33})
    network = {**grid, "network_def::strides": [2, 1]}
    run_workflow(MOTOR, "train", **paths.train, **network, epochs=12)
    run_workflow(MOTOR, "train", "evaluate", **paths.train, **network)
    models = json.loads((paths.eval / "metrics.json").read_text())["models"]
    return {name: models[name]["accuracy"]["value"] for name in ("network", "mean map + linear SVM")}


def test_motor_default_effect_is_learnt(tmp_path: Path) -> None:
    assert motor_accuracy(3.0, tmp_path)["network"] >= 0.75


@pytest.mark.slow
def test_motor_without_effect_scores_chance(tmp_path: Path) -> None:
    assert motor_accuracy(0.0, tmp_path)["network"] < 0.35


def stage_models(effect: float, folder: Path) -> dict[str, dict]:
    """Figures of all models on the runs of six of 18 synthetic subjects, early against late."""
    paths, grid = Paths(folder), {"spatial_size": [12, 14, 10]}
    learning_stage.write_study(paths.raw, n_subjects=9, effect=effect)
    run_workflow(STAGE, "preprocess", **paths.preprocess, **grid, spacing=[16, 16, 16], **{"split::test": 0.33})
    run_workflow(STAGE, "train", **paths.train, **grid, epochs=6)
    run_workflow(STAGE, "train", "evaluate", **paths.train, **grid)
    return json.loads((paths.eval / "metrics.json").read_text())["models"]


@pytest.mark.slow
def test_stage_default_effect_is_learnt(tmp_path: Path) -> None:
    models = stage_models(2.0, tmp_path)
    assert models["network"]["accuracy"]["value"] >= 0.75
    for name in ("dataset", "task", "run length"):
        assert models[name]["auc"]["value"] == pytest.approx(0.5)


@pytest.mark.slow
def test_stage_without_effect_scores_chance(tmp_path: Path) -> None:
    accuracy = stage_models(0.0, tmp_path)["network"]["accuracy"]
    assert accuracy["low"] <= 0.5 <= accuracy["high"]


def haxby_accuracies(folder: Path, n_subjects: int, **effect: float) -> np.ndarray:
    """Share of the blocks of a run that the diffusion bundle's closed form decodes, every run of every subject left out."""
    paths, grid = Paths(folder), [12, 14, 6]
    haxby.write_study(paths.raw, n_subjects=n_subjects, **effect)
    prepare(paths, grid, [200 / 12, 224 / 14, 160 / 6], subjects=list(range(1, n_subjects + 1)))
    return np.array([accuracies(fold, grid)[0] for fold in folds(paths)])


def test_haxby_default_effect_is_decoded(tmp_path: Path) -> None:
    assert haxby_accuracies(tmp_path, 1).mean() >= 0.6


def test_haxby_without_effect_decodes_at_chance(tmp_path: Path) -> None:
    found = haxby_accuracies(tmp_path, 6, effect=0)
    assert found.size == 48  # of eight blocks: the mean has a standard error of 0.017
    assert found.mean() == pytest.approx(CHANCE, abs=0.05)
