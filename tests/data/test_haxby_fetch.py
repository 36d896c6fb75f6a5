from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.datasets.func
import numpy as np
import pytest

from custom.data.haxby import CLASSES, read_study
from custom.data.haxby_fetch import fetch_haxby

LABELS = ["rest", *(name for name in CLASSES for _ in range(2))]
MASKS = ("mask4_vt", "mask8b_face_vt", "mask8b_house_vt", "mask8_face_vt", "mask8_house_vt")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


def image_bytes(voxels: np.ndarray) -> bytes:
    image = nib.Nifti1Image(voxels, np.eye(4))
    if voxels.ndim == 4:
        image.header.set_zooms((1, 1, 1, 2.5))
        image.header.set_xyzt_units("mm", "sec")
    return image.to_bytes()


def gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


def write_archive(path: Path, subject: int) -> None:
    """Write what the server has of a subject: nilearn asks for each of these files."""
    voxel = gzipped(image_bytes(np.ones((2, 1, 1), np.uint8)))
    runs = gzipped(image_bytes(np.ones((2, 1, 1, 2 * len(LABELS)), np.int16)))
    labels = "\n".join(["labels chunks", *(f"{label} {run}" for run in (0, 1) for label in LABELS)])
    files = {"bold.nii.gz": runs, "labels.txt": labels.encode(), "anat.nii.gz": voxel}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (files | {f"{mask}.nii.gz": voxel for mask in MASKS}).items():
            entry = tarfile.TarInfo(f"subj{subject}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tiny copy of the server; the mask's own address, which nilearn has no option for, leads there too."""
    root = tmp_path / "served"
    root.mkdir()
    for subject in (1, 2):
        write_archive(root / f"subj{subject}-2010.01.14.tar.gz", subject)
    archives = sorted(root.glob("*.tar.gz"))
    (root / "MD5SUMS").write_text("".join(f"{hashlib.md5(a.read_bytes()).hexdigest()}  {a.name}\n" for a in archives))
    (root / "mask.nii.gz").write_bytes(gzipped(image_bytes(np.ones((2, 1, 1), np.uint8))))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Handler, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(nilearn.datasets.func, "fetch_files", redirected(nilearn.datasets.func.fetch_files, address))
        yield address
        server.shutdown()


def redirected(fetch_files: Callable[..., Any], address: str) -> Callable[..., Any]:
    def fetch(data_dir: str, files: list[tuple], **kwargs: Any) -> Any:
        here = [(name, address + "mask.nii.gz" if name == "mask.nii.gz" else url, options) for name, url, options in files]
        return fetch_files(data_dir, here, **kwargs)

    return fetch


def archives_asked_for() -> list[str]:
    return [path for path in Handler.asked if "subj" in path]


def test_what_is_fetched_is_a_study(mirror: str, tmp_path: Path):
    raw = fetch_haxby(str(tmp_path / "raw"), url=mirror)
    assert raw == str(tmp_path / "raw" / "haxby2001")
    study = read_study(raw)
    assert [r.name for r in study.records] == ["sub-1_run-01", "sub-1_run-02"]
    assert study.records[0].inputs == {"mask": f"{raw}/mask.nii.gz", "frame_range": "0:17"}
    assert study.records[0].columns["tr"] == 2.5
    assert archives_asked_for() == ["/subj1-2010.01.14.tar.gz"]


def test_a_number_is_one_subject_and_what_is_there_is_not_fetched_again(mirror: str, tmp_path: Path):
    raw = fetch_haxby(str(tmp_path / "raw"), subjects=2, url=mirror)
    assert {r.subject for r in read_study(raw, mask="mask4_vt").records} == {"sub-2"}
    Handler.asked.clear()
    fetch_haxby(str(tmp_path / "raw"), subjects=(2, 1), url=mirror)
    assert archives_asked_for() == ["/subj1-2010.01.14.tar.gz"]
    assert {r.subject for r in read_study(raw).records} == {"sub-1", "sub-2"}


def test_a_damaged_archive_is_an_error(mirror: str, tmp_path: Path):
    archive = tmp_path / "served" / "subj1-2010.01.14.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises((OSError, ValueError), match=r"(?i)checksum|md5|subj1"):
        fetch_haxby(str(tmp_path / "raw"), url=mirror)
    assert not list((tmp_path / "raw").rglob("bold.nii.gz"))


@pytest.mark.parametrize("subjects", [(), 0, 7, (1, 9)])
def test_only_the_six_subjects_can_be_had(subjects: object):
    with pytest.raises(ValueError, match=r"some of \[1, 2, 3, 4, 5, 6\] are wanted"):
        fetch_haxby("raw", subjects=subjects)
