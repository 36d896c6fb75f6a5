"""What is particular to the motor bundle: runs as test parts, modes, options of training, and what bad input does."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_cases import CASES, Paths, raises_beneath, run_workflow
from monai.bundle import ConfigParser

from custom.data import PARTS, read_datalist
from custom.data.bids_task import read_study
from custom.metrics import cost_of, read_predictions

CASE = next(c for c in CASES if "motor" in c.name)
LIMBS = ["left leg", "right leg", "forearm", "upper arm"]


def parsed(*names: str, **override: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([CASE.config(name) for name in names])
    parser.update(override)
    return parser


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A phantom, prepared."""
    paths = Paths(tmp_path_factory.mktemp("motor"))
    CASE.write_study(paths.raw)
    run_workflow(CASE, "preprocess", **paths.preprocess, **CASE.preprocess)
    return paths


@pytest.fixture
def raw(study: Paths, tmp_path: Path) -> Path:
    """A copy of six of its subjects, to be damaged."""
    for name in (f"sub-{number:02d}" for number in range(1, 7)):
        shutil.copytree(Path(study.raw) / name, tmp_path / "raw" / name)
    for file in (p for p in Path(study.raw).iterdir() if p.is_file()):
        shutil.copy(file, tmp_path / "raw")
    return tmp_path / "raw"


def prepare(raw: Path, **override: object) -> dict:
    """Run preprocess.json with parts that six subjects allow; return the datalist."""
    data = raw.parent / "data"
    halves = {"split::test": 0.5, "split::validation": 0.5}
    run_workflow(CASE, "preprocess", raw_dir=str(raw), dataset_dir=str(data), **halves, **CASE.preprocess, **override)
    return read_datalist(data / "datalist.json")


def first(raw: Path, pattern: str) -> Path:
    return sorted(raw.rglob(pattern))[0]


def rejected(raw: Path) -> str:
    return (raw.parent / "data/rejected.csv").read_text()


def test_no_transform_flips_since_left_and_right_leg_are_classes():
    for name in ("preprocess", "train", "masking", "mixup", "inference"):
        assert "Flip" not in Path(CASE.config(name)).read_text(), name
        assert "scale" not in Path(CASE.config(name)).read_text().lower(), "a negative scale is a flip"


def test_windows_begin_the_onset_shift_after_the_blocks(study: Paths):
    rows = [row for part in PARTS for row in read_datalist(f"{study.data}/datalist.json")[part]]
    assert {row["start"] * 2.0 - row["onset"] for row in rows} == {4.0}
    assert Counter(row["label"] for row in rows) == dict.fromkeys(range(4), 8 * 2 * 2)


def test_twelve_classes_are_those_of_the_real_study(real_data: Path, tmp_path: Path):
    """Of real events; a stub stands for the image of every run."""
    config = parsed("preprocess", "twelve_class")
    source = real_data / "somatotopy/ds004044"
    for file in sorted(source.glob("sub-01/**/*_events.tsv")):
        target = tmp_path / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        nib.save(
            nib.Nifti1Image(np.zeros((1, 1, 1, 232), np.int16), np.eye(4)), str(target).replace("events.tsv", "bold.nii.gz")
        )
    for name in ("dataset_description.json", "task-motor_bold.json", "participants.tsv"):
        shutil.copyfile(source / name, tmp_path / name)
    found = read_study(str(tmp_path), "trial_type", config["classes"], config["ignored"])
    assert [len(r.events) for r in found.records] == [24] * 6
    assert found.class_names[2:6] == LIMBS


