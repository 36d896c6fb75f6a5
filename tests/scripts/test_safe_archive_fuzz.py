"""Whatever happened to an archive on its way, it is unpacked whole or refused by name, and nothing half is left."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
from safe_archive import UnsafeArchive, unpack

CONTENT = {"heads/configs/metadata.json": b'{"a": 1}' * 20, "heads/models/mod\u00e8l.pt": random.Random(0).randbytes(500)}


def write(path: Path, method: int) -> bytes:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, content in CONTENT.items():
            z.writestr(name, content)
    return path.read_bytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused_by_name_or_gives_its_files(tmp_path: Path, method: int):
    archive, chance, refused = tmp_path / "heads.zip", random.Random(method), 0
    whole = write(archive, method)
    for i in range(60):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if i % 6 == 0 else whole)
        for _ in range(min(3, len(damaged))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        archive.write_bytes(damaged)
        try:
            folder = Path(unpack(str(archive), str(tmp_path / str(i))))
        except (UnsafeArchive, zipfile.BadZipFile) as error:
            assert str(archive) in str(error)  # noqa: PT017  # some mutations do no harm
            assert list(tmp_path.glob(f"{i}/*")) == []
            refused += 1
        else:
            found = {path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            assert found <= set(CONTENT.values())
    assert refused > 40


def test_a_flipped_byte_of_a_deflated_file_is_named(tmp_path: Path):
    content = bytearray(write(tmp_path / "heads.zip", zipfile.ZIP_DEFLATED))
    content[30 + len("heads/configs/metadata.json")] = 0x07  # a block of a kind that deflate does not have
    (tmp_path / "heads.zip").write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match=r"heads\.zip is damaged \(.*invalid block type.*\): fetch it again"):
        unpack(str(tmp_path / "heads.zip"), str(tmp_path / "out"))
