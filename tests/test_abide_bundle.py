"""What is particular to the ABIDE bundle: its three stages, its sites, its ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_cases import CASES, Paths, raises_beneath, run_workflow

from custom.data import read_datalist
from custom.harmonization import HarmonizedClassifier, UnseenSite
from custom.metrics import read_predictions
from custom.networks import SliceCNNLSTM
from custom.phantoms.abide import write_study

CASE = next(c for c in CASES if c.name.startswith("abide"))
STRIDED = "strided_stem"
STAGES = ("only_extractor", "only_harmonization", "only_head")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Four sites of twelve, trained for two epochs by the whole run list and evaluated."""
    paths = Paths(tmp_path_factory.mktemp("abide"))
    write_study(paths.raw, n_sites=4, subjects_per_site=12, shape=(10, 12, 6), n_frames=40)
    run_workflow(CASE, "preprocess", **paths.preprocess, **CASE.preprocess, **{"split::test": 0.33})
    run_workflow(CASE, "train", STRIDED, **paths.train, epochs=2, frames=16)
    run_workflow(CASE, "train", STRIDED, "evaluate", **paths.train)
    return paths


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def deployed(paths: Paths) -> HarmonizedClassifier:
    network = HarmonizedClassifier(SliceCNNLSTM(strides=(2, 2, 1)))
    network.load_state_dict(state(paths.models / "model.pt"))
    return network.eval()


