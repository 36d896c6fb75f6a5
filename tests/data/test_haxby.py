from __future__ import annotations

import gzip
import logging
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from custom.data.haxby import CLASSES, list_scans, read_study
from custom.data.prepare import prepare
from custom.data.records import Event
from custom.data.splits import LeaveOneRunOut
from custom.data.windows import Windows
from custom.errors import BadScan
from custom.transforms.load_bold import LoadBOLDd

GRID = (3, 2, 2)
LENGTH = 2 + 3 * len(CLASSES)  # frames of a run: two of rest, then two of each class and one of rest


def save_image(path: Path, frames: int, tr: float = 2.5, unit: str = "sec", grid: Sequence[int] = GRID) -> Path:
    """Write an image of which frame t is t throughout."""
    voxels = np.broadcast_to(np.arange(1, frames + 1, dtype=np.int16), (*grid, frames))
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_zooms((1, 1, 1, tr))
    image.header.set_xyzt_units("mm", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def save_mask(path: Path, grid: Sequence[int] = GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(grid, np.uint8), np.eye(4)), path)
    return path


def run_labels(order: Sequence[str] = CLASSES) -> list[str]:
    return ["rest", "rest", *(label for name in order for label in (name, name, "rest"))]


def save_labels(path: Path, runs: Sequence[Sequence[str]]) -> Path:
    lines = [f"{label} {chunk}" for chunk, labels in enumerate(runs) for label in labels]
    path.write_text("\n".join(["labels chunks", *lines]) + "\n")
    return path


@pytest.fixture
def nilearn(tmp_path: Path) -> Path:
    """Two subjects in nilearn's layout, of three runs each; classes stand in another order in each run."""
    root = tmp_path / "raw" / "haxby2001"
    runs = [run_labels(np.roll(CLASSES, k).tolist()) for k in range(3)]
    for subject in (1, 2):
        folder = root / f"subj{subject}"
        save_image(folder / "bold.nii.gz", 3 * LENGTH)
        save_labels(folder / "labels.txt", runs)
        save_mask(folder / "mask4_vt.nii.gz")
    save_mask(root / "mask.nii.gz")
    return root


@pytest.fixture
def openfmri(tmp_path: Path) -> Path:
    """One subject of two runs, a file each."""
    root = tmp_path / "raw" / "old"
    onsets = [f"{5 + 7.5 * i}\t5\t{name}" for i, name in enumerate(CLASSES)]
    for run in (1, 2):
        folder = root / "sub001" / "BOLD" / f"task001_run{run:03d}"
        save_image(folder / "bold.nii.gz", LENGTH)
        (folder / "bold_events.tsv").write_text("\n".join(["onset\tduration\ttrial_type", *onsets]) + "\n")
    return root


@pytest.fixture
def bids(real_data: Path, tmp_path: Path) -> Path:
    """ds000105 with its real events of subject 1 and images of one voxel."""
    root = tmp_path / "raw" / "ds000105"
    image = save_image(tmp_path / "bold.nii.gz", 121, grid=(1, 1, 1))
    for events in sorted((real_data / "haxby" / "ds000105_events").glob("*_events.tsv")):
        func = root / "sub-1" / "func"
        func.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(events, func / events.name)
        shutil.copyfile(image, func / events.name.replace("_events.tsv", "_bold.nii.gz"))
    (root / "dataset_description.json").write_text("{}")
    return root


# nilearn's layout


def test_a_file_of_several_runs_is_a_record_per_run(nilearn: Path):
    study = read_study(str(nilearn))
    assert study.name == "Haxby 2001 (nilearn layout)"
    assert study.class_names == ["face", "house", "cat", "bottle", "scissors", "shoe", "chair", "scrambledpix"]
    assert [r.name for r in study.records] == [f"sub-{s}_run-0{n}" for s in (1, 2) for n in (1, 2, 3)]
    assert (study.dropped, study.synthetic) == ({}, False)
    second = study.records[1]
    assert (second.subject, second.label, second.image) == ("sub-1", None, str(nilearn / "subj1" / "bold.nii.gz"))
    assert second.columns == {"dataset": "haxby2001", "run": "2", "tr": 2.5, "run_length": 65.0}
    assert second.inputs == {"mask": str(nilearn / "mask.nii.gz"), "frame_range": "26:52"}


