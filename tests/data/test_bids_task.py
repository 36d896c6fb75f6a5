from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_cases import EVENTS, TWO, func, put, read, save_run, write_small

from custom.data.bids_task import list_scans, read_study
from custom.data.records import Event
from custom.data.windows import Windows

LIMBS = {"left leg": [3], "right leg": ["4"], "forearm": [5.0], "upper arm": ["6.0"]}
OTHERS = [0, 1, 2, *range(7, 13)]
BODY = ["toe", "ankle", "left leg", "right leg", "forearm", "upper arm", "wrist", "finger", "eye", "jaw", "lip", "tongue"]
PHASES = {"early": ["early"], "late": ["late"]}
STAGES = {stage: [stage] for stage in ("acquisition", "consolidation", "transfer", "reversal")}


@pytest.fixture(scope="session")
def one_voxel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 232 frames of one voxel each; the header says nothing of time."""
    path = tmp_path_factory.mktemp("voxel") / "bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((1, 1, 1, 232), np.uint8), np.eye(4)), path)
    return path


@pytest.fixture(scope="session")
def motor(real_data: Path, one_voxel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_images(real_data / "somatotopy" / "ds004044", tmp_path_factory.mktemp("motor") / "ds004044", one_voxel)


@pytest.fixture(scope="session")
def learning(real_data: Path, one_voxel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three learning studies in one folder."""
    folder = tmp_path_factory.mktemp("learning")
    for dataset in ("ds000002", "ds000011", "ds000052"):
        with_images(real_data / "openfmri" / dataset, folder / dataset, one_voxel)
    return folder


