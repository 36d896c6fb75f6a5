from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from custom.data import PARTS, HoldOut, KFold, LeaveOneGroupOut, Record, Study, read_datalist, split_again, write_datalist
from custom.data.datalist import digest, hashed, names

CLASSES = ["healthy", "ill"]
THIRDS = HoldOut(test=1 / 3, validation=1 / 3)


def make_study(num_subjects: int = 12, **changes: Any) -> Study:
    records = [
        Record(f"s{i:02d}", f"s{i:02d}", f"/raw/s{i:02d}.img", i % 2, {"Age": 60 + i, "site": "ab"[i // 2 % 2]})
        for i in range(num_subjects)
    ]
    return Study(**{"name": "study", "records": records, "class_names": CLASSES, **changes})


def prepared_images(folder: Path, study: Study, slices: int = 1) -> dict[str, list[dict]]:
    """Make the prepared files of a study, empty ones, and say what stands in them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = {r.name: [{"image": f"images/{r.name}_{z}.nii", "slice": z} for z in range(slices)] for r in study.records}
    for rows in images.values():
        for row in rows:
            (folder / row["image"]).touch()
    return images


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    study = make_study()
    write_datalist(tmp_path / "datalist.json", study, THIRDS, prepared_images(tmp_path, study))
    return tmp_path / "datalist.json"


@pytest.fixture
def tampered(listed: Path) -> Callable[[Callable[[dict], Any]], Path]:
    """Function: changes the content of the list by hand and returns its path."""

    def tamper(change: Callable[[dict], Any]) -> Path:
        content = json.loads(listed.read_text())
        change(content)
        listed.write_text(json.dumps(content))
        return listed

    return tamper


def all_rows(content: dict) -> list[dict]:
    return [row for part in PARTS for row in content[part]]


def test_paths_are_relative_in_the_file_and_absolute_after_reading(listed: Path, monkeypatch: pytest.MonkeyPatch):
    assert all(row["image"].startswith("images/") for row in all_rows(json.loads(listed.read_text())))
    monkeypatch.chdir(listed.parent)
    for path in (listed, "datalist.json", Path("images/../datalist.json")):
        images = [Path(row["image"]) for row in all_rows(read_datalist(path))]
        assert all(image.is_absolute() and image.is_file() for image in images)


def test_a_dataset_can_be_moved(listed: Path, tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("elsewhere") / "data"
    listed.parent.rename(home)
    assert all(Path(row["image"]).parent == home / "images" for row in all_rows(read_datalist(home / "datalist.json")))


def test_a_row_holds_what_the_record_says(listed: Path):
    row = next(r for r in all_rows(json.loads(listed.read_text())) if r["subject"] == "s03")
    expected = {"label": 1, "source": "/raw/s03.img", "Age": 63, "site": "b", "slice": 0, "image": "images/s03_0.nii"}
    assert row == {"subject": "s03", **expected}


def test_the_content_says_where_it_comes_from(tmp_path: Path):
    study = make_study(synthetic=True, subjects_known=False, dropped={"no CDR": 3})
    split = KFold(n_splits=3, fold=1, validation=0.5)
    write_datalist(tmp_path / "datalist.json", study, split, prepared_images(tmp_path, study))
    content = read_datalist(tmp_path / "datalist.json")
    assert content["study"] == "study"
    assert content["synthetic"] is True
    assert content["subjects_known"] is False
    assert content["dropped"] == {"no CDR": 3}
    assert content["class_names"] == CLASSES
    assert content["split"]["method"] == "KFold"
    assert content["split"]["fold"] == 1
    assert content["split"]["digest"] == {part: digest({r["subject"] for r in content[part]}) for part in PARTS}


def test_the_slices_of_a_subject_stay_together(tmp_path: Path):
    study = make_study()
    content = write_datalist(tmp_path / "datalist.json", study, THIRDS, prepared_images(tmp_path, study, slices=5))
    assert len(all_rows(content)) == 60
    for subject in names(all_rows(content)):
        homes = [part for part in PARTS if subject in names(content[part])]
        assert len(homes) == 1
        assert sum(row["subject"] == subject for row in content[homes[0]]) == 5


def test_a_rejected_scan_is_in_no_part(tmp_path: Path):
    study = make_study()
    images = prepared_images(tmp_path, study)
    del images["s05"]
    content = write_datalist(tmp_path / "datalist.json", study, THIRDS, images)
    assert names(all_rows(content)) == sorted({r.subject for r in study.records} - {"s05"})


def move_a_row(content: dict) -> None:
    content["test"].append({**content["training"][0], "image": content["test"].pop()["image"]})


def name_a_group(content: dict) -> None:
    content["split"]["group"] = "site"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_a_row, r"subject s\d\d is in training and in test"),
        (name_a_group, r"site \w is in \w+ and in \w+"),
        (lambda c: c["test"][0].update(label=2), r"label 2 of subject s\d\d is not an index into \['healthy', 'ill'\]"),
        (lambda c: c["test"][0].update(label=-1), "label -1 of subject"),
        (lambda c: c["test"][0].update(label="ill"), "label ill of subject"),
        (lambda c: c["test"][0].update(label=None), "a row has no 'label'"),
        (lambda c: c["training"][0].pop("subject"), "a row has no 'subject'"),
        (lambda c: c["training"].append(c["training"][0]), r"images/s\d\d_0\.nii is listed twice"),
    ],
)
def test_a_list_that_breaks_an_invariant_is_refused(tampered, change: Callable[[dict], Any], message: str):
    path = tampered(change)
    with pytest.raises(ValueError, match=message) as error:
        read_datalist(path)
    assert str(path) in str(error.value)


def test_a_listed_image_that_is_absent_is_refused(listed: Path):
    gone = listed.parent / json.loads(listed.read_text())["test"][0]["image"]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{gone}, which does not exist"):
        read_datalist(listed)


def test_no_list_at_all(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="run preprocess.json first, or give --dataset_dir"):
        read_datalist(tmp_path / "datalist.json")


def test_other_classes_than_the_configurations_are_refused(listed: Path):
    read_datalist(listed, class_names=dict.fromkeys(CLASSES))
    for wrong in (["ill", "healthy"], ["healthy", "mild", "ill"], ["healthy"]):
        with pytest.raises(ValueError, match="prepared for the classes"):
            read_datalist(listed, class_names=wrong)


def test_a_refused_list_is_not_written(tmp_path: Path):
    study = make_study()
    images = prepared_images(tmp_path, study)
    (tmp_path / images["s00"][0]["image"]).unlink()
    with pytest.raises(FileNotFoundError, match="s00_0"):
        write_datalist(tmp_path / "datalist.json", study, THIRDS, images)
    assert not (tmp_path / "datalist.json").exists()


def test_a_list_that_another_split_replaces_is_kept(listed: Path, caplog: pytest.LogCaptureFixture):
    before, study = listed.read_bytes(), make_study()
    prepared = prepared_images(listed.parent, study)
    write_datalist(listed, study, THIRDS, prepared)
    assert sorted(p.name for p in listed.parent.iterdir()) == ["datalist.json", "images"]
    write_datalist(listed, study, THIRDS, {name: rows for name, rows in prepared.items() if name != "s00"})
    (kept,) = listed.parent.glob("datalist.*.json")
    assert kept.read_bytes() == before
    assert f"--datalist_path {kept}" in caplog.text
    assert len(all_rows(read_datalist(kept))) == 12


def test_a_nan_column_leaves_the_old_list(listed: Path):
    before = listed.read_text()
    study = make_study()
    study.records[0] = Record("s00", "s00", "/raw/s00.img", 0, {"Age": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_datalist(listed, study, THIRDS, prepared_images(listed.parent, study))
    assert listed.read_text() == before
    assert sorted(p.name for p in listed.parent.iterdir()) == ["datalist.json", "images"]


def test_a_subject_of_two_sites_cannot_be_left_out_by_site(tmp_path: Path):
    study = make_study()
    study.records.append(Record("s00_again", "s00", "/raw/s00_again.img", 0, {"site": "b"}))
    by_site = LeaveOneGroupOut(held_out="b", validation=0.5)
    with pytest.raises(ValueError, match="subject s00 is in"):
        write_datalist(tmp_path / "datalist.json", study, by_site, prepared_images(tmp_path, study))


def test_the_digest_knows_a_set_of_subjects_whatever_its_order():
    assert digest(["s1", "s2", "s3"]) == digest(["s3", "s1", "s2"])
    assert digest(["s1", "s2"]) != digest(["s1", "s3"])
    assert digest(["s1", "2"]) != digest(["s12"])
    assert digest(["b", "a"]) == hashlib.sha256(b"a\nb").hexdigest()


def test_a_hashed_subject_says_nothing_but_whether_it_is_the_same():
    assert hashed("OAS1_0001") == hashed("OAS1_0001") != hashed("OAS1_0002")
    assert re.fullmatch("[0-9a-f]{16}", hashed("OAS1_0001"))
    assert hashed("OAS1_0001") not in digest(["OAS1_0001"])


def test_subjects_are_sorted_texts_each_once():
    assert names([{"subject": "b"}, {"subject": 10}, {"subject": "b"}]) == ["10", "b"]


def test_splitting_again_moves_no_image(listed: Path, tmp_path_factory: pytest.TempPathFactory):
    before = listed.read_text()
    folds = [tmp_path_factory.mktemp("folds") / f"fold{k}" / "datalist.json" for k in range(3)]
    for k, path in enumerate(folds):
        split_again(listed, KFold(n_splits=3, fold=k, validation=0.5), path)
    assert listed.read_text() == before
    images = sorted(row["image"] for row in all_rows(read_datalist(listed)))
    for path in folds:
        content = read_datalist(path, class_names=CLASSES)
        assert sorted(str(Path(row["image"]).resolve()) for row in all_rows(content)) == sorted(
            str(Path(i).resolve()) for i in images
        )
        assert content["split"]["method"] == "KFold"
    tested = [names(read_datalist(path)["test"]) for path in folds]
    assert sorted(sum(tested, [])) == sorted(names(all_rows(read_datalist(listed))))


def test_splitting_again_keeps_everything_but_the_split(listed: Path, tmp_path: Path):
    content = split_again(listed, replace(THIRDS, seed=7), tmp_path / "again.json")
    old = read_datalist(listed)
    changed = {key for key in content if key not in PARTS and content[key] != old[key]}
    assert changed == {"split"}
    ages = {row["subject"]: row["Age"] for row in all_rows(old)}
    assert {row["subject"]: row["Age"] for row in all_rows(content)} == ages
