"""Runs with events: one image per run, one row per window, from preparation to the scans that are explained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from custom.data import (
    PARTS,
    Event,
    HoldOut,
    LeaveOneRunOut,
    Record,
    Study,
    Windows,
    prepare,
    read_datalist,
    sample_test_scans,
    split_again,
)
from custom.data.datalist import digest

RULE = Windows(shift=4)
CLASSES = ["rest", "go"]


def make_run(item: dict) -> dict:
    """Read a run: 20 frames of 2 s; ``short.nii`` has 4."""
    frames = 4 if item["image"].endswith("short.nii") else 20
    image = MetaTensor(torch.rand(frames, 3, 3, 3), meta={"repetition_time": 2.0})
    return {"image": image, "report": {"events_seen": len(item["events"])}}


def make_study(folder: Path, subjects: int = 6, runs: int = 3, **changes: object) -> Study:
    events = tuple(Event(8.0 * k, 8.0, k % 2, {"trial_type": CLASSES[k % 2]}) for k in range(4))
    records = []
    for s in range(subjects):
        for r in range(1, runs + 1):
            image = folder / f"s{s}_run-{r}.nii"
            image.touch()
            records.append(Record(image.stem, f"s{s}", str(image), columns={"run": str(r)}, events=events))
    return Study(**{"name": "study", "records": records, "class_names": CLASSES, **changes})


def prepared(folder: Path, study: Study, split=HoldOut(test=1 / 3, validation=1 / 2), windows=RULE) -> dict:  # noqa: B008
    return prepare(study, make_run, split, str(folder), str(folder / "datalist.json"), windows=windows)


def rows_of(content: dict) -> list[dict]:
    return [row for part in PARTS for row in content[part]]


def test_every_window_has_a_row_and_every_run_one_image(tmp_path: Path):
    study = make_study(tmp_path)
    content = prepared(tmp_path / "data", study)
    assert len(rows_of(content)) == 6 * 3 * 4
    assert len(list((tmp_path / "data/images").glob("*.nii"))) == 6 * 3
    row = next(r for r in rows_of(content) if r["block"] == "s2_run-3_001")
    assert row == {
        "image": "images/s2_run-3.nii",
        "events_seen": 4,
        "label": 1,
        "subject": "s2",
        "source": str(tmp_path / "s2_run-3.nii"),
        "run": "3",
        "trial_type": "go",
        "scan": "s2_run-3",
        "block": "s2_run-3_001",
        "onset": 8.0,
        "duration": 8.0,
        "start": 6,
        "frames": 4,
    }
    assert content["windows"] == {"shift": 4, "seconds": None, "frames": None}
    assert content["preprocessing"] == ["function"]


def test_a_window_listed_twice_is_refused(tmp_path: Path):
    prepared(tmp_path / "data", make_study(tmp_path))
    path = tmp_path / "data/datalist.json"
    content = json.loads(path.read_text())
    content["test"].append(content["test"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="listed twice with the window s"):
        read_datalist(path)


def test_a_run_that_is_too_short_for_its_events_is_rejected_with_the_reason(tmp_path: Path):
    study = make_study(tmp_path)
    short = tmp_path / "short.nii"
    short.touch()
    study.records.append(Record("short", "s0", str(short), columns={"run": "4"}, events=study.records[0].events))
    content = prepared(tmp_path / "data", study)
    assert "short" not in {row["scan"] for row in rows_of(content)}
    rejected = (tmp_path / "data/rejected.csv").read_text()
    assert "event 2 begins at 16 s, the run has 4 frames of 2 s" in rejected
    assert str(short) in rejected


def test_events_without_a_rule_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="must be told by `windows`"):
        prepared(tmp_path / "data", make_study(tmp_path), windows=None)


def test_other_labels_need_no_new_images_but_other_events_do(tmp_path: Path):
    study = make_study(tmp_path)
    prepared(tmp_path / "data", study)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "data/images").glob("*.nii")}
    relabelled = [
        Record(r.name, r.subject, r.image, None, r.columns, r.inputs, [Event(e.onset, e.duration, 0) for e in r.events])
        for r in study.records
    ]
    content = prepared(tmp_path / "data", make_study(tmp_path, records=relabelled))
    assert {row["label"] for row in rows_of(content)} == {0}
    assert {p: p.stat().st_mtime_ns for p in written} == written
    fewer = [Record(r.name, r.subject, r.image, None, r.columns, r.inputs, r.events[:2]) for r in study.records]
    with pytest.raises(ValueError, match="prepared with other events.*--dataset_dir"):
        prepared(tmp_path / "data", make_study(tmp_path, records=fewer))


def test_a_raw_run_comes_once_with_its_events(tmp_path: Path):
    content = prepared(tmp_path / "data", make_study(tmp_path))
    scans = sample_test_scans(str(tmp_path / "data/datalist.json"), num_subjects=1)
    assert [s["scan"] for s in scans] == sorted({r["scan"] for r in content["test"] if r["subject"] == scans[0]["subject"]})
    assert all(s["image"] == s["source"] for s in scans)
    assert not {"label", "block", "onset", "start"} & set(scans[0]), "what the windows do not share is not the run's"
    assert [(e.onset, e.label, e.columns["block"][-4:]) for e in scans[0]["events"]] == [
        (0.0, 0, "_000"),
        (8.0, 1, "_001"),
        (16.0, 0, "_002"),
        (24.0, 1, "_003"),
    ]


@pytest.mark.parametrize("held_out", ["1", "2", "3"])
def test_leave_one_run_out_keeps_runs_apart_and_subjects_together(tmp_path: Path, held_out: str):
    content = prepared(tmp_path / "data", make_study(tmp_path), LeaveOneRunOut(held_out=held_out))
    assert {row["run"] for row in content["test"]} == {held_out}
    for part in PARTS:
        assert {row["subject"] for row in content[part]} == {f"s{s}" for s in range(6)}
        assert content["split"]["digest"][part] == digest({row["scan"] for row in content[part]})
    assert read_datalist(tmp_path / "data/datalist.json")["split"]["within_subjects"]


def test_a_run_in_two_parts_is_refused_even_within_subjects(tmp_path: Path):
    prepared(tmp_path / "data", make_study(tmp_path), LeaveOneRunOut(held_out="1"))
    path = tmp_path / "data/datalist.json"
    content = json.loads(path.read_text())
    content["training"].append(content["test"].pop())
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="scan s5_run-1 is in training and in test"):
        read_datalist(path)


def test_a_subject_in_two_parts_is_refused_where_the_split_does_not_say_so(tmp_path: Path):
    prepared(tmp_path / "data", make_study(tmp_path), LeaveOneRunOut(held_out="1"))
    path = tmp_path / "data/datalist.json"
    content = json.loads(path.read_text())
    del content["split"]["within_subjects"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="subject s. is in training and in"):
        read_datalist(path)


@pytest.mark.parametrize(("held_out", "runs", "reason"), [("9", 3, "cannot be left out"), ("1", 2, "need one each")])
def test_runs_that_are_not_there_cannot_be_left_out(tmp_path: Path, held_out: str, runs: int, reason: str):
    prepared(tmp_path / "data", make_study(tmp_path, runs=runs))
    with pytest.raises(ValueError, match=reason):
        split_again(tmp_path / "data/datalist.json", LeaveOneRunOut(held_out=held_out), tmp_path / "other.json")


def test_another_mask_or_tr_needs_new_images(tmp_path: Path):
    study = make_study(tmp_path)
    prepared(tmp_path / "data", study)
    for changes in ({"inputs": {"mask": "mask.nii"}}, {"columns": {"run": "1", "tr": 2.5}}):
        others = [replace(record, **changes) for record in study.records]
        with pytest.raises(ValueError, match="another mask or another TR"):
            prepared(tmp_path / "data", make_study(tmp_path, records=others))


def test_what_is_left_of_a_pair_is_rejected_too(tmp_path: Path):
    study = make_study(tmp_path)
    short = tmp_path / "short.nii"
    short.touch()
    pairs = [replace(r, pair=f"{r.subject}") for r in study.records]
    pairs[0] = replace(pairs[0], name="short", image=str(short))
    content = prepared(tmp_path / "data", make_study(tmp_path, records=pairs))
    assert "s0" not in {row["subject"] for row in rows_of(content)}
    assert f"the run that it is compared with, {short}, was rejected" in (tmp_path / "data/rejected.csv").read_text()