def test_equal_labels_in_a_row_are_one_block(nilearn: Path):
    run = read_study(str(nilearn)).records[1]  # begins with the last class
    assert [e.label for e in run.events] == [7, 0, 1, 2, 3, 4, 5, 6]
    assert [e.onset for e in run.events] == [5 + 7.5 * i for i in range(8)]  # of the run, not of the file
    assert run.events[0] == Event(5.0, 5.0, 7, {"trial_type": "scrambledpix"})
    windows = Windows().locate(run.events, LENGTH, 2.5, "run")
    assert [(w.start, w.frames) for w in windows[:2]] == [(2, 2), (5, 2)]


def test_the_folder_above_is_as_good(nilearn: Path):
    assert read_study(str(nilearn.parent)) == read_study(str(nilearn))


def test_each_run_is_prepared_from_its_own_frames(nilearn: Path, tmp_path: Path):
    study = read_study(str(nilearn), subjects=1)
    split = LeaveOneRunOut(column="run", held_out="3", stratify="run")
    content = prepare(study, LoadBOLDd(), split, str(tmp_path / "d"), str(tmp_path / "d" / "datalist.json"), windows=Windows())
    assert {part: {row["scan"] for row in content[part]} for part in ("training", "validation", "test")} == {
        "training": {"sub-1_run-02"}, "validation": {"sub-1_run-01"}, "test": {"sub-1_run-03"},
    }  # fmt: skip
    for run in range(3):
        prepared = nib.load(tmp_path / "d" / "images" / f"sub-1_run-0{run + 1}.nii")
        np.testing.assert_array_equal(prepared.get_fdata()[0, 0, 0], np.arange(1, LENGTH + 1) + run * LENGTH)
        assert prepared.header.get_zooms()[3] == 2.5


def test_other_frames_of_the_same_file_are_prepared_anew(nilearn: Path, tmp_path: Path):
    def again() -> None:
        prepare(
            read_study(str(nilearn), subjects=1), LoadBOLDd(), LeaveOneRunOut(held_out="3"), str(tmp_path / "d"),
            str(tmp_path / "d" / "datalist.json"), windows=Windows(),
        )  # fmt: skip

    again()
    again()
    labels = [run_labels()[:-1], ["rest", *run_labels()], run_labels()]  # the second run begins a frame earlier
    save_labels(nilearn / "subj1" / "labels.txt", labels)
    with pytest.raises(ValueError, match=r"holds .*subj1/bold\.nii\.gz prepared with other events"):
        again()


