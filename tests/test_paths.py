from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import custom.paths
from custom.paths import bundle_root, written_whole

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
