from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import package_bundle
import pytest
from package_bundle import ROOT, pack, unpack


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that has been worked with."""
    root = tmp_path / "heads"
    write(root / "configs" / "metadata.json", json.dumps({"version": "1.2.3"}))
    for kept in ("LICENSE", "docs/README.md", "models/model.pt", "models/model.json"):
        write(root / kept, f"content of {kept}")
    for left in ("models/last.pt", "eval/metrics.json", "data/images/a.nii", "raw/disc1/a.img", "configs/__pycache__/a.pyc"):
        write(root / left)
    return root


def names(archive: str) -> list[str]:
    with zipfile.ZipFile(archive) as z:
        return z.namelist()


def test_the_archive_holds_the_bundle_and_the_package(bundle: Path, tmp_path: Path):
    archive = pack(str(bundle), str(tmp_path / "dist"))
    assert Path(archive).name == "heads_v1.2.3.zip"
    own = {n for n in names(archive) if not n.startswith("heads/custom/")}
    expected = {"LICENSE", "configs/metadata.json", "docs/README.md", "models/model.pt", "models/model.json"}
    assert own == {f"heads/{name}" for name in expected}
    package = {n.removeprefix("heads/") for n in names(archive)} - {n.removeprefix("heads/") for n in own}
    assert {"custom/__init__.py", "custom/paths.py", "custom/visualize/report.html"} <= package
    assert package == {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "custom").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }


def test_weights_stay_at_home_on_demand(bundle: Path, tmp_path: Path):
    assert not [n for n in names(pack(str(bundle), str(tmp_path / "dist"), weights=False)) if "/models/" in n]


def test_the_same_files_give_the_same_bytes(bundle: Path, tmp_path: Path):
    first = Path(pack(str(bundle), str(tmp_path / "a")))
    for path in bundle.rglob("*"):
        os.utime(path, (10**9, 10**9))
    (bundle / "LICENSE").chmod(0o600)
    assert Path(pack(str(bundle), str(tmp_path / "b"))).read_bytes() == first.read_bytes()
    write(bundle / "LICENSE", "another")
    assert Path(pack(str(bundle), str(tmp_path / "c"))).read_bytes() != first.read_bytes()


def test_unpacking_gives_back_what_was_packed(bundle: Path, tmp_path: Path):
    folder = Path(unpack(pack(str(bundle), str(tmp_path / "dist")), str(tmp_path / "out")))
    assert folder == tmp_path / "out" / "heads"
    assert (folder / "models" / "model.pt").read_text() == "content of models/model.pt"
    assert (folder / "custom" / "paths.py").read_bytes() == (ROOT / "custom" / "paths.py").read_bytes()


def link(target: str) -> Callable[[zipfile.ZipFile], None]:
    def add(z: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("heads/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(info, target)

    return add


def named(name: str) -> Callable[[zipfile.ZipFile], None]:
    return lambda z: z.writestr(zipfile.ZipInfo(name), "bad")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (named("../x"), r"holds '\.\./x', which leads out of its folder: do not trust"),
        (named("heads/../../x"), "leads out of its folder"),
        (named("heads\\..\\..\\x"), "leads out of its folder"),
        (named("/tmp/x"), "leads out of its folder"),
        (named("C:/x"), "leads out of its folder"),
        (named("./"), "leads out of its folder"),
        (link("/etc/passwd"), "holds the link 'heads/link': a bundle has none"),
        (link("configs"), "holds the link"),
        (named("other/x"), r"is not one bundle: it unpacks to \['heads', 'other'\]"),
    ],
)
def test_an_archive_that_is_not_safe_is_refused_before_anything_is_written(tmp_path: Path, add, message: str):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr("heads/configs/metadata.json", "{}")
        add(z)
    with pytest.raises(ValueError, match=message):
        unpack(str(tmp_path / "bad.zip"), str(tmp_path / "deep" / "out"))
    assert [p.name for p in tmp_path.rglob("*")] == ["bad.zip"]


def test_an_empty_archive_is_no_bundle(tmp_path: Path):
    zipfile.ZipFile(tmp_path / "bad.zip", "w").close()
    with pytest.raises(ValueError, match="is not one bundle"):
        unpack(str(tmp_path / "bad.zip"), str(tmp_path / "out"))


def test_an_archive_that_would_fill_the_disc_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive = pack(str(bundle), str(tmp_path / "dist"))
    monkeypatch.setattr(package_bundle, "MAX_UNPACKED", 1000)
    with pytest.raises(ValueError, match="would unpack to more than 1000 bytes"):
        unpack(archive, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