def test_masks_are_named(nilearn: Path):
    masks = [r.inputs["mask"] for r in read_study(str(nilearn), mask="mask4_vt").records]
    assert masks == [str(nilearn / f"subj{s}" / "mask4_vt.nii.gz") for s in (1, 1, 1, 2, 2, 2)]
    assert read_study(str(nilearn), mask="mask").records[0].inputs["mask"] == str(nilearn / "mask.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"no mask hoc in .*subj1 or .*have \['mask\.nii\.gz', 'mask4_vt"):
        read_study(str(nilearn), mask="hoc")
    (nilearn / "mask.nii.gz").unlink()
    assert "mask" not in read_study(str(nilearn)).records[0].inputs


def test_a_mask_of_another_grid_is_refused_when_it_is_read(nilearn: Path):
    save_mask(nilearn / "mask.nii.gz", (3, 2, 3))
    record = read_study(str(nilearn)).records[0]
    with pytest.raises(BadScan, match=r"its mask .*mask\.nii\.gz is on another grid, shape \(3, 2, 3\) for \(3, 2, 2\)"):
        LoadBOLDd()({"image": record.image, **record.inputs})


def test_subjects_are_chosen(nilearn: Path):
    for chosen in (2, "sub-2", [2], ("subj2",)):
        assert {r.subject for r in read_study(str(nilearn), subjects=chosen).records} == {"sub-2"}
    with pytest.raises(ValueError, match=r"has no sub-3, only \['sub-1', 'sub-2'\]"):
        read_study(str(nilearn), subjects=[1, 3])


def test_ten_subjects_and_runs_are_in_order_of_their_numbers(nilearn: Path):
    shutil.copytree(nilearn / "subj1", nilearn / "subj10")
    assert list(dict.fromkeys(r.subject for r in read_study(str(nilearn)).records)) == ["sub-1", "sub-2", "sub-10"]


def test_a_run_of_rest_is_dropped_and_a_lacking_class_warned_of(nilearn: Path, caplog: pytest.LogCaptureFixture):
    labels = run_labels()
    lacking = ["rest" if label == "cat" else label for label in labels]
    save_labels(nilearn / "subj2" / "labels.txt", [labels, ["rest"] * LENGTH, lacking])
    with caplog.at_level(logging.WARNING):
        study = read_study(str(nilearn))
    assert study.dropped == {"run without a block of any class": 1}
    assert [r.name for r in study.records][3:] == ["sub-2_run-01", "sub-2_run-03"]
    assert any("sub-2_run-03" in message and message.endswith("has no block of cat.") for message in caplog.messages)


def test_a_class_that_no_run_shows_is_an_error(nilearn: Path):
    lacking = [["rest" if label == "cat" else label for label in run_labels()]] * 3
    for subject in (1, 2):
        save_labels(nilearn / f"subj{subject}" / "labels.txt", lacking)
    with pytest.raises(ValueError, match=r"haxby2001 \(nilearn layout\) has no block of cat"):
        read_study(str(nilearn))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([run_labels()] * 2, r"labels\.txt has labels of 52 frames, .*bold\.nii\.gz has 78: fetch both again"),
        ([run_labels()] * 4, "has labels of 104 frames"),
        ([["face", "dog", *run_labels()[2:]], *[run_labels()] * 2], r"labels\.txt, line 3: unknown category 'dog'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(nilearn: Path, runs: list[list[str]], message: str):
    save_labels(nilearn / "subj2" / "labels.txt", runs)
    with pytest.raises(ValueError, match=message):
        read_study(str(nilearn))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line is '', 'labels chunks' is wanted"),
        ("face 0\n", "its first line is 'face 0'"),
        ("labels chunks\nface\n", "line 2: 'face' is no category and number of a run"),
        ("labels chunks\nface one\n", "line 2: 'face one' is no"),
    ],
)
def test_damaged_labels_are_refused(nilearn: Path, text: str, message: str):
    (nilearn / "subj1" / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_study(str(nilearn))


def test_a_run_in_two_pieces_is_refused(nilearn: Path):
    table = nilearn / "subj1" / "labels.txt"
    table.write_text(table.read_text().replace(" 2\n", " 0\n"))
    with pytest.raises(ValueError, match=r"labels\.txt: the frames of chunk 0 are not in a row"):
        read_study(str(nilearn))


def test_files_that_are_not_there(nilearn: Path):
    (nilearn / "subj1" / "bold.nii.gz").unlink()
    assert read_study(str(nilearn)).dropped == {"folder without bold.nii.gz": 1}
    (nilearn / "subj2" / "labels.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"subj2/labels\.txt does not exist, .*: fetch it again"):
        read_study(str(nilearn))


def test_the_time_between_frames_is_the_header_s_or_stated(nilearn: Path):
    assert read_study(str(nilearn), repetition_time=2.0).records[0].events[0].onset == 4.0
    save_image(nilearn / "subj1" / "bold.nii.gz", 3 * LENGTH, tr=3.0)
    assert read_study(str(nilearn)).records[0].columns["tr"] == 3.0
    assert read_study(str(nilearn)).records[0].events[0].duration == 6.0
    save_image(nilearn / "subj1" / "bold.nii.gz", 3 * LENGTH, unit="unknown")
    with pytest.raises(ValueError, match=r"subj1/bold\.nii\.gz: its header does not say the time .*give --repetition_time"):
        read_study(str(nilearn))
    assert read_study(str(nilearn), repetition_time=2.5).records[0].columns["tr"] == 2.5


def test_images_that_are_none(nilearn: Path):
    (nilearn / "subj1" / "bold.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"subj1/bold\.nii\.gz: damaged, or no NIfTI .*fetch it again"):
        read_study(str(nilearn))
    save_mask(nilearn / "subj1" / "bold.nii.gz")
    with pytest.raises(ValueError, match=r"has shape \(3, 2, 2\), a run after the other"):
        read_study(str(nilearn))


# OpenfMRI's old layout


def test_a_file_per_run(openfmri: Path):
    study = read_study(str(openfmri.parent))
    assert study.name == "Haxby 2001 (OpenfMRI layout)"
    assert [(r.name, r.subject) for r in study.records] == [("sub-1_run-01", "sub-1"), ("sub-1_run-02", "sub-1")]
    second = study.records[1]
    assert second.image == str(openfmri / "sub001" / "BOLD" / "task001_run002" / "bold.nii.gz")
    assert second.columns == {"dataset": "old", "run": "2", "tr": 2.5, "run_length": 65.0}
    assert second.inputs == {}
    assert [e.label for e in second.events] == list(range(8))
    assert second.events[1] == Event(12.5, 5.0, 1, {"trial_type": "house"})


def test_a_stated_time_scales_the_length_of_a_run(openfmri: Path):
    columns = read_study(str(openfmri), repetition_time=2.0).records[0].columns
    assert (columns["tr"], columns["run_length"]) == (2.0, 52.0)
    image = save_image(openfmri / "sub001" / "BOLD" / "task001_run001" / "bold.nii.gz", LENGTH, unit="unknown")
    image.with_name("bold_events.tsv").unlink()
    with pytest.raises(ValueError, match=r"run001/bold\.nii\.gz: how long it is cannot be told: put RepetitionTime"):
        list_scans(str(openfmri), every=10)


def test_tables_of_a_run_that_do_not_fit(openfmri: Path):
    table = openfmri / "sub001" / "BOLD" / "task001_run002" / "bold_events.tsv"
    text = table.read_text()
    table.write_text(text.replace("cat", "dog"))
    with pytest.raises(ValueError, match=r"run002/bold_events\.tsv: unknown category 'dog' at 20 s"):
        read_study(str(openfmri))
    table.write_text(text + "70\t2\trest\n")
    assert len(read_study(str(openfmri)).records[1].events) == 8
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"run002/bold_events\.tsv does not exist"):
        read_study(str(openfmri))


def test_a_damaged_run_is_left_to_preparation(openfmri: Path, caplog: pytest.LogCaptureFixture):
    (openfmri / "sub001" / "BOLD" / "task001_run002" / "bold.nii.gz").write_bytes(b"no image")
    study = read_study(str(openfmri))
    assert study.records[1].columns["tr"] is None
    assert any("damaged, or no NIfTI" in message for message in caplog.messages)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_damaged_header_is_named(nilearn: Path, value: float):
    file = nilearn / "subj1" / "bold.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[108:112] = struct.pack("<f", value)  # where its voxels begin
    file.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ValueError, match=r"subj1/bold\.nii\.gz: damaged, or no NIfTI .*: fetch it again"):
        read_study(str(nilearn))


def test_the_real_runs(real_data: Path):
    folder = real_data / "haxby"
    study = read_study(str(folder), image="bold_1slice.nii.gz", mask="mask_1slice.nii.gz")
    assert [r.columns["run"] for r in study.records] == list("12345678")
    assert {tuple(sorted(e.label for e in r.events)) for r in study.records} == {tuple(range(8))}
    assert [e.onset for e in study.records[0].events] == [15, 52.5, 87.5, 122.5, 157.5, 195, 230, 265]
    assert {w.frames for r in study.records for w in Windows().locate(r.events, 121, 2.5, r.name)} == {9}
    data = LoadBOLDd()({"image": study.records[0].image, **study.records[0].inputs})
    assert (tuple(data["image"].shape), int(data["mask"].sum())) == ((121, 40, 20, 1), 530)
    assert data["image"].meta["repetition_time"] == 2.5
    with pytest.raises(FileNotFoundError, match=r"OpenfMRI layout\), which have \['bold_1slice\.nii\.gz', 'bold_25mm"):
        read_study(str(folder))
    coarse = read_study(str(folder), image="bold_25mm.nii.gz", mask="masks25mm/brain").records[0]
    assert LoadBOLDd()({"image": coarse.image, **coarse.inputs})["image"].shape == (121, 6, 10, 10)
    wrong = read_study(str(folder), image="bold_25mm.nii.gz", mask="mask_1slice").records[0]
    with pytest.raises(BadScan, match="is on another grid"):
        LoadBOLDd()({"image": wrong.image, **wrong.inputs})


# BIDS


def test_pictures_of_a_block_are_one_event(bids: Path):
    study = read_study(str(bids.parent))
    assert study.name == "Haxby 2001 (BIDS layout)"
    assert [r.name for r in study.records] == [f"sub-1_run-{n:02d}" for n in range(1, 13)]
    assert {tuple(sorted(e.label for e in r.events)) for r in study.records} == {tuple(range(8))}
    first = study.records[0]
    assert [(e.onset, e.duration) for e in first.events] == [(12 + 36 * i, 22.5) for i in range(8)]
    assert first.events[1] == Event(48.0, 22.5, 0, {"trial_type": "face"})
    assert first.columns == {"dataset": "ds000105", "run": "1", "tr": 2.5, "run_length": 302.5}


def test_blocks_of_a_kind_far_apart_stay_two(bids: Path):
    table = next(bids.rglob("*_run-01_events.tsv"))
    extra = "300.000\t0.500\tchair\n302.000\t0.500\tchair\n"
    table.write_text(table.read_text() + extra)
    events = read_study(str(bids)).records[0].events
    assert [(e.onset, e.duration) for e in events[-1:]] == [(300, 2.5)]
    assert len(events) == 9


def test_the_three_layouts_tell_of_one_study(bids: Path, real_data: Path):
    """The labels of the old layout are those of the stimuli some 3 s before, class by class."""
    old = read_study(str(real_data / "haxby"), image="bold_1slice.nii.gz").records
    for record, stimuli in zip(old, read_study(str(bids)).records, strict=False):
        assert record.name == stimuli.name
        assert [e.label for e in record.events] == [e.label for e in stimuli.events]
        delays = np.array([e.onset for e in record.events]) - [e.onset for e in stimuli.events]
        assert ((delays >= 0) & (delays <= 5)).all()


def test_names_of_images_are_bids_own(bids: Path):
    with pytest.raises(ValueError, match=r"BIDS layout\): its images are called \*_bold\.nii\.gz"):
        read_study(str(bids), image="bold_1slice.nii.gz")


# the folder


def test_no_layout_and_several(nilearn: Path, openfmri: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds several: .*haxby2001 \(nilearn layout\), .*old \(OpenfMRI layout\)"):
        read_study(str(tmp_path / "raw"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no study of Haxby in .*empty.*scripts/download\.py haxby"):
        read_study(str(tmp_path / "empty"))


def test_the_marker_of_a_phantom_is_seen(nilearn: Path):
    (nilearn.parent / "SYNTHETIC").write_text("")
    assert read_study(str(nilearn)).synthetic
    assert read_study(str(nilearn.parent)).synthetic


# scans to decode


def test_scans_bear_blocks_without_labels(nilearn: Path):
    scans = list_scans(str(nilearn))
    assert len(scans) == 6
    assert scans[4]["frame_range"] == "26:52"
    assert {key: scans[4][key] for key in ("image", "subject", "scan", "mask")} == {
        "image": str(nilearn / "subj2" / "bold.nii.gz"), "subject": "sub-2", "scan": "sub-2_run-02",
        "mask": str(nilearn / "mask.nii.gz"),
    }  # fmt: skip
    assert scans[4]["events"][0] == Event(5.0, 5.0, None, {"trial_type": "scrambledpix"})
    data = LoadBOLDd()(scans[4])
    assert data["image"][:, 0, 0, 0].tolist() == list(range(27, 53))


def test_scans_of_a_part_of_the_study(nilearn: Path, openfmri: Path):
    assert {s["subject"] for s in list_scans(str(nilearn / "subj2"))} == {"sub-2"}
    assert len(list_scans(str(nilearn / "subj2" / "bold.nii.gz"), mask="mask4_vt")) == 3
    run = openfmri / "sub001" / "BOLD" / "task001_run002"
    assert [s["scan"] for s in list_scans(str(run / "bold.nii.gz"))] == ["sub-1_run-02"]
    assert [s["scan"] for s in list_scans(str(run))] == ["sub-1_run-02"]


def test_scans_without_labels_are_cut_up(nilearn: Path, openfmri: Path, tmp_path: Path):
    (nilearn / "subj1" / "labels.txt").unlink()
    with pytest.raises(ValueError, match=r"subj1/bold\.nii\.gz has no labels: give --scans::every"):
        list_scans(str(nilearn))
    (scan,) = list_scans(str(nilearn / "subj1" / "bold.nii.gz"), every=60)
    assert (scan["scan"], "frame_range" in scan) == ("sub-1", False)
    assert scan["events"] == tuple(Event(60.0 * i, 60) for i in range(4))  # 195 s
    run = openfmri / "sub001" / "BOLD" / "task001_run002"
    (run / "bold_events.tsv").unlink()
    assert [len(s["events"]) for s in list_scans(str(openfmri), every=32.5)] == [8, 2]
    stray = save_image(tmp_path / "raw" / "any.nii.gz", 10)
    (scan,) = list_scans(str(stray), every=5)
    assert (scan["scan"], len(scan["events"])) == ("any", 5)
    with pytest.raises(ValueError, match="every is 0"):
        list_scans(str(stray), every=0)


def test_scans_in_bids_join_their_pictures(bids: Path):
    scans = list_scans(str(bids))
    assert len(scans) == 12
    assert len(scans[0]["events"]) == 8
    assert scans[0]["events"][0] == Event(12.0, 22.5, None, {"trial_type": "scissors"})
    mask = save_mask(bids / "brain.nii.gz", (1, 1, 1))
    assert list_scans(str(bids), mask="brain.nii.gz")[0]["mask"] == str(mask)
    with pytest.raises(FileNotFoundError, match=r"no mask .*hoc"):
        list_scans(str(bids), mask="hoc")


def test_the_order_of_rows_in_a_table_does_not_matter(openfmri: Path):
    table = openfmri / "sub001" / "BOLD" / "task001_run001" / "bold_events.tsv"
    before = read_study(str(openfmri)).records[0]
    pd.read_csv(table, sep="\t").iloc[::-1].to_csv(table, sep="\t", index=False)
    assert read_study(str(openfmri)).records[0] == before
