"""Cross-validation of a bundle on a phantom: every subject is tested once, and nothing stale is taken for new."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from bundle_cases import CASES, Paths, run_workflow
from cross_validate import cross_validate

from custom.data import read_datalist
from custom.phantoms.oasis import write_study

CASE = next(c for c in CASES if c.name.startswith("oasis"))
TINY = {"epochs": 1, "network_def::block_inplanes": [8, 8, 8, 8], "num_workers": 1, "n_splits": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    paths = Paths(tmp_path_factory.mktemp("cv"))
    write_study(paths.raw, n_subjects=24, voxel_size=6.0, with_cdr_only=True, age_min=60)
    run_workflow(CASE, "preprocess", "binary", **paths.preprocess, **CASE.preprocess)
    return paths.data


def test_every_subject_is_tested_once_and_settings_are_kept_apart(data: str, tmp_path: Path) -> None:
    arguments = {"bundle": str(CASE.folder), "dataset_dir": data, "output_dir": str(tmp_path), "overlays": ["binary"], **TINY}
    report = cross_validate(**arguments)
    table = pd.read_csv(tmp_path / "predictions.csv")
    content = read_datalist(f"{data}/datalist.json")
    everybody = {row["subject"] for part in ("training", "validation", "test") for row in content[part]}
    assert sorted(table["subject"]) == sorted(everybody)
    assert set(table["fold"]) == {0, 1}
    assert Path(report).is_file()

    written = (tmp_path / "fold0/seed0/model.pt").stat().st_mtime_ns
    cross_validate(**arguments)
    assert (tmp_path / "fold0/seed0/model.pt").stat().st_mtime_ns == written, "a finished fold was trained again"
    with pytest.raises(ValueError, match="other settings"):
        cross_validate(**arguments | {"epochs": 2})


def test_permutations_are_trained_on_permuted_labels(data: str, tmp_path: Path) -> None:
    arguments = {"bundle": str(CASE.folder), "dataset_dir": data, "output_dir": str(tmp_path), "overlays": ["binary"], **TINY}
    summary = json.loads(cross_validate(**arguments, permutations=2))
    assert summary["seeds"] == [0, 1]
    labels = pd.read_csv(tmp_path / "permutation0/predictions.csv").set_index("subject")["label"]
    truth = {r["subject"]: r["label"] for r in read_datalist(tmp_path / "fold0/datalist.json")["test"]}
    assert labels.to_dict() != truth


def test_folds_of_several_sites_get_their_own_figures(tmp_path: Path) -> None:
    """The bundle's own figures are computed: within site, and the network without ComBat from the features of every fold."""
    case, paths = next(c for c in CASES if c.name.startswith("abide")), Paths(tmp_path)
    case.write_study(paths.raw)
    run_workflow(case, "preprocess", **paths.preprocess, **case.preprocess)
    cross_validate(str(case.folder), paths.data, str(tmp_path / "cv"), ["strided_stem"], n_splits=2, num_workers=1,
                   stratify=["site", "label"], epochs=1, frames=16, covariates=[])  # fmt: skip
    metrics = json.loads((tmp_path / "cv" / "metrics.json").read_text())
    assert metrics["subjects"]["test"]["n"] == 30
    assert metrics["models"]["site"]["auc_within_site"]["value"] == 0.5
    assert "network without ComBat" in metrics["models"]
