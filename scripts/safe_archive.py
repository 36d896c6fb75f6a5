"""Unpack an archive that somebody else made: nothing is written outside its one folder, nothing half, and no disc is filled.

What is refused before anything is written: names that lead elsewhere (absolute, ``..``, a drive, a backslash), hidden ones and
those of more than ``MAX_PARTS`` parts, links and other entries that are no plain files, encrypted entries, bytes before the
first entry, two entries of one name (also where only case or Unicode form differs: one would replace the other on another
machine), an entry that is both file and folder, sizes above ``MAX_UNPACKED`` or ``MAX_RATIO``. While it is written the bytes
are counted, whatever the archive's header says of them.
"""

from __future__ import annotations

import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

__all__ = ["UnsafeArchive", "unpack"]

MAX_UNPACKED = 4 * 2**30
MAX_ENTRIES = 10_000
MAX_PARTS = 32  # of a name: Python removes deeper folders by recursion
MAX_RATIO = 100  # weights hardly shrink, text by a factor of three to ten
CHUNK = 2**20
# what zipfile makes of a damaged file
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError)


class UnsafeArchive(ValueError):
    """An archive that is not to be trusted, or is not one bundle."""


def unpack(archive: str, out: str) -> str:
    """Unpack an archive below ``out`` and return the bundle's folder.

    Raises:
        UnsafeArchive: see above; nothing is left behind then.
        FileExistsError: if the bundle's folder exists.
        zipfile.BadZipFile: if the archive is damaged; names it, and nothing is left behind then.
    """
    try:
        return _unpack(archive, out)
    except DAMAGED as error:
        raise zipfile.BadZipFile(f"{archive} is damaged ({str(error) or type(error).__name__}): fetch it again.") from error


def _unpack(archive: str, out: str) -> str:
    with zipfile.ZipFile(archive) as z:
        infos = z.infolist()
        top = _the_one_folder(infos, archive)
        _refuse_sizes(infos, archive)
        target = Path(out) / top
        if target.exists():
            raise FileExistsError(f"{target} exists: unpack {archive} elsewhere, or remove it.")
        Path(out).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".unpacking-") as temporary:
            _write(z, infos, Path(temporary), archive)
            (Path(temporary) / top).rename(target)
    return str(target)


def _the_one_folder(infos: Sequence[zipfile.ZipInfo], archive: str) -> str:
    """Check every name and return the first part that all of them share."""
    if len(infos) > MAX_ENTRIES:
        raise UnsafeArchive(f"{archive} holds {len(infos)} entries, more than {MAX_ENTRIES}: do not trust this archive.")
    if infos and min(info.header_offset for info in infos) != 0:  # such as the head of an archive whose end is another archive
        raise UnsafeArchive(f"{archive} holds something before its first entry: it is cut short, or more than one archive.")
    for info in infos:
        _refuse_entry(info, archive)
    _refuse_clashes(infos, archive)
    tops = {PurePosixPath(info.filename).parts[0] for info in infos}
    if len(tops) != 1 or all(len(PurePosixPath(info.filename).parts) == 1 for info in infos):
        raise UnsafeArchive(f"{archive} is not one bundle: it unpacks to {sorted(tops)}.")
    return tops.pop()


def _refuse_entry(info: zipfile.ZipInfo, archive: str) -> None:
    name, path = info.orig_filename, PurePosixPath(info.filename)
    astray = not path.parts or path.is_absolute() or ".." in path.parts or ":" in name or "\\" in name
    if astray or not name.isprintable():
        raise UnsafeArchive(f"{archive} holds {name!r}, which leads out of its folder: do not trust this archive.")
    if len(path.parts) > MAX_PARTS:
        raise UnsafeArchive(f"{archive} holds folders nested more than {MAX_PARTS} deep: do not trust this archive.")
    if any(part.startswith(".") for part in path.parts):
        raise UnsafeArchive(f"{archive} holds the hidden '{name}': a bundle has none, do not trust this archive.")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise UnsafeArchive(f"{archive} holds the link '{name}': a bundle has none, do not trust this archive.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeArchive(f"{archive} holds '{name}', which is no plain file: do not trust this archive.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"'{name}' is packed by method {info.compress_type}, neither stored nor deflated")
    if info.flag_bits & 1:
        raise UnsafeArchive(f"{archive} holds '{name}' encrypted: a bundle is open.")


def _refuse_clashes(infos: Sequence[zipfile.ZipInfo], archive: str) -> None:
    """Two names must differ in more than case, Unicode form and what a path leaves out, and a file is no folder."""
    seen: dict[str, str] = {}
    for info in infos:
        key = unicodedata.normalize("NFC", str(PurePosixPath(info.filename))).casefold()
        if key in seen:
            raise UnsafeArchive(f"{archive} holds '{seen[key]}' and '{info.filename}', of which one would replace the other.")
        seen[key] = info.filename
    files = {key for key, name in seen.items() if not name.endswith("/")}
    for key, name in seen.items():
        if any(str(parent) in files for parent in PurePosixPath(key).parents):
            raise UnsafeArchive(f"{archive} holds '{name}' below an entry that is a file.")


def _refuse_sizes(infos: Sequence[zipfile.ZipInfo], archive: str) -> None:
    size, packed = sum(i.file_size for i in infos), Path(archive).stat().st_size
    if size > MAX_UNPACKED:
        raise UnsafeArchive(f"{archive} would unpack to more than {MAX_UNPACKED} bytes.")
    swollen = [i.filename for i in infos if i.file_size > CHUNK and i.file_size > MAX_RATIO * i.compress_size]
    if swollen or size > MAX_RATIO * packed:
        what = f"'{swollen[0]}' in {archive}" if swollen else archive
        raise UnsafeArchive(f"{what} would unpack to more than {MAX_RATIO} times its size: do not trust this archive.")


def _write(z: zipfile.ZipFile, infos: Sequence[zipfile.ZipInfo], folder: Path, archive: str) -> None:
    written, announced = 0, min(MAX_UNPACKED, sum(i.file_size for i in infos))
    for info in infos:
        path = folder / info.filename
        if info.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with z.open(info) as source, path.open("xb") as target:
            while block := source.read(CHUNK):
                written += len(block)
                if written > announced:
                    raise UnsafeArchive(f"{archive} holds more than its header says: do not trust this archive.")
                target.write(block)
