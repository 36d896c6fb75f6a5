from __future__ import annotations

import json
from pathlib import Path

import pytest

from custom.data import images_within, list_scans, sample_test_scans

LABELS = {"s1": 0, "s2": 0, "s3": 1, "s4": 0, "s5": 1}


def test_one_file_is_one_scan(tmp_path: Path):
    (tmp_path / "head.nii.gz").touch()
    assert list_scans(str(tmp_path / "head.nii.gz")) == [{"image": str(tmp_path / "head.nii.gz"), "subject": "head.nii.gz"}]


def test_every_scan_below_a_folder_is_named_by_its_place(tmp_path: Path):
    for name in ("a/t1.nii", "b/t1.nii", "c.img", "c.hdr", "d.JPG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scans = list_scans(str(tmp_path))
    assert [s["subject"] for s in scans] == ["a/t1.nii", "b/t1.nii", "c.img", "d.JPG"]
    assert all(s["image"] == str(tmp_path / s["subject"]) for s in scans)


@pytest.mark.parametrize("path", ["", "absent", "absent.nii"])
def test_no_scan(tmp_path: Path, path: str):
    with pytest.raises(FileNotFoundError, match="give --dataset_dir"):
        list_scans(str(tmp_path / path))


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Every test subject has two scans of three slices each."""
    rows = []
    for subject, label in LABELS.items():
        for visit in "12":
            source = tmp_path / f"{subject}_{visit}.img"
            source.touch()
            for z in range(3):
                image = tmp_path / f"{subject}_{visit}_{z}.nii"
                image.touch()
                rows.append({"image": image.name, "label": label, "subject": subject, "source": str(source)})
    content = {"class_names": ["a", "b"], "split": {}, "training": [], "validation": [], "test": rows}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path / "datalist.json"


@pytest.mark.parametrize(("wanted", "expected"), [(1, ["s1"]), (3, ["s1", "s3", "s2"]), (9, ["s1", "s3", "s2", "s5", "s4"])])
def test_test_subjects_come_from_the_classes_in_turn(datalist: Path, wanted: int, expected: list[str]):
    scans = sample_test_scans(str(datalist), wanted)
    assert list(dict.fromkeys(s["subject"] for s in scans)) == expected
    assert all(s["label"] == LABELS[s["subject"]] for s in scans)


def test_all_raw_scans_of_a_subject_each_once(datalist: Path):
    scans = sample_test_scans(str(datalist), 2)
    assert [Path(s["image"]).name for s in scans] == ["s1_1.img", "s1_2.img", "s3_1.img", "s3_2.img"]


def test_a_raw_scan_that_has_gone_is_named(datalist: Path):
    (datalist.parent / "s3_2.img").unlink()
    assert len(sample_test_scans(str(datalist), 1)) == 2
    with pytest.raises(FileNotFoundError, match=r"the raw scan .*s3_2\.img, which"):
        sample_test_scans(str(datalist), 2)


def test_a_memory_budget_counts_the_images_that_fit(tmp_path: Path):
    (tmp_path / "image.nii").write_bytes(bytes(2**20))
    rows = [{"image": str(tmp_path / "image.nii")}] * 3
    assert images_within(1, rows) == 1024
    assert images_within(1.5 / 1024, rows) == 1
    assert images_within(0, rows) == 0
    assert images_within(8, []) == 0
