from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.bids import applicable, entities, repetition_time, root_of
from custom.errors import BadScan

RUN = "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-01_bold.nii.gz"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a dataset; nobody looks into it."""
    write(tmp_path / "dataset_description.json", {})
    image = tmp_path / RUN
    image.parent.mkdir(parents=True)
    image.touch()
    return image


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def header(tr: float = 2.0, unit: str = "sec") -> nib.Nifti1Header:
    image = nib.Nifti1Image(np.zeros((1, 1, 1, 2), np.int16), np.eye(4))
    image.header.set_zooms((1, 1, 1, tr))
    image.header.set_xyzt_units("mm", unit)
    return image.header


# names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (RUN, {"sub": "01", "ses": "1", "task": "rest", "run": "1"}),
        ("sub-01_task-x_run-1_bold.nii", {"sub": "01", "task": "x", "run": "1"}),
        ("sub-1_task-x_run-010_space-T1w_desc-preproc_bold.nii", {"sub": "1", "task": "x", "run": "10", "space": "T1w",
                                                                  "desc": "preproc"}),
        ("task-x_bold.json", {"task": "x"}),
        ("bold.json", {}),
        ("Pitt_0050004_func_preproc.nii.gz", {"Pitt": None, "0050004": None, "func": None}),
    ],
)  # fmt: skip
def test_entities(name: str, expected: dict):
    assert entities(name) == expected


def test_the_dataset_of_a_file(run: Path, tmp_path: Path):
    assert root_of(run) == tmp_path
    assert root_of(tmp_path) == tmp_path
    assert root_of(tmp_path.parent) is None
    derived = write(tmp_path / "derivatives" / "fmriprep" / "dataset_description.json", {}).parent
    assert root_of(derived / "sub-01" / "x.nii") == derived


# inheritance

CHAIN = (
    "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-01_bold.json",
    "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.json",
    "sub-01/sub-01_task-rest_bold.json",
    "task-rest_bold.json",
    "bold.json",
)


def test_the_nearest_and_most_specific_counts_first(run: Path, tmp_path: Path):
    for number, name in enumerate(CHAIN, 1):
        write(tmp_path / name, {"RepetitionTime": number})
    assert [str(f.relative_to(tmp_path)) for f in applicable(run, "bold.json")] == list(CHAIN)
    for number, name in enumerate(CHAIN, 1):
        assert repetition_time(run, header(9)) == number
        (tmp_path / name).unlink()
    assert repetition_time(run, header(9)) == 9
    assert repetition_time(run) is None


def test_a_nearer_file_that_does_not_say_it_is_passed_over(run: Path, tmp_path: Path):
    write(tmp_path / CHAIN[0], {"EchoTime": 0.03})
    write(tmp_path / CHAIN[3], {"RepetitionTime": 2.5})
    assert repetition_time(run, header()) == 2.5


@pytest.mark.parametrize(
    "name",
    [
        "task-motor_bold.json",
        "task-rest_run-2_bold.json",
        "sub-01/sub-02_task-rest_bold.json",
        "task-rest_sbref.json",
        "../task-rest_bold.json",
        "sub-01/ses-1/anat/task-rest_bold.json",
    ],
)
def test_files_of_others_do_not_apply(run: Path, tmp_path: Path, name: str):
    write(tmp_path / name, {"RepetitionTime": 7})
    assert repetition_time(run, header()) == 2.0


def test_run_1_and_run_01_are_one_run(run: Path, tmp_path: Path):
    write(run.with_name("sub-01_ses-1_task-rest_run-1_bold.json"), {"RepetitionTime": 3})
    assert repetition_time(run) == 3
    write(tmp_path / CHAIN[0], {"RepetitionTime": 3})
    assert repetition_time(run) == 3  # its own name counts before
    (events,) = (write(run.with_name("sub-01_ses-1_task-rest_run-001_events.tsv"), ""),)
    assert next(applicable(run, "events.tsv")) == events
    write(run.with_name("sub-01_ses-1_task-rest_run-01_events.tsv"), "")
    with pytest.raises(BadScan, match=r"run-0*1_events.tsv and .*run-0*1_events.tsv apply equally"):
        next(applicable(run, "events.tsv"))


def test_events_of_a_preprocessed_image_are_those_of_the_mirrored_folder(run: Path, tmp_path: Path):
    events = write(run.with_name("sub-01_ses-1_task-rest_run-01_events.tsv"), "")
    image = tmp_path / "derivatives" / "sub-01_ses-1_task-rest_run-1_space-T1w_desc-preproc_bold.nii.gz"
    assert next(applicable(image, "events.tsv", run.parent)) == events
    assert next(applicable(image, "events.tsv"), None) is None


def test_outside_a_dataset_only_the_own_folder_counts(tmp_path: Path):
    write(tmp_path / "bold.json", {"RepetitionTime": 7})
    image = tmp_path / "scans" / "a.nii"
    write(image.with_name("b.json"), {"RepetitionTime": 8})
    assert repetition_time(image) is None
    write(image.with_name("a.json"), {"RepetitionTime": 1.5})
    assert repetition_time(image) == 1.5
    other = image.with_name("Pitt_0050004_func_preproc.json")
    write(other, {"RepetitionTime": 9})
    assert repetition_time(image.with_name("Pitt_0050003_func_preproc.nii.gz")) is None


# values


@pytest.mark.parametrize("value", [0, -2, "2.0", None, True, [2], float("nan"), float("inf"), 2000])
def test_what_is_no_time_in_seconds_is_refused(run: Path, value: object):
    write(run.with_name("sub-01_ses-1_task-rest_run-01_bold.json"), {"RepetitionTime": value})
    with pytest.raises(BadScan, match=r"run-01_bold\.json: RepetitionTime is .* seconds above 0"):
        repetition_time(run, header())


@pytest.mark.parametrize("content", ["{", "", "[1]", "2.0", "\u00ff", "[" * 100_000])
def test_a_broken_json_is_named(run: Path, tmp_path: Path, content: str):
    (tmp_path / "task-rest_bold.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadScan, match=r"task-rest_bold\.json: not a BIDS file"):
        repetition_time(run)


@pytest.mark.parametrize(
    ("tr", "unit", "expected"),
    [
        (2.0, "sec", 2.0),
        (720.0, "msec", 0.72),
        (0.8, "sec", 0.8),
        (0.0, "sec", None),
        (2.0, "unknown", None),
        (2000.0, "sec", None),
    ],
)
def test_the_header_is_the_last_to_be_asked(tmp_path: Path, tr: float, unit: str, expected: float | None):
    assert repetition_time(tmp_path / "a.nii", header(tr, unit)) == expected


def test_real_datasets_say_it_at_their_root(real_data: Path):
    openfmri = real_data / "openfmri" / "ds000052" / "sub-01" / "func"
    assert repetition_time(openfmri / "sub-01_task-weatherprediction_run-1_bold.nii.gz") == 2.0
    assert repetition_time(openfmri / "sub-01_task-rest_bold.nii.gz") is None
    motor = real_data / "somatotopy" / "ds004044" / "sub-01" / "ses-1" / "func"
    assert repetition_time(motor / "sub-01_ses-1_task-motor_run-01_bold.nii.gz") == 2.0
