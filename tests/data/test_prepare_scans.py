from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose

from custom.data.prepare import prepare
from custom.data.prepare_scans import prepare_scans
from custom.data.records import Event, Record, Study
from custom.data.splits import LeaveOneRunOut
from custom.data.windows import Windows
from custom.errors import BadScan
from custom.transforms.bold_check import CheckBOLDd
from custom.transforms.clean_bold import CleanBOLDd
from custom.transforms.load_bold import LoadBOLDd
from custom.transforms.temporal_window import map_bold, temporal_window
from custom.transforms.temporal_zscore import TemporalZScored

GRID, LENGTH, TR, FRAMES = (5, 4, 3), 40, 2.5, 6
NAMES = ["face", "house", "scrambledpix"]
AFFINE = np.diag([3.5, 3.75, 3.75, 1.0]) + np.outer([-80, -100, -60, 0], [0, 0, 0, 1])
SHOWN = ["house", "face", "scrambledpix"]
WINDOWS = Windows(frames=FRAMES)


def events_of(shown: list[str] = SHOWN) -> tuple[Event, ...]:
    """Blocks every 30 s, the last one near the end of the run."""
    return tuple(Event(5.0 + 30 * i, 15.0, NAMES.index(kind), {"trial_type": kind}) for i, kind in enumerate(shown))


def save_run(path: Path, seed: int, tr: float = TR) -> str:
    voxels = np.random.default_rng(seed).normal(900, 20, (*GRID, LENGTH)) + np.arange(LENGTH)
    image = nib.Nifti1Image(voxels.astype(np.float32), AFFINE)
    image.header.set_zooms((3.5, 3.75, 3.75, tr))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return str(path)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    nib.save(nib.Nifti1Image(np.ones(GRID, np.uint8), AFFINE), tmp_path / "mask.nii")
    mask = {"mask": str(tmp_path / "mask.nii")}
    runs = [(f"sub-1_run-0{i}", save_run(tmp_path / f"run{i}.nii.gz", i)) for i in (1, 2, 3)]
    records = [
        Record(name, "sub-1", path, columns={"run": str(i)}, inputs=mask, events=events_of(list(np.roll(SHOWN, i))))
        for i, (name, path) in enumerate(runs, 1)
    ]
    return Study("study", records, NAMES)


def scans_of(study: Study) -> list[dict[str, Any]]:
    """The same runs as ``list_scans`` gives them, whose events have no label."""
    return [
        {
            "image": record.image,
            "subject": record.subject,
            "scan": record.name,
            **record.inputs,
            "events": tuple(replace(event, label=None) for event in record.events),
        }
        for record in study.records
    ]


def steps() -> Compose:
    keys = ["image", "mask"]
    check = CheckBOLDd("image", mask_key="mask")
    return Compose([LoadBOLDd(keys), check, CleanBOLDd("image", keep_mean=True), TemporalZScored("image", scale_key="scale")])


def window_of(row: dict[str, Any]) -> np.ndarray:
    window, measured = temporal_window(map_bold(row["image"]), row["frames"], row["start"])
    assert measured.all()
    return window.as_tensor().numpy()


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_rows_and_windows_are_those_of_a_study(study: Study, tmp_path: Path, shift: float):
    windows = Windows(shift=shift, frames=FRAMES)
    split, data = LeaveOneRunOut(column="run", held_out="3", validation="2"), tmp_path / "data"
    listed = prepare(study, steps(), split, str(data), str(data / "datalist.json"), windows=windows)
    trained = [row for part in ("training", "validation", "test") for row in listed[part]]
    rows = prepare_scans(scans_of(study), steps(), windows, NAMES, str(tmp_path / "scans"))
    by_block = {row["block"]: row for row in trained}
    assert [row["block"] for row in rows] == [f"sub-1_run-0{i}_00{k}" for i in (1, 2, 3) for k in range(3)]
    assert set(by_block) == {row["block"] for row in rows}
    for row in rows:
        other = by_block[row["block"]]
        assert {key: other[key] for key in row if key != "image"} == {key: row[key] for key in row if key != "image"}
        np.testing.assert_array_equal(window_of(row), window_of({**other, "image": str(data / other["image"])}))


