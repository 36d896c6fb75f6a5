"""A network learns what the phantom holds, and nothing where it holds nothing: the whole way, on test subjects."""

from __future__ import annotations

import json
from pathlib import Path

from bundle_cases import CASES, Paths, run_workflow

from custom.phantoms.oasis import write_study

CASE = next(c for c in CASES if c.name.startswith("oasis"))
SMALL = {"spacing": 4, "spatial_size": 48}
SHIFT = {"train::random_transforms::1::translate_range": [1, 1, 1]}  # voxels of 4 mm


def test_auc(effect: float, folder: Path) -> dict[str, float]:
    """AUC of CDR 0 against CDR above 0 on 20 of 60 synthetic subjects of 60 years and more, with its interval."""
    paths = Paths(folder)
    write_study(paths.raw, n_subjects=60, effect=effect, voxel_size=4.0, with_cdr_only=True, age_min=60)
    run_workflow(CASE, "preprocess", "binary", **paths.preprocess, **SMALL, **{"split::test": 0.33})
    run_workflow(CASE, "train", "binary", **paths.train, **SHIFT, epochs=30, patience=0)
    run_workflow(CASE, "train", "binary", "evaluate", **paths.train)
    return json.loads((paths.eval / "metrics.json").read_text())["models"]["network"]["auc"]


test_auc.__test__ = False  # type: ignore[attr-defined]


def test_default_effect_is_learnt(tmp_path: Path) -> None:
    assert test_auc(1.0, tmp_path)["value"] >= 0.80


def test_no_effect_scores_chance(tmp_path: Path) -> None:
    auc = test_auc(0.0, tmp_path)
    assert auc["low"] <= 0.5 <= auc["high"]
