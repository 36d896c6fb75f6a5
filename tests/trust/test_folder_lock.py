from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from trust.faults import LIMIT, Child, in_child
from trust.runs import stopped

import custom.folder_lock
from custom.folder_lock import FolderInUse, FolderLock


def refused(folder: Path) -> str:
    try:
        FolderLock(folder)
    except FolderInUse as error:
        return str(error)
    return ""


def refused_elsewhere(folder: Path) -> str:
    """As another process finds it."""
    outcome = in_child(partial(refused, folder), folder.parent / f"{folder.name}.log")
    assert outcome.succeeded, outcome.error
    return outcome.result


def descriptors() -> set[str]:
    """The files that this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return {f"{link.name} {os.readlink(link)}" for link in links if os.path.lexists(link) and "/proc/" not in os.readlink(link)}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; nothing of it stays open or taken."""
    folder = tmp_path / "folder"
    folder.mkdir()
    gc.collect()
    before = descriptors(), dict(custom.folder_lock._held)  # what other tests of this process have left
    yield folder
    assert (descriptors(), custom.folder_lock._held) == before


def test_another_process_is_refused_until_the_folder_is_free(folder: Path):
    with FolderLock(folder):
        told = refused_elsewhere(folder)
        assert f"{folder} is being written by process {os.getpid()} on" in told
        assert "wait until it has ended" in told
    assert refused_elsewhere(folder) == ""


def test_within_a_process_the_last_one_frees_the_folder(folder: Path):
    first, second = FolderLock(folder), FolderLock(folder)
    first.release()
    assert refused_elsewhere(folder)
    second.release()
    assert not (folder / ".lock").exists()


def test_an_object_that_is_gone_holds_nothing(folder: Path):
    FolderLock(folder)
    assert not (folder / ".lock").exists()


def test_by_another_name_it_is_the_same_folder(folder: Path):
    """A second lock through a link or a detour, let go of, leaves the first."""
    (folder.parent / "link").symlink_to(folder)
    with FolderLock(folder):
        for name in (folder.parent / "link", folder / ".." / folder.name):
            FolderLock(name).release()
            assert refused_elsewhere(folder), name
            assert refused_elsewhere(name), name


def test_who_reads_the_lock_file_does_not_let_go_of_the_folder(folder: Path):
    """A copy of the folder, a digest of all files in it."""
    with FolderLock(folder):
        shutil.copytree(folder, folder.parent / "copy")
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()}")
        assert refused_elsewhere(folder)


def test_a_forked_process_does_not_let_go_of_the_folder(folder: Path):
    with FolderLock(folder) as lock:
        assert in_child(lock.release, folder.parent / "log").succeeded
        assert refused_elsewhere(folder)


def test_a_forked_process_that_outlives_its_run_holds_nothing(folder: Path):
    """A worker of a data loader looks for its parent every few seconds only."""

    def hold() -> None:
        with FolderLock(folder):
            if os.fork():
                (folder / "taken").touch()
            time.sleep(60)

    run = Child(hold, folder.parent / "log")
    try:
        while not (folder / "taken").exists():
            assert run.wait(0) is None
            assert time.monotonic() - run.began < LIMIT
            time.sleep(0.002)
        assert refused(folder)
        os.kill(run.pid, signal.SIGKILL)
        os.waitpid(run.pid, 0)
        assert refused(folder) == ""
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        os.close(run.told)


def test_a_killed_process_holds_nothing(folder: Path):
    def hold() -> None:
        with FolderLock(folder):
            time.sleep(60)

    with stopped(hold, folder / ".lock", folder.parent / "log"):
        assert refused(folder)
    assert (folder / ".lock").exists()
    with FolderLock(folder):
        pass


def test_the_lock_file_of_another_is_not_removed(folder: Path):
    """Ours was deleted, another process has made its own."""
    with FolderLock(folder):
        (folder / ".lock").unlink()
        (folder / ".lock").write_text("another's")
    assert (folder / ".lock").read_text() == "another's"


