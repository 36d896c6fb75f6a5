"""Preprocessed images in place of the raw ones, and the runs to predict."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from bids_cases import EVENTS, put, read, save_run, write_small

from custom.data.bids_layout import name_of, timing
from custom.data.bids_task import list_scans


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path / "raw")


# headers


def damaged(path: Path, place: int, content: bytes) -> Path:
    header = bytearray(gzip.decompress(save_run(path).read_bytes()))
    header[place : place + len(content)] = content
    path.write_bytes(gzip.compress(bytes(header)))
    return path


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (108, struct.pack("<f", float("inf"))),  # where the voxels begin
        (108, struct.pack("<f", float("nan"))),
        (252, struct.pack("<2hf", 1, 0, 9.0)),  # a quaternion, which has no length of 1
    ],
)
def test_a_damaged_header_says_no_time(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int, content: bytes):
    """Preparation will reject the run, and the study is read."""
    image = damaged(tmp_path / "sub-1_task-x_bold.nii.gz", place, content)
    assert timing(image) == {"tr": None, "run_length": None}
    assert f"{image}: damaged, or no NIfTI" in caplog.text


def test_a_time_in_no_known_unit_says_nothing(tmp_path: Path):
    image = damaged(tmp_path / "sub-1_task-x_bold.nii.gz", 123, b"\xff")
    assert timing(image) == {"tr": None, "run_length": None}


# preprocessed images


@pytest.fixture
def prepped(small: Path) -> Path:
    """Two spaces, masks of one of them, and ``run-1`` where the raw dataset says ``run-01``, as in ds004044."""
    folder = small / "derivatives" / "fmriprep"
    put(folder / "dataset_description.json", "{}")
    for subject in ("sub-1", "sub-2"):
        for space in ("", "_space-MNI"):
            save_run(folder / subject / "func" / f"{subject}_task-x_run-1{space}_desc-preproc_bold.nii.gz", tr=1.5)
        put(folder / subject / "func" / f"{subject}_task-x_run-1_space-MNI_desc-brain_mask.nii.gz")
    return folder


def test_preprocessed_images_stand_in_for_the_raw_ones(small: Path, prepped: Path):
    first, second = read(small, derivatives=str(prepped), space="MNI").records
    assert first.name == "raw_sub-1_task-x_run-1"
    assert first.image == str(prepped / "sub-1" / "func" / "sub-1_task-x_run-1_space-MNI_desc-preproc_bold.nii.gz")
    assert first.inputs == {"mask": first.image.replace("preproc_bold", "brain_mask")}
    assert len(first.events) == 2
    assert (second.columns["age"], second.columns["tr"], second.columns["dataset"]) == (30, 1.5, "raw")
    own = read(small, derivatives=str(prepped)).records[0]
    assert "space" not in own.image
    assert own.inputs == {}


def test_a_run_that_was_not_preprocessed_is_counted(small: Path, prepped: Path):
    (prepped / "sub-2" / "func" / "sub-2_task-x_run-1_space-MNI_desc-preproc_bold.nii.gz").unlink()
    assert read(small, derivatives=str(prepped), space="MNI").dropped == {"events without a BOLD run": 1}


def test_a_space_that_is_not_there_names_those_that_are(small: Path, prepped: Path):
    with pytest.raises(ValueError, match=r"fmriprep has no run in space T1w: give one of \['MNI', 'None'\]"):
        read(small, derivatives=str(prepped), space="T1w")


def test_preprocessed_images_of_several_datasets(tmp_path: Path):
    for name in ("A", "B"):
        write_small(tmp_path / "raw" / name)
        for subject in ("sub-1", "sub-2"):
            save_run(tmp_path / "prep" / name / subject / "func" / f"{subject}_task-x_run-1_desc-preproc_bold.nii.gz")
    records = read(tmp_path / "raw", derivatives=str(tmp_path / "prep")).records
    assert [Path(r.image).relative_to(tmp_path).parts[:2] for r in records] == [("prep", n) for n in "AABB"]
    assert [r.subject for r in records] == ["A_sub-1", "A_sub-2", "B_sub-1", "B_sub-2"]


# list_scans


def test_runs_to_predict_are_named_as_in_the_study(small: Path):
    scans = list_scans(str(small), ignored=["rest"])
    records = read(small).records
    assert [(s["image"], s["subject"], s["scan"]) for s in scans] == [(r.image, r.subject, r.name) for r in records]
    assert [(e.onset, e.duration, e.columns) for e in scans[0]["events"]] == [
        (e.onset, e.duration, e.columns) for e in records[0].events
    ]
    assert all(e.label is None for s in scans for e in s["events"])
    assert [len(s["events"]) for s in list_scans(str(small))] == [3, 3]
    one = list_scans(scans[1]["image"], ignored=["rest"])
    assert one == [scans[1]]


def test_a_run_of_any_name_is_cut_into_pieces(tmp_path: Path):
    image = save_run(tmp_path / "patient.nii", frames=15, tr=2.0)
    with pytest.raises(ValueError, match=r"patient\.nii has no events\.tsv: give --scans::every"):
        list_scans(str(image))
    (scan,) = list_scans(str(image), every=8)
    assert (scan["image"], scan["subject"], scan["scan"]) == (str(image), "patient", "patient")
    assert [(e.onset, e.duration) for e in scan["events"]] == [(0, 8), (8, 8), (16, 8), (24, 8)]
    assert len(list_scans(str(image), every=7.5)[0]["events"]) == 4
    put(tmp_path / "patient_events.tsv", EVENTS)
    assert [e.onset for e in list_scans(str(image), every=8)[0]["events"]] == [0, 8, 16]


def test_a_run_whose_length_is_not_known_cannot_be_cut(tmp_path: Path):
    save_run(tmp_path / "a.nii.gz", frames=232, tr=0)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: how long it is cannot be told: put RepetitionTime"):
        list_scans(str(tmp_path / "a.nii.gz"), every=8)
    put(tmp_path / "a.json", '{"RepetitionTime": 1}')
    assert len(list_scans(str(tmp_path / "a.nii.gz"), every=8)[0]["events"]) == 29
    with pytest.raises(ValueError, match="every is 0 s"):
        list_scans(str(tmp_path), every=0)


def test_preprocessed_runs_to_predict_take_the_raw_events(small: Path, prepped: Path):
    for image in prepped.glob("*/func/*run-1_desc-preproc_bold.nii.gz"):
        image.unlink()
    with pytest.raises(ValueError, match="or --scans::events_dir"):
        list_scans(str(prepped))
    first, second = list_scans(str(prepped), ignored=["rest"], events_dir=str(small))
    assert (first["scan"], first["subject"], len(first["events"])) == ("raw_sub-1_task-x_run-1", "sub-1", 2)
    assert second["mask"].endswith("sub-2_task-x_run-1_space-MNI_desc-brain_mask.nii.gz")


def test_two_spaces_of_a_run_are_not_predicted_twice(small: Path, prepped: Path):
    with pytest.raises(ValueError, match="are both of the run raw_sub-1_task-x_run-1"):
        list_scans(str(prepped), events_dir=str(small))
    scans = list_scans(str(prepped), events_dir=str(small), space="MNI")
    assert scans
    assert all("space-MNI" in scan["image"] for scan in scans)


def test_a_trial_type_of_no_class_is_refused_where_trial_types_are_classes(small: Path):
    assert list_scans(str(small))
    with pytest.raises(ValueError, match="is of no class: name it in --scans::ignored"):
        list_scans(str(small), {"only": ["nothing like it"]})


def test_any_other_folder(tmp_path: Path):
    for name in ("b/scan2_bold.nii", "a/scan1_bold.nii.gz", "a/scan1_mask.nii.gz"):
        save_run(tmp_path / name)
    put(tmp_path / "a" / "scan1_bold.nii.gz.part")
    assert [s["scan"] for s in list_scans(str(tmp_path), every=10)] == ["scan1_bold", "scan2_bold"]
    with pytest.raises(FileNotFoundError, match=r"no run .*give --dataset_dir one"):
        list_scans(str(tmp_path / "absent"))


def test_a_run_that_was_not_fetched_is_not_passed_over(small: Path):
    (small / "sub-1" / "func" / "sub-1_task-x_run-02_bold.nii.gz").symlink_to(small / "annex" / "absent")
    put(small / "sub-1" / "func" / "sub-1_task-x_run-02_events.tsv", EVENTS)
    assert [s["scan"] for s in list_scans(str(small / "sub-1"))] == ["raw_sub-1_task-x_run-1", "raw_sub-1_task-x_run-2"]


@pytest.mark.parametrize(("folder", "name"), [("ds 1 (new)", "ds-1-new-_sub-1_task-x"), ("ds1.0", "ds1.0_sub-1_task-x")])
def test_a_name_is_fit_for_a_file(folder: str, name: str):
    assert name_of(Path(folder), {"task": "x", "sub": "1", "space": "MNI"}) == name
    assert name_of(None, {"sub": "1", "run": None}) == "sub-1"
