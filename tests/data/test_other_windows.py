from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data.other_windows import frame_datalist, single_frames, sliding_windows
from custom.transforms.temporal_window import map_bold, temporal_window


def save(path: Path, frames: int = 30, tr: float = 2.5, unit: str = "sec") -> str:
    """Write a run of one voxel of which frame t is t."""
    image = nib.Nifti1Image(np.arange(frames, dtype=np.float32).reshape(1, 1, 1, -1), np.eye(4))
    image.header.set_zooms((1, 1, 1, tr))
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, path)
    return str(path)


def row(image: str, number: int, start: int, frames: int = 4, scan: str = "sub-1_run-01") -> dict:
    return {
        "image": image, "label": number, "subject": "sub-1", "run": "1", "trial_type": f"kind {number}", "scan": scan,
        "block": f"{scan}_{number:03d}", "response_time": number / 10, "start": start, "frames": frames,
        "onset": start * 2.5 + 1, "duration": frames * 2.5,
    }  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> list[dict]:
    """Three windows of a run of 30 frames."""
    image = save(tmp_path / "a.nii")
    return [row(image, i, start) for i, start in enumerate((6, 12, 24))]


# windows everywhere


@pytest.mark.parametrize(
    ("frames", "stride", "starts"),
    [
        (10, 10, [0, 10, 20]),
        (9, 9, [0, 9, 18]),
        (9, 5, [0, 5, 10, 15, 20]),
        (29, 1, [0, 1]),
        (30, 7, [0]),
        (1, 14, [0, 14, 28]),
    ],
)
def test_windows_slide_over_the_whole_run(rows: list[dict], frames: int, stride: int, starts: list[int]):
    windows = sliding_windows(rows, frames, stride)
    assert [w["start"] for w in windows] == starts
    assert {w["frames"] for w in windows} == {frames}
    last = temporal_window(map_bold(windows[-1]["image"]), frames, starts[-1])
    assert last[1].all()  # nothing beyond the run's end


def test_a_sliding_window_is_a_row_without_a_class(rows: list[dict]):
    assert sliding_windows(rows, 8, 6)[1] == {
        "image": rows[0]["image"], "subject": "sub-1", "run": "1", "scan": "sub-1_run-01", "label": -1,
        "block": "sub-1_run-01_from-0006", "start": 6, "frames": 8, "onset": 15.0, "duration": 20.0,
    }  # fmt: skip


def test_every_run_is_gone_over_once(rows: list[dict], tmp_path: Path):
    other = row(save(tmp_path / "b.nii", frames=12), 0, 2, scan="sub-1_run-02")
    windows = sliding_windows([rows[0], other, *rows[1:]], 5, 5)
    assert [(w["scan"], w["start"]) for w in windows] == [
        *(("sub-1_run-01", start) for start in range(0, 26, 5)),
        ("sub-1_run-02", 0),
        ("sub-1_run-02", 5),
    ]
    assert len({w["block"] for w in windows}) == len(windows)
    assert {w["image"] for w in windows[-2:]} == {other["image"]}


def test_what_the_rows_do_not_say_is_not_made_up(tmp_path: Path):
    """Rows of scans without a study have no run."""
    made = sliding_windows([{"image": save(tmp_path / "a.nii"), "scan": "a", "start": 0, "frames": 4}], 4, 30)
    assert made == [
        {
            "image": str(tmp_path / "a.nii"), "scan": "a", "label": -1, "block": "a_from-0000",
            "start": 0, "frames": 4, "onset": 0.0, "duration": 10.0,
        }
    ]  # fmt: skip


def test_a_run_shorter_than_a_window_is_named(rows: list[dict], tmp_path: Path):
    short = save(tmp_path / "short.nii", frames=8)
    with pytest.raises(ValueError, match=r"short\.nii: 8 frames are shorter than a window of 9: take shorter"):
        sliding_windows([*rows, row(short, 0, 2)], 9, 3)


@pytest.mark.parametrize(("frames", "stride"), [(0, 3), (3, 0), (-1, 3), (3, -1)])
def test_windows_of_nothing_are_refused(rows: list[dict], frames: int, stride: int):
    with pytest.raises(ValueError, match=f"windows of {frames} frames every {stride} are none: give 1 or more"):
        sliding_windows(rows, frames, stride)


# frames one by one


def test_every_frame_of_a_window_is_a_row(rows: list[dict]):
    frames = single_frames(rows)
    assert [f["start"] for f in frames] == [6, 7, 8, 9, 12, 13, 14, 15, 24, 25, 26, 27]
    assert {f["frames"] for f in frames} == {1}
    assert len({f["block"] for f in frames}) == 12
    assert frames[5] == {
        **rows[1], "block": "sub-1_run-01_001_frame-1", "start": 13, "frames": 1, "onset": 33.5, "duration": 2.5,
    }  # fmt: skip


def test_frames_beyond_the_run_are_none(tmp_path: Path):
    image = save(tmp_path / "a.nii", frames=10)
    assert [f["start"] for f in single_frames([row(image, 0, 8)])] == [8, 9]


def test_a_datalist_of_single_frames_keeps_all_else(rows: list[dict]):
    datalist = {"class_names": ["a", "b", "c"], "split": {"held_out": "8"}}
    datalist |= {"training": rows[:1], "validation": rows[1:2], "test": rows[2:]}
    made = frame_datalist(datalist)
    assert [[f["start"] for f in made[part]] for part in ("training", "validation", "test")] == [
        [6, 7, 8, 9],
        [12, 13, 14, 15],
        [24, 25, 26, 27],
    ]
    assert (made["class_names"], made["split"]) == (["a", "b", "c"], {"held_out": "8"})
    assert set(made) == set(datalist)


# both


def test_without_a_tr_there_is_no_onset(tmp_path: Path):
    image = save(tmp_path / "a.nii", unit="unknown")
    window, frame = sliding_windows([row(image, 0, 20)], 4, 4)[0], single_frames([row(image, 0, 20)])[1]
    assert not {"onset", "duration"} & (set(window) | set(frame))


def test_a_tr_in_milliseconds_is_understood(tmp_path: Path):
    image = save(tmp_path / "a.nii", tr=2500, unit="msec")
    assert sliding_windows([row(image, 0, 20)], 4, 4)[2]["onset"] == 20.0
    assert [f["onset"] for f in single_frames([row(image, 0, 20, frames=2)])] == [51.0, 53.5]


def test_rows_stay_as_they_are(rows: list[dict]):
    before = [dict(r) for r in rows]
    sliding_windows(rows, 3, 2)
    single_frames(rows)
    assert rows == before
