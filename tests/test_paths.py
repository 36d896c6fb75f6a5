from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import custom.paths
from custom.folder_lock import LEFTOVER
from custom.paths import bundle_root, refuse_other_file, written_whole

BUNDLE = "oasis_mri_alzheimers_classification"


def test_a_bundle_of_the_repository_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    root = Path(bundle_root(BUNDLE))
    assert root.is_absolute()
    assert root.parts[-2:] == ("bundles", BUNDLE)
    assert (root / "configs" / "metadata.json").is_file()


def test_a_vendored_copy_finds_the_bundle_around_it(tmp_path: Path):
    unpacked = tmp_path / "renamed"
    (unpacked / "configs").mkdir(parents=True)
    (unpacked / "configs" / "metadata.json").touch()
    (unpacked / "custom").mkdir()
    for name in ("__init__.py", "paths.py"):
        shutil.copy(Path(custom.paths.__file__).parent / name, unpacked / "custom" / name)
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r}); from custom.paths import bundle_root; print(bundle_root('x'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stdout.strip() == str(unpacked)


def test_otherwise_it_is_the_current_folder():
    assert bundle_root("no_such_bundle") == "."


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "deep" / "weights.nii.gz"
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, fault: type[BaseException]):
    target = tmp_path / "last.pt"
    target.write_text("old")

    def half_write() -> None:
        with written_whole(target) as temporary:
            temporary.write_text("half")
            raise fault

    with pytest.raises(fault):
        half_write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_text_is_a_path_too(tmp_path: Path):
    with written_whole(str(tmp_path / "a.json")) as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "a.json").read_text() == "{}"


def test_two_writers_do_not_meet(tmp_path: Path):
    """Of two containers, or of two machines, one process number."""
    target = tmp_path / "model.pt"
    with written_whole(target) as one:
        one.write_text("one")
        with written_whole(target) as other:
            other.write_text("other")
            assert one.read_text() == "one"
        assert target.read_text() == "other"
    assert target.read_text() == "one"
    assert {LEFTOVER.fullmatch(name.name)[1] for name in (one, other)} == {str(os.getpid())}
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_on_the_disc_before_it_has_its_name_and_then_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a power cut leaves; ``os.replace`` alone may leave the name of an empty file."""
    target, done = tmp_path / "a.json", []
    replace, fsync = os.replace, os.fsync

    def name_of(descriptor: int) -> str:
        return "folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else f"{os.fstat(descriptor).st_size} bytes"

    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append(name_of(descriptor)), fsync(descriptor)))
    with written_whole(target) as temporary:
        temporary.write_text("whole")
    assert done == ["5 bytes", "replace", "folder"]


@pytest.mark.parametrize(("number", "refused"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False)])
def test_what_the_disc_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool):
    """A file server may tell only now that it has no room; a file system that cannot be waited for is none the worse."""
    target = tmp_path / "a.json"
    target.write_text("old")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    def write() -> None:
        with written_whole(target) as temporary:
            temporary.write_text("new")

    monkeypatch.setattr(os, "fsync", refuse)
    if refused:
        with pytest.raises(OSError, match=rf"run the same command again .*{target}"):
            write()
    else:
        write()
    assert target.read_text() == ("old" if refused else "new")
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_is_not_the_one_that_is_told_of(tmp_path: Path):
    weights, beside = tmp_path / "model.pt", tmp_path / "model.json"
    weights.write_text("of training B")
    with pytest.raises(
        ValueError, match=r"model\.pt is not the file that .*model\.json tells of .*--resume True.*or copy both"
    ):
        refuse_other_file(weights, {"weights_sha256": "0" * 64}, beside)
    refuse_other_file(weights, {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}, beside)
    refuse_other_file(weights, {"class_names": ["of training A"]}, beside)
