"""Bundle ↔ archive: ``pack`` makes ``dist/<name>_v<version>.zip`` with a copy of ``custom`` inside, ``unpack`` takes one apart.

The archive is reproducible, the same files give the same bytes, and it runs without this repository.
"""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path, PurePosixPath

import fire

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"__pycache__", "eval", "data", "raw", ".ipynb_checkpoints"}
TRAINING_STATE = "last.pt"
MAX_UNPACKED = 4 * 2**30


def bundle_files(bundle: Path, weights: bool = True) -> dict[str, Path]:
    """Map the names in the archive to files: the bundle without what its runs wrote, its weights if wanted, and ``custom``."""
    files = {}
    for root, prefix in ((bundle, Path(bundle.name)), (ROOT / "custom", Path(bundle.name) / "custom")):
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            parts = path.relative_to(root).parts
            written = path.name == TRAINING_STATE or "__pycache__" in parts or (root == bundle and parts[0] in LEFT_OUT)
            if not written and (weights or parts[0] != "models"):
                files[prefix.joinpath(*parts).as_posix()] = path
    return files


def pack(bundle: str, out: str = str(ROOT / "dist"), weights: bool = True) -> str:
    """Write the archive of a bundle and return its path.

    Args:
        bundle: the bundle's folder.
        out: folder of the archive.
        weights: whether ``models/`` goes along.
    """
    folder = Path(bundle).resolve()
    version = json.loads((folder / "configs" / "metadata.json").read_text())["version"]
    archive = Path(out) / f"{folder.name}_v{version}.zip"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as z:
        for name, path in bundle_files(folder, weights).items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            z.writestr(info, path.read_bytes())
    return str(archive)


def unpack(archive: str, out: str) -> str:
    """Unpack an archive below ``out`` and return the bundle's folder.

    Raises:
        ValueError: before anything is written, if a name leads out of the bundle's one folder (absolute, ``..``), an entry is
            a link, or the whole would unpack to more than 4 GiB.
    """
    with zipfile.ZipFile(archive) as z:
        infos = z.infolist()
        for info in infos:
            _refuse_unsafe(info, archive)
        tops = {PurePosixPath(info.filename).parts[0] for info in infos}
        if len(tops) != 1:
            raise ValueError(f"{archive} is not one bundle: it unpacks to {sorted(tops)}.")
        if sum(info.file_size for info in infos) > MAX_UNPACKED:
            raise ValueError(f"{archive} would unpack to more than {MAX_UNPACKED} bytes.")
        z.extractall(out)
    return str(Path(out) / tops.pop())


def _refuse_unsafe(info: zipfile.ZipInfo, archive: str) -> None:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"{archive} holds '{info.filename}', which leads out of its folder: do not trust this archive.")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{archive} holds the link '{info.filename}': a bundle has none, do not trust this archive.")


def main() -> None:
    """Command line: ``pack BUNDLE`` or ``unpack ARCHIVE OUT``."""
    fire.Fire({"pack": pack, "unpack": unpack})


if __name__ == "__main__":
    main()
