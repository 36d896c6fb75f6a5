from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data.rest import rest_windows, single_frames


def save(path: Path, frames: int = 30, tr: float = 2.5, unit: str = "sec") -> str:
    image = nib.Nifti1Image(np.zeros((1, 1, 1, frames), np.uint8), np.eye(4))
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
    """Windows of a run of 30 frames: gaps 0-5, 10-12, 16-24, and 28-30 beyond the last."""
    image = save(tmp_path / "a.nii")
    return [row(image, i, start) for i, start in enumerate((6, 12, 24))]


def test_rest_is_what_no_window_covers(rows: list[dict]):
    rest = rest_windows(rows, 3)
    assert [w["start"] for w in rest] == [0, 3, 16, 19]
    covered = {f for r in rows for f in range(r["start"], r["start"] + r["frames"])}
    assert all(covered.isdisjoint(range(w["start"], w["start"] + w["frames"])) for w in rest)
    assert [w["start"] for w in rest_windows(rows, 2)] == [0, 2, 4, 10, 16, 18, 20, 22, 28]
    assert rest_windows(rows, 9) == []


def test_a_window_of_rest_is_a_row_without_a_class(rows: list[dict]):
    assert rest_windows(rows, 8) == [
        {
            "image": rows[0]["image"], "subject": "sub-1", "run": "1", "trial_type": "rest", "scan": "sub-1_run-01",
            "label": -1, "block": "sub-1_run-01_rest-000", "start": 16, "frames": 8, "onset": 40.0, "duration": 20.0,
        }
    ]  # fmt: skip


def test_every_run_has_its_own_rest(rows: list[dict], tmp_path: Path):
    short = save(tmp_path / "b.nii", frames=9)
    other = row(short, 0, 2, scan="sub-1_run-02")
    rest = rest_windows([rows[0], other, *rows[1:]], 3)
    assert [(w["block"], w["start"]) for w in rest if w["image"] == short] == [("sub-1_run-02_rest-000", 6)]
    assert [w["start"] for w in rest if w["image"] != short] == [0, 3, 16, 19]


def test_a_window_beyond_the_end_leaves_nothing_there(tmp_path: Path):
    image = save(tmp_path / "a.nii", frames=10)
    assert [w["start"] for w in rest_windows([row(image, 0, 8)], 4)] == [0, 4]


def test_without_a_tr_there_is_no_onset(tmp_path: Path):
    image = save(tmp_path / "a.nii", unit="unknown")
    first, single = rest_windows([row(image, 0, 20)], 4)[0], single_frames([row(image, 0, 20)])[1]
    assert not {"onset", "duration"} & (set(first) | set(single))


def test_windows_of_nothing_are_refused(rows: list[dict]):
    with pytest.raises(ValueError, match="windows of 0 frames"):
        rest_windows(rows, 0)


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


def test_rows_stay_as_they_are(rows: list[dict]):
    before = [dict(r) for r in rows]
    rest_windows(rows, 3)
    single_frames(rows)
    assert rows == before