def test_leave_run_out_trains_and_judges_on_runs_of_the_same_subjects(study: Paths, tmp_path: Path):
    """Two runs of these subjects are told apart by session and run; a third one is made by naming."""
    paths = Paths(tmp_path)
    shutil.copytree(study.raw, paths.raw)
    for file in sorted(Path(paths.raw).rglob("*run-02*")):
        shutil.copy(file, str(file).replace("run-02", "run-03"))
    run_workflow(CASE, "preprocess", "leave_run_out", held_out_run="1", **paths.preprocess, **CASE.preprocess)
    content = read_datalist(f"{paths.data}/datalist.json")
    assert {part: {row["run"] for row in content[part]} for part in PARTS} == {
        "training": {"3"},
        "validation": {"2"},
        "test": {"1"},
    }
    run_workflow(CASE, "train", epochs=1, **paths.train, **CASE.train)
    run_workflow(CASE, "train", "evaluate", **paths.train, **CASE.grid)
    metrics = json.loads((paths.eval / "metrics.json").read_text())
    assert metrics["split"]["within_subjects"]
    assert len(read_predictions(paths.eval / "predictions.csv", "block")) == 8 * 8


def test_kfold_tests_every_subject_once(study: Paths):
    tested: list[str] = []
    for fold in range(3):
        override = study.preprocess | {
            "datalist_path": f"{study.data}/fold{fold}.json",
            "split::fold": fold,
            "split::n_splits": 3,
        }
        run_workflow(CASE, "preprocess", "kfold", **override, **CASE.preprocess)
        tested += {row["subject"] for row in read_datalist(override["datalist_path"])["test"]}
    assert sorted(tested) == [f"sub-{n:02d}" for n in range(1, 9)]


def test_a_run_without_events_is_cut_into_windows(study: Paths, tmp_path: Path):
    scan = tmp_path / "sub-01_task-motor_bold.nii.gz"
    shutil.copy(first(Path(study.raw), "*_bold.nii.gz"), scan)
    frames = nib.load(scan).shape[3]
    torch.save(parsed("inference", **CASE.grid).get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    paths = {"ckpt_path": str(tmp_path / "model.pt"), "output_dir": str(tmp_path), "dataset_dir": str(scan)}
    with raises_beneath(ValueError, "has no events.tsv: give --scans::every"):
        run_workflow(CASE, "inference", **paths, **CASE.inference)
    run_workflow(CASE, "inference", **paths, **{"scans::every": 16}, **CASE.inference)
    table = pd.read_csv(tmp_path / "inference/predictions.csv")
    # the last piece is dropped where the shift leaves less than half a window of it
    assert len(table) in (frames * 2 // 16, frames * 2 // 16 + 1)


def test_the_modes_cost_what_the_readme_says_less_than_the_whole_network():
    costs = {}
    for overlay in ([], ["cnn_only"], ["transformer_only"]):
        network = parsed("train", *overlay).get_parsed_content("network_def")
        costs[network.mode] = cost_of(network, torch.empty(1, 8, *network.spatial_size, device="meta"))
    assert set(costs) == {"hybrid", "cnn_only", "transformer_only"}
    assert costs["hybrid"].flop > costs["cnn_only"].flop
    assert costs["hybrid"].parameters > costs["cnn_only"].parameters


def test_bfloat16_is_refused_without_a_gpu(study: Paths, tmp_path: Path):
    paths = Paths(tmp_path).train | {"dataset_dir": study.data, "device": "$torch.device('cpu')"}
    with raises_beneath(ValueError, "bfloat16 on 'cpu' is refused"):
        run_workflow(CASE, "train", "bf16", epochs=1, **paths, **CASE.train)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="the package is installed")
def test_weights_and_biases_is_asked_for_by_name(study: Paths, tmp_path: Path):
    paths = Paths(tmp_path).train | {"dataset_dir": study.data}
    with raises_beneath(ModuleNotFoundError, "pip install wandb"):
        run_workflow(CASE, "train", "wandb", epochs=1, **paths, **CASE.train)


def test_exploration_shows_the_training_subjects_in_the_report(study: Paths, tmp_path: Path):
    paths = Paths(tmp_path)
    override = study.preprocess | CASE.preprocess | {"output_dir": str(paths.eval)}
    run_workflow(CASE, "preprocess", "explore", **override)
    analysis = json.loads((paths.eval / "explore/analysis.json").read_text())
    content = read_datalist(f"{study.data}/datalist.json")
    assert set(LIMBS) <= set(json.dumps(analysis).split('"'))
    assert list((paths.eval / "explore").glob("*.nii.gz"))
    run_workflow(CASE, "train", epochs=1, **paths.train | {"dataset_dir": study.data}, **CASE.train)
    run_workflow(CASE, "train", "evaluate", **paths.train | {"dataset_dir": study.data}, **CASE.grid)
    report = (paths.eval / "report.html").read_text()
    assert "run centring over the run&#39;s events" in report or "run centring over the run's events" in report
    assert "signal change" in report
    assert not {row["subject"] for row in content["test"]} & {row["subject"] for row in content["training"]}


# ---- bad input


def test_events_outside_the_run_reject_the_run_by_name(raw: Path):
    events = first(raw, "*_events.tsv")
    with events.open("a") as file:
        file.write("4000\t16\t3\n")
    prepare(raw)
    assert "begins at 4000 s, the run has" in rejected(raw)
    assert str(events).replace("events.tsv", "bold.nii.gz") in rejected(raw)


def test_a_run_without_tr_is_rejected_with_the_remedy(raw: Path):
    for sidecar in raw.rglob("*bold.json"):
        sidecar.unlink()
    file = first(raw, "*_bold.nii.gz")
    image = nib.load(file)
    image.header.set_zooms((*image.header.get_zooms()[:3], 0.0))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), file)
    prepare(raw)
    assert "time between" in rejected(raw)
    assert "--repetition_time" in rejected(raw)
    assert str(file) in rejected(raw)


