from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
from trust.faults import in_child

from custom.folder_lock import FolderInUse, FolderLock, fcntl


def refused(folder: Path) -> str:
    try:
        FolderLock(folder)
    except FolderInUse as error:
        return str(error)
    return ""


def test_another_process_is_refused_until_the_folder_is_free(tmp_path: Path):
    with FolderLock(tmp_path):
        told = in_child(lambda: refused(tmp_path), tmp_path / "log").result
        assert f"{tmp_path} is being written by process {os.getpid()} on" in told
        assert "wait until it has ended" in told
    assert in_child(lambda: refused(tmp_path), tmp_path / "log").result == ""


def test_within_a_process_the_last_one_frees_the_folder(tmp_path: Path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.release()
    assert in_child(lambda: refused(tmp_path), tmp_path / "log").result != ""
    second.release()
    assert not (tmp_path / ".lock").exists()


def test_an_object_that_is_gone_holds_nothing(tmp_path: Path):
    FolderLock(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_only_what_dead_processes_left_is_removed(tmp_path: Path):
    dead = in_child(os.getpid, tmp_path / "log").result
    names = [f".{dead}-a.nii", f".{os.getpid()}-b.nii", ".hidden", "c.nii"]
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).touch()
    with FolderLock(tmp_path):
        assert sorted(p.name for p in (tmp_path / "images").iterdir()) == sorted(names[1:])


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with caplog.at_level(logging.WARNING), FolderLock(tmp_path):
        pass
    assert "its file system has no locks" in caplog.text
