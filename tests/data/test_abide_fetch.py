from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from custom.data.abide import PHENOTYPES, read_study
from custom.data.abide_fetch import fetch, spread

RATERS = ("qc_rater_1", "qc_anat_rater_2", "qc_func_rater_2", "qc_anat_rater_3", "qc_func_rater_3")
SITES = {50003: "PITT", 50004: "PITT", 50005: "PITT", 50272: "UM_1", 50952: "NYU", 50953: "NYU"}


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tiny copy of the project's server: its folders, its table, an image of two voxels per subject."""
    root = tmp_path / "served"
    table = {"SUB_ID": list(SITES), "SITE_ID": list(SITES.values()), "FILE_ID": [f"X_{i:07d}" for i in SITES]}
    table |= {"DX_GROUP": [1, 2, 1, 2, 1, 2], "AGE_AT_SCAN": 10.0, "SEX": 1} | dict.fromkeys(RATERS, "OK")
    frame = pd.DataFrame(table)
    frame.loc[2, "qc_rater_1"] = "fail"
    frame.loc[len(frame)] = [50002, "PITT", "no_filename", 1, 9.0, 1, *["OK"] * 5]
    root.mkdir()
    frame.to_csv(root / PHENOTYPES)
    for derivative in ("func_preproc", "func_mask"):
        folder = root / "Outputs" / "cpac" / "nofilt_noglobal" / derivative
        folder.mkdir(parents=True)
        for file_id in table["FILE_ID"]:
            image = nib.Nifti1Image(np.ones((2, 1, 1), np.uint8), np.eye(4))
            nib.save(image, folder / f"{file_id}_{derivative}.nii.gz")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Handler, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_is_fetched_is_a_study(mirror: str, tmp_path: Path):
    raw = fetch(str(tmp_path / "data"), url=mirror)
    study = read_study(raw, {"control": [2], "ASD": [1]}, layout="nifti")
    assert [r.subject for r in study.records] == ["0050003", "0050004", "0050272", "0050952", "0050953"]
    assert all(Path(r.inputs["mask"]).is_file() and nib.load(r.image).shape == (2, 1, 1) for r in study.records)
    assert study.dropped == {"no_filename in the table": 1, "in the table, without a scan": 1}


def test_a_second_fetch_goes_on_where_the_first_stopped(mirror: str, tmp_path: Path):
    fetch(str(tmp_path / "data"), n_subjects=2, url=mirror)
    first = [path for path in Handler.asked if path.endswith(".nii.gz")]
    assert len(first) == 4
    Handler.asked.clear()
    raw = fetch(str(tmp_path / "data"), n_subjects=3, url=mirror)
    second = [path for path in Handler.asked if path.endswith(".nii.gz")]
    assert len(second) == 2
    assert set(first).isdisjoint(second)
    assert not [path for path in Handler.asked if path.endswith(".csv")]
    assert len(read_study(raw, {"control": [2], "ASD": [1]}, layout="nifti").records) == 3


def test_a_lost_file_is_an_error_and_the_rest_stays(mirror: str, tmp_path: Path):
    (tmp_path / "served/Outputs/cpac/nofilt_noglobal/func_mask/X_0050003_func_mask.nii.gz").unlink()
    with pytest.raises(OSError, match=r"404|X_0050003_func_mask"):
        fetch(str(tmp_path / "data"), url=mirror)
    assert list((tmp_path / "data").rglob("X_0050003_func_preproc.nii.gz"))


def test_nobody_is_asked_for():
    with pytest.raises(ValueError, match="n_subjects is 0"):
        fetch("data", n_subjects=0)


def test_sites_and_diagnoses_take_turns():
    people = pd.DataFrame({"SUB_ID": range(8), "SITE_ID": [*"AAAAABBC"], "DX_GROUP": [1, 1, 1, 2, 2, 2, 1, 1]})
    assert spread(people, 5)["SUB_ID"].tolist() == [0, 3, 6, 5, 7]
    assert spread(people, 7)["SUB_ID"].tolist() == [0, 3, 6, 5, 7, 1, 4]
    assert len(spread(people, 100)) == 8
