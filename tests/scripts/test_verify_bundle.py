"""A packed bundle passes; each of the planted defects is found and named. Most are planted in a bundle of a few lines."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundle_checks
import fire
import pytest
from bundle_cases import Case
from jsonschema import Draft201909Validator
from package_bundle import pack, unpack
from tiny_bundle import METADATA, edit, write, write_tiny_bundle
from verify_bundle import main, verify


def complaints(path: Path, execute: bool = False) -> dict[str, str]:
    """The failed checks, each with what it says."""
    return {name: "; ".join(found) for name, found in verify(str(path), execute) if found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The unpacked archive of a bundle."""
    bundle = write_tiny_bundle(tmp_path / "source" / "heads")
    return Path(unpack(pack(str(bundle), str(tmp_path / "dist")), str(tmp_path)))


def packed(folder: Path, *add: Callable[[zipfile.ZipFile], None]) -> Path:
    """Zip a folder as somebody might who does not use ``package_bundle.py``."""
    archive = folder.parent / "heads_v1.2.3.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            z.write(path, path.relative_to(folder.parent))
        for extra in add:
            extra(z)
    return archive


def test_a_packed_bundle_passes_with_its_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    archive = pack(str(write_tiny_bundle(tmp_path / "heads")), str(tmp_path / "dist"))
    with pytest.raises(SystemExit) as ended:
        main(archive)
    told = capsys.readouterr().out.splitlines()
    names = ["archive", *bundle_checks.CHECKS, "code", "keys", "network", "export"]
    assert told == [*(f"ok   {n}" for n in names), "     not run: trial", f"{archive}: nothing to complain of"]
    assert not ended.value.code


