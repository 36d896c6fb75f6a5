"""Bundle ↔ archive: ``pack`` makes ``dist/<name>_v<version>.zip`` with a copy of ``custom`` inside, ``unpack`` takes one apart.

The archive is reproducible (by one version of zlib the same files give the same bytes, in whichever folder they lie) and runs
without this repository. Beside it stand its SHA-256, its entry of the model zoo's ``model_info.json``, and the files above
25 MB, which ``large_files.yml`` in it lists.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import bundle_checks
import fire
from bundle_checks import COMPILED, EXPORTS, WEIGHTS, is_shared, sha256
from safe_archive import unpack
from verify_bundle import executed

from custom.own_files import read_json
from custom.paths import written_whole

__all__ = ["bundle_files", "pack", "unpack"]

ROOT = Path(__file__).resolve().parents[1]
INFO = "model_info.json"
LARGE = 25 * 10**6  # bytes; what the model zoo takes


def bundle_files(bundle: Path, weights: bool = True) -> dict[str, Path]:
    """Map the names in the archive to files: the bundle, its weights if wanted, ``custom`` and the requirements.

    Of the bundle goes along what :py:func:`bundle_checks.is_shared` names. Exported networks are made anew.

    Raises:
        ValueError: a folder is a link, whose files would be left out, or there are no weights.
    """
    if weights and not (bundle / WEIGHTS).is_file():
        raise ValueError(f"there are no weights: {bundle / WEIGHTS} is to be there, or --weights to be False.")
    files = {"requirements.txt": ROOT / "requirements.txt"}
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle)
        left_out = name.parts[0] == "models" and not weights
        if path.is_symlink() and path.is_dir() and name.parts[0] in bundle_checks.SHARED and not left_out:
            raise ValueError(f"{path} is a link to a folder, whose files would be left out: put the folder itself there.")
        if path.is_file() and is_shared(name) and path.suffix not in EXPORTS and not left_out:
            files[name.as_posix()] = path
    for path in sorted((ROOT / "custom").rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        if path.is_file() and path.suffix not in COMPILED and not hidden:
            files[path.relative_to(ROOT).as_posix()] = path
    return files


def pack(
    bundle: str,
    out: str = str(ROOT / "dist"),
    weights: bool = True,
    torchscript: bool = False,
    onnx: bool = False,
    url: str | None = None,
) -> str:
    """Write the archive of a bundle and return its path.

    Args:
        bundle: the bundle's folder.
        out: folder of the archive.
        weights: whether ``models/`` goes along.
        torchscript: whether the weights go along as ``models/model.ts`` too.
        onnx: whether they go along as ``models/model.onnx`` too, by the bundle's ``export.json``.
        url: of the folder where the archive and the files above 25 MB will be found.

    Raises:
        ValueError: naming all that is missing or stale: a version that is not in the changelog, packages that
            ``requirements.txt`` installs in other versions, weights that ``models/model.json`` does not describe or that do
            not fit the network of ``inference.json``, a large file without ``url``, and what else ``verify_bundle.py`` finds
            without running the bundle.
    """
    for name, given in {"weights": weights, "torchscript": torchscript, "onnx": onnx}.items():
        if not isinstance(given, bool):
            raise ValueError(f"--{name} is to be True or False, not {given!r}.")
    exports = [name for name, wanted in (("model.ts", torchscript), ("model.onnx", onnx)) if wanted]
    if exports and not weights:
        raise ValueError("there are no weights to export: --weights is to be True.")
    folder = Path(bundle).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "archive" / folder.name
        for name, path in bundle_files(folder, weights).items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / name)
        _refuse(folder, bundle_checks.read_checks(staged))
        (staged / "README.md").write_text(bundle_checks.model_card(staged), encoding="utf-8")
        if weights:
            _export(staged, folder, Path(temporary), exports)
        _refuse(folder, [("archive", list(bundle_checks.check_packed(staged)))])
        stem = f"{folder.name}_v{bundle_checks.metadata_of(staged)['version']}"
        _known(Path(out))  # read before anything is written
        _put_large_files_beside(staged, Path(out), stem, url)
        return str(_write(staged, Path(out) / f"{stem}.zip", url))


def _refuse(folder: Path, found: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Raise ValueError if a check has complaints."""
    complaints = [f"{name}: {text}" for name, texts in found for text in texts]
    if complaints:
        raise ValueError(f"{folder} is not to be packed:\n- " + "\n- ".join(complaints))


def _export(staged: Path, folder: Path, work: Path, exports: Sequence[str]) -> None:
    """Load the weights into the network of ``inference.json``, and export them."""
    import run_bundle  # with torch and MONAI: seconds, which an archive without weights does not need

    _refuse(folder, [("weights", list(run_bundle.check_fit(folder)))])
    _refuse(folder, executed(staged, work, exports))


def _put_large_files_beside(staged: Path, out: Path, stem: str, url: str | None) -> None:
    """Move files above 25 MB out of the staged folder and list them with their SHA-256 for MONAI's ``download_large_files``."""
    large = [p for p in sorted(staged.rglob("*")) if p.is_file() and p.stat().st_size > LARGE]
    if large and url is None:
        sizes = ", ".join(f"{p.relative_to(staged)} ({p.stat().st_size / 1e6:.0f} MB)" for p in large)
        raise ValueError(f"{sizes} is too large for the archive: say by --url in which folder it will be found.")
    lines = ["large_files:"]
    for path in large:
        name = path.relative_to(staged).as_posix()
        beside = out / f"{stem}_{name.removeprefix('models/').replace('/', '--')}"
        entry = {"path": name, "url": f"{str(url).rstrip('/')}/{beside.name}", "hash_val": sha256(path), "hash_type": "sha256"}
        lines += [f"{'-' if i == 0 else ' '} {key}: {json.dumps(text)}" for i, (key, text) in enumerate(entry.items())]
        with written_whole(beside) as temporary:
            shutil.move(path, temporary)
    if large:
        (staged / "large_files.yml").write_text("\n".join(lines) + "\n")


def _write(staged: Path, archive: Path, url: str | None) -> Path:
    """Zip the staged folder with nothing in it that depends on when or where, and write what stands beside it."""
    with written_whole(archive) as temporary, zipfile.ZipFile(temporary, "w") as z:
        for path in sorted(p for p in staged.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(path.relative_to(staged.parent).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            z.writestr(info, path.read_bytes())
    with written_whole(archive.with_name(f"{archive.name}.sha256")) as temporary:
        temporary.write_text(f"{sha256(archive)}  {archive.name}\n")
    checksum = hashlib.sha1(archive.read_bytes(), usedforsecurity=False).hexdigest()  # what the zoo has
    source = archive.name if url is None else f"{url.rstrip('/')}/{archive.name}"
    known = _known(archive.parent) | {archive.stem: {"checksum": checksum, "source": source}}
    with written_whole(archive.with_name(INFO)) as temporary:
        temporary.write_text(json.dumps(known, indent=4, sort_keys=True) + "\n")
    return archive


def _known(out: Path) -> dict[str, Any]:
    """The entries of the zoo's ``model_info.json`` that stand beside the archive."""
    path = out / INFO
    return read_json(path, "put a copy in its place, or remove it.") if path.is_file() else {}


def main() -> None:
    """Command line: ``pack BUNDLE`` or ``unpack ARCHIVE OUT``."""
    fire.Fire({"pack": pack, "unpack": unpack})


if __name__ == "__main__":
    main()