def with_images(source: Path, folder: Path, image: Path) -> Path:
    """Copy a dataset, which cannot be written to, and put an image beside every events file."""
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o755)
    for events in folder.glob("sub-*/**/*_events.tsv"):
        shutil.copyfile(image, events.with_name(events.name.replace("_events.tsv", "_bold.nii.gz")))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two subjects with a run each."""
    return write_small(tmp_path / "raw")


# the real motor study


def test_four_limbs_of_the_real_motor_study(motor: Path, caplog: pytest.LogCaptureFixture):
    study = read_study(str(motor), "trial_type", LIMBS, OTHERS)
    assert study.class_names == list(LIMBS)
    assert len(study.records) == 18 * 6
    assert study.dropped == {}
    assert not study.synthetic
    assert {tuple(sorted(Counter(e.label for e in r.events).items())) for r in study.records} == {
        ((0, 2), (1, 2), (2, 2), (3, 2))
    }
    first = study.records[0]
    assert (first.name, first.subject, first.label) == ("ds004044_sub-01_ses-1_task-motor_run-1", "sub-01", None)
    assert first.columns == {
        "dataset": "ds004044", "session": "1", "run": "1", "task": "motor", "tr": 2.0, "run_length": 464.0,
        "age": 24, "sex": "F", "group": "control",
    }  # fmt: skip
    assert first.events[0] == Event(16.0, 16.0, 1, {"trial_type": "4"})
    assert [e.onset for e in first.events] == sorted(e.onset for e in first.events)
    assert len({r.name for r in study.records}) == 108
    assert "participants.tsv has no" not in caplog.text


def test_twelve_body_parts_of_the_real_motor_study(motor: Path):
    study = read_study(str(motor), "trial_type", {part: [code] for code, part in enumerate(BODY, 1)}, [0])
    assert {len(r.events) for r in study.records} == {24}
    blocks = Counter(e.label for r in study.records for e in r.events)
    assert blocks == dict.fromkeys(range(12), 18 * 6 * 2)
    windows = Windows(shift=4).locate(study.records[0].events, 232, 2.0, "run")
    assert [w.frames for w in windows] == [8] * 24


def test_a_code_that_no_class_holds_is_an_error(motor: Path):
    with pytest.raises(
        ValueError, match=r"run-01_events\.tsv: the event at 0 s has the code '0' in scheme trial_type, the known"
    ):
        read_study(str(motor), "trial_type", LIMBS, OTHERS[1:])


def test_inherited_events_of_a_real_task(real_data: Path, one_voxel: Path, tmp_path: Path):
    """One events file at the root stands for the runs of all ten subjects of ds000114."""
    put(tmp_path / "dataset_description.json", "{}")
    for subject in ("sub-01", "sub-02"):
        for session in ("test", "retest"):
            image = f"{subject}/ses-{session}/func/{subject}_ses-{session}_task-fingerfootlips_bold.nii.gz"
            shutil.copyfile(one_voxel, put(tmp_path / image))
    name = "task-fingerfootlips_events.tsv"
    shutil.copyfile(real_data / "somatotopy" / f"ds000114_{name}", tmp_path / name)
    study = read_study(str(tmp_path), "trial_type", {k: [k] for k in ("Finger", "Foot", "Lips")})
    assert [(r.subject, r.columns["session"], r.columns["run"], len(r.events)) for r in study.records] == [
        (subject, session, None, 15) for subject in ("sub-01", "sub-02") for session in ("retest", "test")
    ]
    assert study.records[0].columns["tr"] is None


# the real learning studies


def test_early_and_late_of_the_real_learning_studies(learning: Path):
    study = read_study(str(learning), "early_late", PHASES)
    assert Counter(r.columns["dataset"] for r in study.records) == {"ds000002": 32, "ds000011": 28, "ds000052": 24}
    labels = {r.name: {e.label for e in r.events} for r in study.records}
    assert Counter(frozenset(found) for found in labels.values()) == {frozenset([0]): 42, frozenset([1]): 42}
    assert all(labels[r.name] == {int(str(r.columns["run"])) - 1} for r in study.records)
    assert study.dropped == {
        "no stage in scheme early_late: task mixedeventrelatedprobe, run 1": 8,
        "no stage in scheme early_late: task mixedeventrelatedprobe, run 2": 8,
        "no stage in scheme early_late: task tonecounting": 7,
        "no stage in scheme early_late: task Classificationprobewithoutfeedback": 7,
    }
    assert len({r.subject for r in study.records}) == 8 + 7 + 6
    assert "ds000002_sub-01" in {r.subject for r in study.records}


def test_every_record_has_the_columns_of_all(learning: Path):
    """ds000052 has no participants.tsv."""
    columns = {r.columns["dataset"]: r.columns for r in read_study(str(learning), "early_late", PHASES).records}
    assert {tuple(sorted(c)) for c in columns.values()} == {
        ("age", "dataset", "run", "run_length", "session", "sex", "task", "tr")
    }
    assert (columns["ds000002"]["age"], columns["ds000052"]["age"]) == (22, None)


def test_stages_of_the_real_learning_studies(learning: Path):
    study = read_study(str(learning), "task_run", STAGES)
    runs = Counter(study.class_names[int(str(r.events[0].label))] for r in study.records)
    assert runs == {"acquisition": 37, "consolidation": 29, "transfer": 29, "reversal": 12}
    assert study.dropped == {"no stage in scheme task_run: task Classificationprobewithoutfeedback": 7}


def test_a_widowed_run_takes_no_part(learning: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = tmp_path / "ds000052"
    shutil.copytree(learning / "ds000052", root)
    gone = func(root, "sub-01") / "sub-01_task-weatherprediction_run-2_bold.nii.gz"
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        study = read_study(str(root), "early_late", PHASES)
    assert len(study.records) == 24 - 2
    assert study.dropped == {
        "events without a BOLD run": 1,
        "no stage in scheme early_late: task weatherprediction, run 1 without run 2": 1,
    }
    assert "sub-01_task-weatherprediction_run-2_events.tsv: events without a BOLD run" in caplog.text


def test_what_was_right_labels_the_trials(learning: Path):
    study = read_study(str(learning / "ds000002"), "learning_curve", {"low": ["low"], "high": ["high"]}, ["middle"])
    assert {r.columns["task"] for r in study.records} >= {"deterministicclassification", "probabilisticclassification"}
    assert {e.label for r in study.records for e in r.events} == {0, 1}
    with pytest.raises(FileNotFoundError, match="learning_curve: events without a column Correct': 24"):
        read_study(str(learning / "ds000052"), "learning_curve", {"low": ["low"], "high": ["high"]}, ["middle"])


# names and columns


def test_records_of_a_small_study(small: Path):
    study = read(small)
    assert study.name == "raw (trial_type)"
    assert [(r.name, r.subject, Path(r.image).name) for r in study.records] == [
        (f"raw_{s}_task-x_run-1", s, f"{s}_task-x_run-01_bold.nii.gz") for s in ("sub-1", "sub-2")
    ]
    assert study.records[0].events == (Event(0.0, 4.0, 0, {"trial_type": "a"}), Event(8.0, 4.0, 1, {"trial_type": "b"}))
    assert study.records[1].columns == {
        "dataset": "raw", "session": None, "run": "1", "task": "x", "tr": 2.0, "run_length": 30.0, "age": 30, "sex": "M"
    }  # fmt: skip
    json.dumps([dict(r.columns) for r in study.records], allow_nan=False)


def test_sub_1_of_two_datasets_are_two_people(tmp_path: Path):
    for name in ("A", "B"):
        write_small(tmp_path / name)
    study = read(tmp_path)
    assert [r.subject for r in study.records] == ["A_sub-1", "A_sub-2", "B_sub-1", "B_sub-2"]
    assert len({r.name for r in study.records}) == 4
    assert [s["subject"] for s in list_scans(str(tmp_path))] == ["A_sub-1", "A_sub-2", "B_sub-1", "B_sub-2"]


def test_run_1_and_run_01_of_one_subject_are_one_run(small: Path):
    save_run(func(small) / "sub-1_task-x_run-1_bold.nii.gz")
    with pytest.raises(
        ValueError, match=r"run-0?1_bold.nii.gz and .*run-0?1_bold.nii.gz are both of the run raw_sub-1_task-x_run-1"
    ):
        read(small)


@pytest.mark.parametrize("entity", ["acq-a", "dir-AP", "ses-1"])
def test_other_scans_of_a_task_have_other_names(small: Path, entity: str):
    first, rest = ("sub-1_" + entity, "task-x") if entity == "ses-1" else ("sub-1_task-x", entity)
    save_run(func(small) / f"{first}_{rest}_run-01_bold.nii.gz")
    put(func(small) / f"{first}_{rest}_run-01_events.tsv", EVENTS)
    names = [r.name for r in read(small).records]
    assert len(set(names)) == 3
    assert sum(entity in name for name in names) == 1


@pytest.mark.parametrize("other", ["echo-2", "part-phase"])
def test_two_files_of_one_run_are_not_chosen_between(small: Path, other: str):
    save_run(func(small) / f"sub-1_task-x_run-01_{other}_bold.nii.gz")
    with pytest.raises(ValueError, match=f"{other}_bold.nii.gz.* are both of the run raw_sub-1_task-x_run-1: keep one"):
        read(small)


def test_a_subject_that_the_table_lacks_is_warned_of(small: Path, caplog: pytest.LogCaptureFixture):
    put(small / "participants.tsv", "participant_id\tage\tsex\nsub-1\t20\tF\nsub-9\t30\tM\n")
    with caplog.at_level(logging.WARNING):
        study = read(small)
    assert [(r.columns["age"], r.columns["sex"]) for r in study.records] == [(20, "F"), (None, None)]
    assert "participants.tsv has no sub-2" in caplog.text
    assert "no sub-1" not in caplog.text
    caplog.clear()
    (small / "participants.tsv").unlink()
    assert "age" not in read(small).records[0].columns
    assert caplog.text == ""


def test_no_column_of_the_table_replaces_one_of_the_datalist(small: Path):
    put(small / "participants.tsv", "participant_id\tlabel\ttask\nsub-1\t7\tnone\nsub-2\t8\tnone\n")
    columns = read(small).records[0].columns
    assert "label" not in columns
    assert (columns["participant_label"], columns["task"], columns["participant_task"]) == (7, "x", "none")


@pytest.mark.parametrize("marked", [".", "A", "..", "A/.."])
def test_a_phantom_is_marked(tmp_path: Path, marked: str):
    write_small(tmp_path / "study" / "A")
    write_small(tmp_path / "study" / "B")
    assert not read(tmp_path / "study").synthetic
    one = marked in ("..", "A/..")
    put(tmp_path / "study" / ("." if one else marked) / "SYNTHETIC")
    assert read(tmp_path / "study" / ("A" if one else "")).synthetic


# time


def test_the_header_tells_the_time_where_no_json_does(small: Path):
    put(func(small, "sub-2") / "sub-2_task-x_run-01_bold.json", '{"RepetitionTime": 3}')
    assert [(r.columns["tr"], r.columns["run_length"]) for r in read(small).records] == [(2.0, 30.0), (3.0, 45.0)]


def test_an_image_that_cannot_be_read_is_left_to_preparation(small: Path, caplog: pytest.LogCaptureFixture):
    put(small / "task-x_bold.json", '{"RepetitionTime": 2}')
    image = put(func(small) / "sub-1_task-x_run-01_bold.nii.gz")
    broken = put(func(small, "sub-2") / "sub-2_task-x_run-01_bold.json", "{")
    with caplog.at_level(logging.WARNING):
        records = read(small).records
    assert [(r.columns["tr"], r.columns["run_length"]) for r in records] == [(2.0, None), (None, None)]
    assert f"{image}: damaged" in caplog.text
    assert f"{broken}: not a BIDS file" in caplog.text


# what is left out


def test_runs_without_events_and_events_without_runs_are_counted(small: Path, caplog: pytest.LogCaptureFixture):
    save_run(func(small) / "sub-1_task-rest_bold.nii.gz")
    put(func(small) / "sub-1_task-y_events.tsv", EVENTS)
    save_run(func(small, "sub-3") / "sub-3_bold.nii.gz")
    (func(small) / "sub-1_task-z_bold.nii.gz").symlink_to(small / "annex" / "absent")
    with caplog.at_level(logging.WARNING):
        study = read(small)
    assert len(study.records) == 2
    assert study.dropped == {
        "BOLD run without events.tsv": 1,
        "events without a BOLD run": 1,
        "BOLD run without task-<label> in its name": 1,
        "BOLD run whose content was not fetched (a link of git-annex that leads nowhere)": 1,
    }
    for name in ("task-rest_bold", "task-y_events", "sub-3_bold", "task-z_bold"):
        assert name in caplog.text


def test_tasks_that_were_asked_for(small: Path):
    save_run(func(small) / "sub-1_task-y_bold.nii.gz")
    put(func(small) / "sub-1_task-y_events.tsv", "onset\tduration\ttrial_type\n0\t4\tother\n")
    put(func(small) / "sub-1_task-z_events.tsv", EVENTS)
    study = read(small, tasks=["x"])
    assert {r.columns["task"] for r in study.records} == {"x"}
    assert study.dropped == {"task y is not among the tasks asked for": 1}
    with pytest.raises(ValueError, match=r"no run with events of the task 'absent', only of \['x'\]"):
        read(small, tasks=["x", "absent"])
    with pytest.raises(FileNotFoundError, match="task x is not among the tasks asked for': 2"):
        read(small, tasks=["absent"])


def test_a_run_whose_events_are_all_ignored(small: Path):
    put(func(small) / "sub-1_task-x_run-01_events.tsv", "onset\tduration\ttrial_type\n0\t4\trest\n")
    study = read(small)
    assert len(study.records) == 1
    assert study.dropped == {"no event of any class": 1}


def test_nothing_to_use_says_why_and_what_to_do(small: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no stage in scheme early_late: task x, run 1': 2.*another scheme"):
        read(small, PHASES, scheme="early_late")
    with pytest.raises(FileNotFoundError, match=r"no dataset_description\.json in .*give --raw_dir a BIDS dataset"):
        read(tmp_path / "absent")
    put(tmp_path / "empty" / "dataset_description.json", "{}")
    with pytest.raises(FileNotFoundError, match=r"no run with events of a class .*no \*_bold.nii.gz"):
        read(tmp_path / "empty")


# what is refused


def test_a_damaged_events_file_stops_the_reading(small: Path):
    put(func(small, "sub-2") / "sub-2_task-x_run-01_events.tsv", "onset\tduration\ttrial_type\nn/a\t4\ta\n")
    with pytest.raises(ValueError, match=r"sub-2_task-x_run-01_events\.tsv, line 2: onset is 'n/a'"):
        read(small)


def test_an_unknown_trial_type_names_the_file_and_the_known_codes(small: Path):
    with pytest.raises(
        ValueError, match=r"sub-1.*events\.tsv: the event at 16 s has the code 'rest' .*\['a', 'b'\].*into ignored"
    ):
        read(small, ignored=())


@pytest.mark.parametrize(
    ("classes", "ignored", "message"),
    [
        (TWO | {"c": ["c"]}, ("rest",), r"no event has a code of class 'c', \['c'\], in scheme trial_type"),
        (TWO | {"c": []}, ("rest",), r"no event has a code of class 'c'"),
        ({"a": ["a"], "b": ["b", "a"]}, ("rest",), r"the code 'a' stands twice"),
        ({"a": ["3"], "b": [3.0]}, (), r"the code '3' stands twice"),
    ],
)
def test_classes_that_cannot_be(small: Path, classes: dict, ignored: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        read(small, classes, ignored)


def test_a_scheme_that_is_none(small: Path):
    with pytest.raises(ValueError, match="scheme 'stage' is not one of trial_type, early_late, task_run, learning_curve"):
        read(small, scheme="stage")


def test_a_class_takes_its_codes_out_of_those_ignored(motor: Path):
    """One list of known codes serves every choice of classes, in preparation and in inference."""
    everything = [str(code) for code in range(13)]
    study = read_study(str(motor), "trial_type", LIMBS, everything)
    assert {len(r.events) for r in study.records} == {8}
    for scan, record in zip(list_scans(str(motor), LIMBS, everything), study.records, strict=True):
        assert [(e.onset, e.duration) for e in scan["events"]] == [(e.onset, e.duration) for e in record.events]