def test_several_archives_are_checked_each(folder: Path, capsys: pytest.CaptureFixture[str]):
    good, bad = packed(folder), folder.parent / "bad.zip"
    write(bad, "no archive")
    with pytest.raises(SystemExit) as ended:
        main(str(bad), str(good), execute=False)
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith(str(folder.parent))] == [
        f"{bad}: 1 complaints",
        f"{good}: nothing to complain of",
    ]
    assert ended.value.code


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ("--execute false", "--execute 'false'"),
        ("--execute=no", "--execute 'no'"),
        ("--execute 0", "--execute 0"),
        ("--exeute False", "--exeute"),
        ("--no-execute", "--_execute"),
        ("-e False", "--e"),
    ],
)
def test_what_is_misspelt_runs_no_code(folder: Path, options: str, given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify_bundle.executed", lambda *_: pytest.fail("the bundle's code runs"))
    with pytest.raises(ValueError, match=f"--execute True or False, nothing else: {given} was given"):
        fire.Fire(main, f"{folder} {options}")


META, INFERENCE = "configs/metadata.json", "configs/inference.json"


@pytest.mark.parametrize(
    ("spoil", "check", "message"),
    [
        (lambda f: (f / "LICENSE").unlink(), "files", "LICENSE is missing"),
        (lambda f: write(f / "LICENSE", "all mine"), "files", "neither the text of Apache-2.0 nor that of MIT"),
        (lambda f: (f / INFERENCE).unlink(), "files", "configs/inference.json is missing"),
        (
            lambda f: edit(f / META, version="2.0.0"),
            "version",
            "version 2.0.0 is not in the changelog, whose versions are 1.2.3",
        ),
        (lambda f: edit(f / META, version="2"), "version", "version 2 is not three numbers such as 1.0.0"),
        (lambda f: edit(f / META, changelog="new"), "metadata", "changelog: 'new' is not of type 'object'"),
        (lambda f: edit(f / META, authors=["me"]), "metadata", "authors: ['me'] is not of type 'string'"),
        (lambda f: edit(f / META, numpy_version="<2"), "packages", "the version of numpy, <2, is not an exact one"),
        (lambda f: edit(f / META, pytorch_version="2.0.0"), "packages", "torch is 2.0.0"),
        (lambda f: write(f / "requirements.txt", ""), "packages", "monai is 1.6.1 in configs/metadata.json, requirements.txt"),
        (lambda f: write(f / "requirements.txt", "monai>=1\n"), "packages", "requirements.txt installs no exact version of it"),
        (lambda f: edit(f / META, label_classes="0: head"), "classes", "are not the channels of pred"),
        (lambda f: edit(f / META, network_data_format__outputs__pred__num_channels=3), "classes", "3 channels for 2 classes"),
        (lambda f: write(f / INFERENCE, "{"), "configs", "configs/inference.json cannot be read"),
        (
            lambda f: write(f / "configs/a.json", '{"a": 1, "a": 2}'),
            "configs",
            "configs/a.json cannot be read: 'a' is given twice",
        ),
        (lambda f: write(f / "configs/a.json", "[" * 100_000), "configs", "configs/a.json cannot be read: maximum recursion"),
        (lambda f: (f / "configs/a.json").write_bytes(b'{"a": "\xa9"}'), "configs", "configs/a.json cannot be read: 'utf-8'"),
        (lambda f: edit(f / INFERENCE, device="/data/a"), "configs", "inference.json, device: '/data/a' is an absolute path"),
        (lambda f: edit(f / INFERENCE, device="$open('/home/me/a')"), "configs", "is an absolute path"),
        (lambda f: edit(f / INFERENCE, device="C:\\a"), "configs", "is an absolute path"),
        (lambda f: edit(f / INFERENCE, device="#0"), "configs", "MONAI turns the '#'"),
        (lambda f: (f / "models/model.pt").unlink(), "weights", "models/model.pt is missing beside models/model.json"),
        (lambda f: write(f / "models/model.json", "{"), "weights", "is not what models/model.json describes (sha256 None)"),
        (
            lambda f: write(f / "large_files.yml", "large_files:\n- a"),
            "large files",
            "large_files lists 'a', which lacks path, url",
        ),
        (lambda f: write(f / "large_files.json", "{}"), "large files", "large_files lists None, which lacks path"),
        (lambda f: write(f / "large_files.yml", "- a"), "large files", "large_files.yml holds a list, where large_files are"),
        (lambda f: write(f / "large_files.yml", "large_files: [a: b: c"), "large files", "large_files.yml cannot be read"),
        (lambda f: write(f / "large_files.json", "{"), "large files", "large_files.json cannot be read"),
        (
            lambda f: write(f / "models/extractor.json", '{"weights_sha256": "0"}') and write(f / "models/extractor.pt"),
            "weights",
            "models/extractor.pt is not what models/extractor.json describes",
        ),
        (lambda f: edit(f / "models/model.json", permuted=3), "weights", "was trained with permuted labels"),
        (lambda f: edit(f / "models/model.json", class_names=["tail"]), "weights", "was trained for ['tail'], as models/model"),
        (lambda f: write(f / "models/model.pt", "other"), "weights", "is not what models/model.json describes"),
        (lambda f: (f / "requirements.txt").unlink(), "archive", "requirements.txt is missing"),
        (lambda f: shutil.rmtree(f / "custom"), "archive", "custom/ is missing, which the configs name"),
        *(
            (lambda f, name=name: write(f / name), "archive", f"{told} is not what a bundle consists of, and may hold people's")
            for name, told in {
                "data/sub-01.nii": "data",
                "eval2/predictions.csv": "eval2",
                "train.log": "train.log",
                "models/features.csv": "models/features.csv",
                "models/fold1/last.pt": "models/fold1/last.pt",
            }.items()
        ),
        *(
            (lambda f, name=name: write(f / name), "archive", f"{name} is compiled code, which nobody can read")
            for name in ("custom/__pycache__/config.cpython-311.pyc", "custom/paths.so", "docs/a.pyd", "json.pyo")
        ),
    ],
)
def test_a_defect_of_the_content_is_named(folder: Path, spoil: Callable[[Path], Any], check: str, message: str):
    spoil(folder)
    found = complaints(packed(folder))
    assert message in found.pop(check)
    assert not found or check in ("files", "version"), "one defect, one complaint, but for what hangs on the file or the name"


def test_a_licence_in_another_encoding_is_read(folder: Path):
    (folder / "LICENSE").write_bytes((folder / "LICENSE").read_bytes() + b"\xa9 me")
    assert complaints(packed(folder)) == {}


def link(z: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("heads/models/model.ts")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    z.writestr(info, "/etc/passwd")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (link, "holds the link 'heads/models/model.ts'"),
        (lambda z: z.writestr("heads/../../x", "bad"), "leads out of its folder"),
        (lambda z: z.writestr("heads/docs/readme.md", "bad"), "one would replace the other"),
        (lambda z: z.writestr("heads/zeros", bytes(2 * 10**6), zipfile.ZIP_DEFLATED), "times its size"),
    ],
    ids=["link", "dots", "case", "bomb"],
)
def test_a_defect_of_the_archive_ends_the_verification(folder: Path, add: Callable[[zipfile.ZipFile], None], message: str):
    ((name, (found,)),) = verify(str(packed(folder, add)))
    assert name == "archive"
    assert message in found