def test_a_row_says_where_and_what(study: Study, tmp_path: Path):
    rows = prepare_scans(scans_of(study)[1:2], steps(), WINDOWS, NAMES, str(tmp_path / "scans"))
    assert rows[1] == {
        "image": str(tmp_path / "scans" / "sub-1_run-02.nii"), "subject": "sub-1", "scan": "sub-1_run-02", "label": 2,
        "block": "sub-1_run-02_001", "onset": 35.0, "duration": 15.0, "start": 14, "frames": FRAMES,
    }  # fmt: skip
    assert [row["label"] for row in rows] == [0, 2, 1]  # by the names, in whatever order they come
    picture = nib.load(rows[0]["image"])
    assert picture.shape == (*GRID, LENGTH)
    assert picture.header.get_zooms()[3] == TR
    np.testing.assert_allclose(picture.affine, AFFINE, atol=1e-5)
    voxels = np.asarray(picture.dataobj, dtype=np.float64)
    np.testing.assert_allclose([voxels.mean(-1), voxels.std(-1)], [np.zeros(GRID), np.ones(GRID)], atol=1e-5)


@pytest.mark.parametrize(
    ("columns", "label"),
    [({}, -1), ({"trial_type": "rest"}, -1), ({"trial_type": None}, -1), ({"trial_type": "house"}, 1), ({"kind": "house"}, -1)],
)
def test_an_event_of_no_class_has_none(study: Study, tmp_path: Path, columns: dict, label: int):
    scan = {**scans_of(study)[0], "events": (Event(10.0, 15.0, None, columns),)}
    (row,) = prepare_scans([scan], steps(), WINDOWS, NAMES, str(tmp_path / "scans"))
    assert row["label"] == label


def test_labels_count_from_the_classes_of_the_network(study: Study, tmp_path: Path):
    rows = prepare_scans(scans_of(study)[:1], steps(), WINDOWS, ["house", "scrambledpix"], str(tmp_path / "scans"))
    assert [row["label"] for row in rows] == [1, 0, -1]


def test_a_window_of_which_the_run_lacks_most_is_left_out_and_keeps_its_number(study: Study, tmp_path: Path):
    late = (Event(95.0, 15.0), Event(10.0, 15.0))  # the run ends at 100 s
    rows = prepare_scans([{**scans_of(study)[0], "events": late}], steps(), WINDOWS, NAMES, str(tmp_path / "scans"))
    assert [(row["block"], row["start"]) for row in rows] == [("sub-1_run-01_001", 4)]


def test_runs_without_any_window_are_refused(study: Study, tmp_path: Path):
    none = [{**scan, "events": ()} for scan in scans_of(study)]
    with pytest.raises(ValueError, match="none of the 3 runs has an event with a window in it: give other events, or --every"):
        prepare_scans(none, steps(), WINDOWS, NAMES, str(tmp_path / "scans"))


def test_an_event_of_another_run_names_the_scan(study: Study, tmp_path: Path):
    first, second, _ = scans_of(study)
    beyond = {**second, "events": (Event(400.0, 15.0),)}
    with pytest.raises(BadScan, match=r"run2\.nii\.gz: event 0 begins at 400 s"):
        prepare_scans([first, beyond], steps(), WINDOWS, NAMES, str(tmp_path / "scans"))


def test_a_run_without_a_tr_cannot_place_its_events(study: Study, tmp_path: Path):
    scan = {**scans_of(study)[0], "image": save_run(tmp_path / "timeless.nii.gz", 1, tr=0)}
    with pytest.raises(BadScan, match=r"timeless\.nii\.gz: the time between two frames is not known"):
        prepare_scans([scan], steps(), WINDOWS, NAMES, str(tmp_path / "scans"))


def test_a_bad_scan_is_told_by_the_transform(study: Study, tmp_path: Path):
    constant = np.full((*GRID, LENGTH), 7, np.float32)
    image = nib.Nifti1Image(constant, AFFINE)
    nib.save(image, tmp_path / "constant.nii")
    scan = {**scans_of(study)[0], "image": str(tmp_path / "constant.nii")}
    with pytest.raises(RuntimeError) as error:  # in which MONAI wraps it
        prepare_scans([scan], steps(), WINDOWS, NAMES, str(tmp_path / "scans"))
    cause: BaseException | None = error.value
    while cause is not None and not isinstance(cause, BadScan):
        cause = cause.__cause__
    assert "constant.nii" in str(cause)
    assert not (tmp_path / "scans").exists()


def test_the_scans_stay_as_they_are(study: Study, tmp_path: Path):
    scans = scans_of(study)
    prepare_scans(scans, steps(), WINDOWS, NAMES, str(tmp_path / "scans"))
    assert scans == scans_of(study)
