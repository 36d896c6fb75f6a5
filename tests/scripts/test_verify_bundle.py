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
import pytest
import run_bundle
from bundle_cases import CASES, Case
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
        (lambda f: edit(f / META, changelog="new"), "metadata", "changelog: 'new' is not of type 'object'"),
        (lambda f: edit(f / META, authors=["me"]), "metadata", "authors: ['me'] is not of type 'string'"),
        (lambda f: edit(f / META, numpy_version="<2"), "packages", "the version of numpy, <2, is not an exact one"),
        (lambda f: edit(f / META, pytorch_version="2.0.0"), "packages", "torch is 2.0.0"),
        (lambda f: edit(f / META, label_classes="0: head"), "classes", "are not the channels of pred"),
        (lambda f: edit(f / META, network_data_format__outputs__pred__num_channels=3), "classes", "3 channels for 2 classes"),
        (lambda f: write(f / INFERENCE, "{"), "configs", "configs/inference.json cannot be read"),
        (
            lambda f: write(f / "configs/a.json", '{"a": 1, "a": 2}'),
            "configs",
            "configs/a.json cannot be read: 'a' is given twice",
        ),
        (lambda f: edit(f / INFERENCE, device="/data/a"), "configs", "inference.json, device: '/data/a' is an absolute path"),
        (lambda f: edit(f / INFERENCE, device="$open('/home/me/a')"), "configs", "is an absolute path"),
        (lambda f: edit(f / INFERENCE, device="C:\\a"), "configs", "is an absolute path"),
        (lambda f: edit(f / INFERENCE, device="#0"), "configs", "MONAI turns the '#'"),
        (lambda f: (f / "models/model.pt").unlink(), "weights", "models/model.pt is missing beside models/model.json"),
        (lambda f: write(f / "models/model.json", "{"), "weights", "is not what models/model.json describes (sha256 None)"),
        (
            lambda f: write(f / "large_files.yml", "large_files:\n- a"),
            "weights",
            "large_files lists 'a', which lacks path, url",
        ),
        (lambda f: write(f / "large_files.json", "{}"), "weights", "large_files lists None, which lacks path"),
        (lambda f: write(f / "models/model.pt", "other"), "weights", "is not what models/model.json describes"),
        (lambda f: (f / "requirements.txt").unlink(), "archive", "requirements.txt is missing"),
        (lambda f: shutil.rmtree(f / "custom"), "archive", "custom/ is missing, which the configs name"),
        (lambda f: write(f / "data/sub-01.nii"), "archive", "data was written by a run and may hold people's data"),
        (lambda f: write(f / "models/features.csv"), "archive", "models/features.csv was written by a run"),
    ],
)
def test_a_defect_of_the_content_is_named(folder: Path, spoil: Callable[[Path], Any], check: str, message: str):
    spoil(folder)
    found = complaints(packed(folder))
    assert message in found.pop(check)
    assert not found or check in ("files", "version"), "one defect, one complaint, but for what hangs on the file or the name"


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
    assert "models/model.pt is missing: fetch it by monai.bundle download_large_files" in complaints(archive)["weights"]


def test_a_large_file_of_another_hash_is_named(folder: Path):
    assert "is not the file whose sha256 large_files gives" in complaints(listed(folder, "0" * 64))["weights"]


def test_a_large_file_that_leads_out_is_named(folder: Path):
    entry = {"path": "../x", "url": "https://example.org/x", "hash_val": "0", "hash_type": "sha256"}
    write(folder / "large_files.json", json.dumps({"large_files": [entry]}))
    assert "leads out of the bundle: ../x" in complaints(folder)["weights"]


# ---- what only running it shows; in this process, with the repository's custom


def told(check: str, folder: Path) -> str:
    return "; ".join(run_bundle.CHECKS[check](folder, folder.parent))


def test_the_tiny_bundle_has_none_of_the_following_defects(folder: Path):
    assert [told(check, folder) for check in ("keys", "network", "export")] == ["", "", ""]


def test_other_channels_than_the_network_s_are_an_error(folder: Path):
    edit(folder / META, network_data_format__inputs__image__num_channels=5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        told("network", folder)
    edit(folder / META, network_data_format__inputs__image__num_channels=4, network_data_format__outputs__pred__num_channels=3)
    with pytest.raises(ValueError, match="output channel number `2` doesn't match: `3`"):
        told("network", folder)


def test_classes_in_another_order_are_named(folder: Path):
    edit(folder / INFERENCE, class_names=["tail", "head"])
    assert told("network", folder) == (
        "label_classes are ['head', 'tail'], the network of configs/inference.json has ['tail', 'head']"
    )


def test_dead_keys_are_named(folder: Path):
    edit(folder / INFERENCE, epoch=1)
    assert told("keys", folder) == "configs/inference.json: nothing reads epoch"


def test_dead_keys_of_an_overlay_are_named(folder: Path):
    write(folder / "configs/wider.json", json.dumps({"network_def::hidden_channels": [5], "epoch": 1}))
    assert told("keys", folder) == "configs/wider.json: nothing reads epoch"


def test_an_overlay_that_fits_nowhere_is_named(folder: Path):
    write(folder / "configs/wider.json", json.dumps({"network_deff::hidden_channels": [5]}))
    assert "configs/wider.json: does not fit on" in told("keys", folder)


def test_weights_of_another_network_are_an_error(folder: Path):
    edit(folder / INFERENCE, network_def__hidden_channels=[9])
    with pytest.raises(RuntimeError, match="size mismatch"):
        told("export", folder)


@pytest.mark.parametrize("name", ["motor", pytest.param("abide", marks=pytest.mark.slow)])  # whose weights are a head's fit
def test_a_trial_prepares_trains_and_infers_on_the_bundle_s_phantom(name: str, tmp_path: Path):
    folder = next(case.folder for case in CASES if name in case.name)
    assert list(run_bundle.CHECKS["trial"](folder, tmp_path)) == []
    assert (tmp_path / "eval/inference/predictions.csv").is_file()
    assert not list(bundle_checks.check_weights(tmp_path)), "model.json describes model.pt"
    assert (tmp_path / "models/model.pt").is_file()


def test_what_monai_asks_for_and_does_not_find_is_named(folder: Path):
    for name in ("preprocess", "train", "inference"):
        write(folder / f"configs/{name}.json", json.dumps({"epochs": 1, "run": ["$print(@epochs)"]}))
    edit(folder / META, trial={"phantom": {"study": "oasis", "n_subjects": 1, "voxel_size": 8.0}})
    with pytest.raises(KeyError, match="Property 'bundle_root' with config ID 'bundle_root' not in the config"):
        told("trial", folder)


def test_a_component_that_is_not_vendored_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """In processes of their own, with the archive's ``custom``: the repository's has the module."""
    monkeypatch.setattr("verify_bundle.EXECUTED", ("code", "network"))
    (folder / "custom/networks/onnx_network.py").unlink()
    found = complaints(folder, execute=True)
    assert found.keys() == {"code"}
    assert "onnx_network" in found["code"]


def test_a_process_that_ends_itself_is_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify_bundle.EXECUTED", ("code",))
    write(folder / "custom/__init__.py", "import os\nos._exit(0)\n")
    assert complaints(folder, execute=True) == {"code": "the process ended with 0 before it was done"}


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