def test_stages_one_by_one_give_what_one_command_gives(study: Paths, tmp_path: Path) -> None:
    paths = Paths(tmp_path).train | {"dataset_dir": study.data}
    for stage in STAGES:
        run_workflow(CASE, "train", STRIDED, stage, **paths, epochs=2, frames=16)
    for name in ("extractor.pt", "harmonizer.pt", "model.pt"):
        one, other = state(tmp_path / "models" / name), state(study.models / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_without_the_one_before_says_what_is_missing(study: Paths, tmp_path: Path, stage: str) -> None:
    with raises_beneath(FileNotFoundError, r"extractor\.pt"):
        run_workflow(CASE, "train", STRIDED, stage, **Paths(tmp_path).train | {"dataset_dir": study.data})


def test_harmonizer_knows_the_training_sites_and_their_sizes(study: Paths) -> None:
    harmonizer = deployed(study).harmonizer
    training = pd.DataFrame(read_datalist(f"{study.data}/datalist.json")["training"])
    assert dict(zip(harmonizer.sites, harmonizer.count.tolist(), strict=True)) == training["site"].value_counts().to_dict()
    assert harmonizer.covariates[0] == "age"
    provenance = json.loads((study.models / "model.json").read_text())
    assert provenance["harmonization"]["validation"].keys() == {"raw", "harmonized"}


def test_report_shows_figures_within_site_and_what_is_left_of_the_site(study: Paths) -> None:
    metrics = json.loads((study.eval / "metrics.json").read_text())
    assert {"network", "network without ComBat", "site", "age + sex", "connectivity"} <= metrics["models"].keys()
    assert metrics["models"]["site"]["auc_within_site"]["value"] == 0.5
    assert set(metrics["unavailable"]) == {"head motion", "ROI connectivity"}
    left = json.loads((study.eval / "harmonization.json").read_text())
    assert left["fitted"] is False
    assert left["before"]["n"] == metrics["subjects"]["test"]["n"]
    page = (study.eval / "report.html").read_text()
    assert "Harmonization over sites" in page
    assert "AUC within site" in page


def voxels(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def scan_of(study: Paths, part: str = "test") -> dict:
    return read_datalist(f"{study.data}/datalist.json")[part][0]


def infer(study: Paths, scan: str, output: Path, **override: object) -> pd.DataFrame:
    paths = study.inference | {"dataset_dir": scan, "output_dir": str(output)}
    run_workflow(CASE, "inference", STRIDED, **paths, **CASE.inference, **override)
    return read_predictions(output / "inference" / "predictions.csv")


def test_one_scan_of_an_unknown_site_needs_a_policy(study: Paths, tmp_path: Path) -> None:
    scan = scan_of(study)["source"]
    with raises_beneath(UnseenSite, "'ELSEWHERE' is unknown.*--unseen_site"):
        infer(study, scan, tmp_path, site="ELSEWHERE")
    known = infer(study, scan, tmp_path / "known")
    identity = infer(study, scan, tmp_path / "identity", site="ELSEWHERE", unseen_site="identity")
    assert known["p_ASD"].item() != identity["p_ASD"].item()
    with raises_beneath(ValueError, "ELSEWHERE has 1 scans"):
        infer(study, scan, tmp_path, site="ELSEWHERE", unseen_site="adapt")


def test_another_grid_than_the_training_s_is_refused(study: Paths, tmp_path: Path) -> None:
    paths = study.inference | {"dataset_dir": scan_of(study)["source"], "output_dir": str(tmp_path)}
    with raises_beneath(ValueError, "network was trained on .*10, 12, 6"):
        run_workflow(CASE, "inference", STRIDED, **paths, **CASE.inference | {"spatial_size": [12, 12, 8]})
    assert not (tmp_path / "inference/predictions.csv").exists()


def test_weights_of_another_network_are_refused_though_their_shapes_fit(study: Paths, tmp_path: Path) -> None:
    paths = study.inference | {"dataset_dir": scan_of(study)["source"], "output_dir": str(tmp_path)}
    with raises_beneath(ValueError, "name the overlay"):
        run_workflow(CASE, "inference", **paths, **CASE.inference)


def test_a_site_is_adapted_to_from_its_unlabelled_scans(study: Paths, tmp_path: Path) -> None:
    """The scans of a training site under another name: neither what the fit makes of them nor what they are unharmonized."""
    folder = str(Path(study.raw) / "SITE03")
    known = infer(study, folder, tmp_path / "known").set_index("subject")["p_ASD"]
    adapted = infer(study, folder, tmp_path / "adapted", site="ELSEWHERE", unseen_site="adapt").set_index("subject")["p_ASD"]
    identity = infer(study, folder, tmp_path / "i", site="ELSEWHERE", unseen_site="identity").set_index("subject")["p_ASD"]
    assert len(adapted) == 12
    assert (adapted - known).abs().min() > 0
    assert (adapted - identity).abs().min() > 0


def test_leave_site_out_and_adapt(study: Paths, tmp_path: Path) -> None:
    """The site of reversed prevalence is the test part: the site's name says nothing there, and it is adapted to."""
    paths = Paths(tmp_path)
    run_workflow(CASE, "preprocess", "leave_site_out", **paths.preprocess | {"raw_dir": study.raw}, **CASE.preprocess,
                 held_out_site="SITE04")  # fmt: skip
    run_workflow(CASE, "train", STRIDED, **paths.train, epochs=1, frames=16)
    with raises_beneath(UnseenSite, "'SITE04' is unknown"):
        run_workflow(CASE, "train", STRIDED, "evaluate", **paths.train)
    run_workflow(CASE, "train", STRIDED, "evaluate", **paths.train, unseen_site="adapt")
    metrics = json.loads((paths.eval / "metrics.json").read_text())
    assert metrics["split"]["held_out"] == "SITE04"
    site = metrics["models"]["site"]
    assert site["auc"]["value"] == 0.5
    assert site["balanced_accuracy"]["value"] == 0.5
    assert json.loads((paths.eval / "harmonization.json").read_text())["origins"] == {"SITE04": "adapted"}
    assert "transductive" in (paths.eval / "report.html").read_text()


def test_folds_hold_every_site_and_class(study: Paths, tmp_path: Path) -> None:
    run_workflow(CASE, "preprocess", "kfold", **study.preprocess, datalist_path=f"{study.data}/fold.json", **CASE.preprocess,
                 **{"split::n_splits": 3, "split::fold": 1})  # fmt: skip
    test = pd.DataFrame(read_datalist(f"{study.data}/fold.json")["test"])
    assert test["site"].value_counts().to_dict() == {f"SITE{i:02d}": 4 for i in range(1, 5)}


def test_band_pass_needs_the_tr_and_leaves_slow_fluctuations(study: Paths, tmp_path: Path) -> None:
    paths = Paths(tmp_path).preprocess | {"raw_dir": study.raw}
    with raises_beneath(ValueError, "none of the 48 scans"):
        run_workflow(CASE, "preprocess", "band_pass", **paths, **CASE.preprocess)
    assert "give --repetition_time" in (tmp_path / "data/rejected.csv").read_text()
    paths["dataset_dir"] = str(tmp_path / "with_tr")
    run_workflow(CASE, "preprocess", "band_pass", **paths, **CASE.preprocess, repetition_time=2.0)
    row = read_datalist(f"{paths['dataset_dir']}/datalist.json")["test"][0]
    series = voxels(row["image"])
    series = series[series.std(-1) > 0]
    power = np.abs(np.fft.rfft(series, axis=-1)) ** 2
    frequency = np.fft.rfftfreq(series.shape[-1], 2.0)
    assert power[:, frequency > 0.13].sum() < 0.05 * power.sum()