def test_an_unknown_trial_type_stops_with_the_file_and_the_known_ones(raw: Path):
    events = first(raw, "*_events.tsv")
    events.write_text(events.read_text().replace("\t3\n", "\t99\n"))
    with raises_beneath(ValueError, rf"{events.name}.*'99'.*known codes"):
        prepare(raw)


def test_runs_without_events_and_events_without_runs_are_counted(raw: Path):
    first(raw / "sub-02", "*run-01*_bold.nii.gz").unlink()
    first(raw / "sub-03", "*run-02*_events.tsv").unlink()
    content = prepare(raw)
    assert content["dropped"] == {"events without a BOLD run": 1, "BOLD run without events.tsv": 1}


def test_a_class_that_a_fold_lacks_is_named(study: Paths, tmp_path: Path):
    content = json.loads(Path(study.data, "datalist.json").read_text())
    content["training"] = [{**row, "image": f"{study.data}/{row['image']}"} for row in content["training"] if row["label"] != 2]
    for part in ("validation", "test"):
        content[part] = [{**row, "image": f"{study.data}/{row['image']}"} for row in content[part]]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with raises_beneath(ValueError, "no training row of class forearm"):
        run_workflow(CASE, "train", epochs=1, **Paths(tmp_path).train | {"dataset_dir": str(tmp_path)}, **CASE.train)


def test_a_run_of_other_spacing_comes_to_the_grid_of_the_others(raw: Path):
    file = first(raw, "*_bold.nii.gz")
    image = nib.load(file)
    coarse = np.asarray(image.dataobj)[::2, ::2, ::2]
    affine = image.affine @ np.diag([2, 2, 2, 1])
    nib.save(nib.Nifti1Image(coarse, affine, image.header), file)
    content = prepare(raw)
    images = {row["image"] for part in PARTS for row in content[part]}
    assert {nib.load(path).shape[:3] for path in images} == {tuple(CASE.grid["spatial_size"])}
    assert {tuple(np.round(nib.load(path).header.get_zooms()[:3], 3)) for path in images} == {(18.0, 18.0, 18.0)}
