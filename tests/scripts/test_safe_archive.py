from __future__ import annotations

import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safe_archive
from safe_archive import UnsafeArchive, unpack


def link(target: str, kind: int = stat.S_IFLNK) -> Callable[[zipfile.ZipFile], None]:
    def add(z: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("heads/link")
        info.external_attr = (kind | 0o777) << 16
        z.writestr(info, target)

    return add


def named(*names: str) -> Callable[[zipfile.ZipFile], None]:
    def add(z: zipfile.ZipFile) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of names given twice
            for name in names:
                z.writestr(zipfile.ZipInfo(name), "bad")

    return add


def bomb(z: zipfile.ZipFile) -> None:
    z.writestr("heads/zeros", bytes(2 * 10**6), zipfile.ZIP_DEFLATED)


def bomb_of_many(z: zipfile.ZipFile) -> None:
    for i in range(50):
        z.writestr(f"heads/zeros{i}", bytes(10**6), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (named("../x"), r"holds '\.\./x', which leads out of its folder: do not trust"),
        (named("heads/../../x"), "leads out of its folder"),
        (named("heads\\..\\..\\x"), "leads out of its folder"),
        (named("/tmp/x"), "leads out of its folder"),
        (named("C:/x"), "leads out of its folder"),
        (named("heads/x:stream"), "leads out of its folder"),
        (named("heads/\x1b[2J"), "leads out of its folder"),
        (named("./"), "leads out of its folder"),
        (named("heads/" + "a/" * 900 + "x"), "holds folders nested more than 32 deep"),
        (named("heads/.git/hooks/post-checkout"), "holds the hidden 'heads/.git/hooks/post-checkout': a bundle has none"),
        (link("/etc/passwd"), "holds the link 'heads/link': a bundle has none"),
        (link("configs"), "holds the link"),
        (link("", stat.S_IFIFO), "is no plain file"),
        (named("other/x"), r"is not one bundle: it unpacks to \['heads', 'other'\]"),
        (named("heads/a", "heads/a"), "holds 'heads/a' and 'heads/a', of which one would replace the other"),
        (named("heads/LICENSE", "heads/License"), "one would replace the other"),
        (named("heads/./configs/metadata.json"), "one would replace the other"),
        (named("heads//configs/metadata.json"), "one would replace the other"),
        (named("heads/caf\u00e9", "heads/cafe\u0301"), "one would replace the other"),
        (named("heads/configs"), "holds 'heads/configs/metadata.json' below an entry that is a file"),
        (bomb, "'heads/zeros' in .* would unpack to more than 100 times its size: do not trust"),
        (bomb_of_many, "bad.zip would unpack to more than 100 times its size: do not trust"),
    ],
)
def test_an_archive_that_is_not_safe_is_refused_before_anything_is_written(tmp_path: Path, add, message: str):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr("heads/configs/metadata.json", "{}")
        add(z)
    with pytest.raises(UnsafeArchive, match=message):
        unpack(str(tmp_path / "bad.zip"), str(tmp_path / "deep" / "out"))
    assert [p.name for p in tmp_path.rglob("*")] == ["bad.zip"]


def test_an_empty_archive_is_no_bundle(tmp_path: Path):
    zipfile.ZipFile(tmp_path / "bad.zip", "w").close()
    with pytest.raises(UnsafeArchive, match="is not one bundle"):
        unpack(str(tmp_path / "bad.zip"), str(tmp_path / "out"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "heads.zip", "w") as z:
        z.writestr("heads/configs/", "")
        z.writestr("heads/configs/metadata.json", "0123456789" * 200)
    return tmp_path / "heads.zip"


def test_an_archive_that_would_fill_the_disc_is_refused(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safe_archive, "MAX_UNPACKED", 1000)
    with pytest.raises(UnsafeArchive, match="would unpack to more than 1000 bytes"):
        unpack(str(archive), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_the_header_hides_is_counted(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader that gives more than the header says, as other versions of Python's may."""
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda z, info: (tmp_path / "long").open("rb"))
    (tmp_path / "long").write_bytes(bytes(2001))
    with pytest.raises(UnsafeArchive, match="holds more than its header says"):
        unpack(str(archive), str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_header_that_lies_is_found_out(archive: Path, tmp_path: Path):
    """The central directory says 20 bytes of the 2000."""
    content = archive.read_bytes()
    archive.write_bytes(content.replace(struct.pack("<II", 2000, 2000), struct.pack("<II", 20, 20)))
    with pytest.raises(zipfile.BadZipFile):
        unpack(str(archive), str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_whose_end_is_another_archive_is_refused(archive: Path, tmp_path: Path):
    archive.write_bytes(b"the head of something" + archive.read_bytes())
    with pytest.raises(UnsafeArchive, match="holds something before its first entry: it is cut short"):
        unpack(str(archive), str(tmp_path / "out"))


def test_a_folder_that_exists_is_left_alone(archive: Path, tmp_path: Path):
    (tmp_path / "out/heads").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="unpack .* elsewhere, or remove it"):
        unpack(str(archive), str(tmp_path / "out"))


def test_unpacking_gives_back_what_was_packed(archive: Path, tmp_path: Path):
    folder = Path(unpack(str(archive), str(tmp_path / "out")))
    assert folder == tmp_path / "out/heads"
    assert (folder / "configs/metadata.json").read_text() == "0123456789" * 200
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["heads"]