def test_an_archive_cut_short_is_named(folder: Path):
    archive = packed(folder)
    archive.write_bytes(archive.read_bytes()[:-100])
    assert "it is cut short" in complaints(archive)["archive"]  # the end of an uncompressed model.pt is an archive's
    archive.write_bytes(archive.read_bytes()[:1000])
    assert "not a zip file" in complaints(archive)["archive"]


def test_an_archive_of_another_name_is_named(folder: Path):
    archive = packed(folder).rename(folder.parent / "tails_v1.2.3.zip")
    assert "holds heads in version 1.2.3: its name is heads_v1.2.3.zip" in complaints(archive)["archive"]


def listed(folder: Path, digest: str) -> Path:
    """The weights beside the archive, and how they are listed in it."""
    (folder / "models/model.pt").rename(folder.parent / "heads_v1.2.3_model.pt")
    entry = {"path": "models/model.pt", "url": "https://example.org/heads_v1.2.3_model.pt", "hash_val": digest}
    write(folder / "large_files.json", json.dumps({"large_files": [{**entry, "hash_type": "sha256"}]}))
    return packed(folder)


def test_large_files_are_taken_from_beside_the_archive(folder: Path):
    digest = bundle_checks.sha256(folder / "models/model.pt")
    archive = listed(folder, digest)
    assert complaints(archive) == {}
    (folder.parent / "heads_v1.2.3_model.pt").unlink()
    assert "models/model.pt is missing: fetch it by monai.bundle download_large_files" in complaints(archive)["large files"]


def test_a_large_file_of_another_hash_is_named(folder: Path):
    assert "is not the file whose sha256 large_files gives" in complaints(listed(folder, "0" * 64))["large files"]


def test_a_large_file_that_leads_out_is_named(folder: Path):
    entry = {"path": "../x", "url": "https://example.org/x", "hash_val": "0", "hash_type": "sha256"}
    write(folder / "large_files.json", json.dumps({"large_files": [entry]}))
    assert "leads out of the bundle: ../x" in complaints(folder)["large files"]


# ---- the schema


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"extra": 1},
        {"version": 1},
        {"references": [1]},
        {"changelog": []},
        {"eval_metrics": "none"},
        {"supported_apps": []},
        {"image_classes": 3},
        {"autoencoder_data_format": {"inputs": {}}},
        {"network_data_format": {"inputs": {"image": "any"}, "outputs": {"pred": 3}}},
        {"network_data_format": {"inputs": {"image": {"type": "image"}}, "outputs": {}}},
        {"network_data_format": {"inputs": {"image": None}, "outputs": {}}},
        *({key: ...} for key in ("schema", "version", "required_packages_version", "task", "network_data_format")),
        *({f"network_data_format__inputs__image__{key}": value} for key, value in {
            "num_channels": "4", "spatial_shape": [1.5], "dtype": 32, "value_range": ["a"], "is_patch_data": 0,
        }.items()),
    ],
    ids=str,
)  # fmt: skip
def test_the_own_words_say_what_the_zoo_s_schema_says(real_data: Path, tmp_path: Path, change: dict[str, Any]):
    write(tmp_path / "m.json", json.dumps(METADATA))
    edit(tmp_path / "m.json", **{key: None if value is ... else value for key, value in change.items()})
    meta = json.loads((tmp_path / "m.json").read_text())
    schemas = (real_data / "schema" / "meta_schema_20240725.json", bundle_checks.SCHEMA)
    zoo, own = (Draft201909Validator(json.loads(path.read_text())).is_valid(meta) for path in schemas)
    assert own == zoo


# ---- the bundles


def test_the_bundles_of_the_repository_have_no_defect_that_reading_shows(case: Case, tmp_path: Path):
    archive = pack(str(case.folder), str(tmp_path), weights=False)
    assert complaints(Path(archive)) == {}


@pytest.mark.slow
def test_the_bundles_of_the_repository_pass(case: Case, tmp_path: Path):
    archive = pack(str(case.folder), str(tmp_path), weights=False)
    assert [name for name, _ in verify(archive)][-1] == "trial"
    assert complaints(Path(archive), execute=True) == {}
