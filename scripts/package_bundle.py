"""Bundle ↔ archive: ``pack`` makes ``dist/<name>_v<version>.zip`` with a copy of ``custom`` inside, ``unpack`` takes one apart.

The archive is reproducible, the same files give the same bytes, and it runs without this repository. Beside it stand its
SHA-256, its entry of the model zoo's ``model_info.json``, and the files above 25 MB, which ``large_files.yml`` in it lists.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import bundle_checks
import fire
from bundle_checks import WEIGHTS, sha256
from safe_archive import unpack
from verify_bundle import executed

from custom.paths import written_whole

__all__ = ["bundle_files", "pack", "unpack"]

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"eval", "data", "raw"}
TRAINING_STATE = "last.pt"
LARGE = 25 * 10**6  # bytes; what the model zoo takes


def bundle_files(bundle: Path, weights: bool = True) -> dict[str, Path]:
    """Map the names in the bundle's folder to files: the bundle, its weights if wanted, ``custom`` and the requirements.

    What its runs wrote stays at home, tables of subjects in ``models/`` too.
    """
    files = {"requirements.txt": ROOT / "requirements.txt"}
    for root, prefix in ((bundle, Path()), (ROOT / "custom", Path("custom"))):
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            parts = path.relative_to(root).parts
            unseen = "__pycache__" in parts or any(part.startswith(".") for part in parts)
            if not unseen and not (root == bundle and _stays(parts, weights)):
                files[prefix.joinpath(*parts).as_posix()] = path
    return files


def _stays(parts: tuple[str, ...], weights: bool) -> bool:
    in_models = parts[0] == "models"
    written = parts[-1] == TRAINING_STATE or parts[-1].endswith(".csv")
    return parts[0] in LEFT_OUT or (in_models and (written or not weights))


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
    folder = Path(bundle).resolve()
    if (torchscript or onnx) and not (weights and (folder / WEIGHTS).is_file()):
        raise ValueError(f"there are no weights to export: {folder / WEIGHTS} is to be there, and --weights to be true.")
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / folder.name
        for name, path in bundle_files(folder, weights).items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / name)
        _refuse_stale(staged, folder)
        (staged / "README.md").write_text(bundle_checks.model_card(staged), encoding="utf-8")
        if (staged / WEIGHTS).is_file():
            exports = [name for name, wanted in (("model.ts", torchscript), ("model.onnx", onnx)) if wanted]
            _export(staged, folder, Path(temporary), exports)
        stem = f"{folder.name}_v{bundle_checks.metadata_of(staged)['version']}"
        _put_large_files_beside(staged, Path(out), stem, url)
        return str(_write(staged, Path(out) / f"{stem}.zip", url))


def _refuse_stale(staged: Path, folder: Path) -> None:
    complaints = [f"{name}: {text}" for name, check in bundle_checks.CHECKS.items() for text in check(staged)]
    if complaints:
        raise ValueError(f"{folder} is not to be packed:\n- " + "\n- ".join(complaints))


def _export(staged: Path, folder: Path, work: Path, exports: Sequence[str]) -> None:
    """Load the weights into the network of ``inference.json``, and export them."""
    import run_bundle  # with torch and MONAI: seconds, which an archive without weights does not need

    try:
        run_bundle.load_weights(staged)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit the network of configs/inference.json: the settings and overlays that it was "
            f"trained with belong into that file. {error}"
        ) from error
    for _, complaints in executed(staged, work, exports):
        if complaints:
            raise ValueError(f"{folder} cannot be exported: {'; '.join(complaints)}")


def _put_large_files_beside(staged: Path, out: Path, stem: str, url: str | None) -> None:
    """Move files above 25 MB out of the staged folder and list them with their SHA-256 for MONAI's ``download_large_files``."""
    large = [p for p in sorted(staged.rglob("*")) if p.is_file() and p.stat().st_size > LARGE]
    if large and url is None:
        sizes = ", ".join(f"{p.relative_to(staged)} ({p.stat().st_size / 1e6:.0f} MB)" for p in large)
        raise ValueError(f"{sizes} is too large for the archive: say by --url in which folder it will be found.")
    lines = ["large_files:"]
    for path in large:
        name = path.relative_to(staged).as_posix()
        beside = out / f"{stem}_{path.name}"
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
    _tell(archive.with_name("model_info.json"), {archive.stem: {"checksum": checksum, "source": source}})
    return archive


def _tell(path: Path, entry: Mapping[str, Mapping[str, str]]) -> None:
    """Add or replace an entry of the zoo's ``model_info.json``."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({**known, **entry}, indent=4, sort_keys=True) + "\n")


def main() -> None:
    """Command line: ``pack BUNDLE`` or ``unpack ARCHIVE OUT``."""
    fire.Fire({"pack": pack, "unpack": unpack})


if __name__ == "__main__":
    main()