def test_a_lock_file_that_was_removed_before_it_was_locked_counts_for_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Its holder ended between our opening and our locking: who comes next makes another file."""
    real, times = custom.folder_lock._take, []

    def take(file: Path, *rest: object) -> bool:
        times.append(1)
        if len(times) == 1:
            file.unlink()
        return real(file, *rest)

    monkeypatch.setattr(custom.folder_lock, "_take", take)
    with FolderLock(folder):
        monkeypatch.undo()
        assert refused_elsewhere(folder)
    assert len(times) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_lock_file_of_another_user(folder: Path):
    """That user's run was killed, then runs: what counts is the lock, not who may write the file."""
    folder.chmod(0o777)
    (folder / ".lock").write_text("process 1 of a killed run")
    (folder / ".lock").chmod(0o644)
    open_to_all = [parent for parent in folder.parents if not os.stat(parent).st_mode & 0o001]
    modes = {parent: os.stat(parent).st_mode for parent in open_to_all}

    def as_another() -> str:
        os.setuid(65534)
        return refused(folder)

    try:
        for parent in open_to_all:
            parent.chmod(modes[parent] | 0o055)
        with FolderLock(folder):
            assert "is being written by process" in in_child(as_another, folder.parent / "log").result
        (folder / ".lock").write_text("process 1 of a killed run")
        (folder / ".lock").chmod(0o644)
        outcome = in_child(as_another, folder.parent / "log")
        assert (outcome.succeeded, outcome.result) == (True, ""), outcome.error
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)


# ---- what a killed run has left


def test_only_what_dead_processes_left_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    dead = in_child(os.getpid, folder.parent / "log").result
    names = [f".{dead}-0a1b2c3d-a.nii", f".{os.getpid()}-b.nii", ".hidden", f".{10**20}-d.nii", "c.nii"]
    (folder / "images" / f".{dead}-folder").mkdir(parents=True)
    for name in names:
        (folder / "images" / name).touch()
    with FolderLock(folder):
        assert {p.name for p in (folder / "images").iterdir()} == {*names[1:], f".{dead}-folder"}

    def of_another_user(process: int, number: int) -> None:
        raise PermissionError

    (folder / names[0]).touch()
    monkeypatch.setattr(os, "kill", of_another_user)
    with FolderLock(folder):
        assert (folder / names[0]).exists()


def test_what_cannot_be_removed_does_not_stop_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    dead = in_child(os.getpid, folder.parent / "log").result
    (folder / f".{dead}-a.nii").touch()

    def not_yours(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    with monkeypatch.context() as changed, caplog.at_level(logging.WARNING):
        changed.setattr(Path, "unlink", not_yours)
        with FolderLock(folder):
            assert refused_elsewhere(folder)
    assert f".{dead}-a.nii was left half-written" in caplog.text


# ---- file systems that refuse


def test_a_file_system_without_locks_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What a process that is unknown here is writing may be a live one's on another machine."""
    dead = in_child(os.getpid, folder.parent / "log").result
    (folder / f".{dead}-model.pt").touch()

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(custom.folder_lock.fcntl, "fcntl", no_locks)
    monkeypatch.setattr(custom.folder_lock.fcntl, "lockf", no_locks)
    with caplog.at_level(logging.WARNING), FolderLock(folder):
        assert (folder / f".{dead}-model.pt").exists()
    assert "its file system has no locks" in caplog.text


def test_a_full_disc_leaves_nothing_taken(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as changed:
        changed.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=rf"free some space .*{folder}"):
            FolderLock(folder)
    assert refused_elsewhere(folder) == ""


def test_a_folder_that_became_read_only_tells_its_own_error(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def read_only(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def work() -> None:
        with FolderLock(folder):
            monkeypatch.setattr(os, "unlink", read_only)
            raise ValueError("the run's own")

    with pytest.raises(ValueError, match="the run's own"):
        work()
    monkeypatch.undo()
    assert refused_elsewhere(folder) == ""
