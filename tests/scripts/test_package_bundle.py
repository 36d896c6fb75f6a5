from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import package_bundle
import pytest
import run_bundle
import torch
from bundle_checks import read_json
from monai.bundle import download, download_large_files, load, load_bundle_config
from monai.bundle.scripts import _add_model_card_metadata
from package_bundle import ROOT, pack, unpack
from tiny_bundle import edit, write, write_tiny_bundle, write_weights


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that has been worked with."""
    root = write_tiny_bundle(tmp_path / "heads")
    left = (
        "models/last.pt",
        "models/features.csv",
        "models/.12-model.pt",
        "eval/metrics.json",
        "data/images/a.nii",
        "raw/a.img",
    )
    for name in (*left, "configs/__pycache__/a.pyc"):
        write(root / name)
    return root


def names(archive: str | Path) -> set[str]:
    with zipfile.ZipFile(archive) as z:
        return {name.removeprefix("heads/") for name in z.namelist()}


OWN = {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.json"} | {
    f"configs/{name}.json" for name in ("metadata", "inference", "train", "export", "wider")
}


def test_the_archive_holds_the_bundle_the_package_and_the_requirements(bundle: Path, tmp_path: Path):
    archive = pack(str(bundle), str(tmp_path / "dist"))
    assert Path(archive).name == "heads_v1.2.3.zip"
    package = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "custom").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert names(archive) == OWN | package | {"requirements.txt", "README.md"}
    with zipfile.ZipFile(archive) as z:
        assert z.read("heads/requirements.txt") == (ROOT / "requirements.txt").read_bytes()


def test_weights_stay_at_home_on_demand(bundle: Path, tmp_path: Path):
    assert not [n for n in names(pack(str(bundle), str(tmp_path / "dist"), weights=False)) if n.startswith("models/")]


def test_the_same_files_give_the_same_bytes(bundle: Path, tmp_path: Path):
    first = Path(pack(str(bundle), str(tmp_path / "a")))
    with zipfile.ZipFile(first) as z:
        assert {info.date_time for info in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for path in bundle.rglob("*"):
        os.utime(path, (10**9, 10**9))
    (bundle / "LICENSE").chmod(0o600)
    assert Path(pack(str(bundle), str(tmp_path / "b"))).read_bytes() == first.read_bytes()
    write(bundle / "docs/README.md", "another")
    assert Path(pack(str(bundle), str(tmp_path / "c"))).read_bytes() != first.read_bytes()


def test_checksum_and_entry_of_the_zoo_stand_beside_the_archive(bundle: Path, tmp_path: Path):
    write(tmp_path / "dist/model_info.json", json.dumps({"tails_v1.0.0": {"checksum": "a", "source": "b"}}))
    archive = Path(pack(str(bundle), str(tmp_path / "dist"), url="https://example.org/zoo/"))
    content = archive.read_bytes()
    assert (
        archive.parent / "heads_v1.2.3.zip.sha256"
    ).read_text() == f"{hashlib.sha256(content).hexdigest()}  heads_v1.2.3.zip\n"
    assert read_json(archive.parent / "model_info.json") == {
        "tails_v1.0.0": {"checksum": "a", "source": "b"},
        "heads_v1.2.3": {"checksum": hashlib.sha1(content).hexdigest(), "source": "https://example.org/zoo/heads_v1.2.3.zip"},
    }


def test_the_readme_has_the_header_that_monai_would_give_it(bundle: Path, tmp_path: Path):
    folder = Path(unpack(pack(str(bundle), str(tmp_path / "dist"), weights=False), str(tmp_path / "out")))
    card = write(bundle / "README.md", (bundle / "docs/README.md").read_text())
    _add_model_card_metadata(str(card))
    assert (folder / "README.md").read_text() == card.read_text()
    assert card.read_text().startswith("---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: apache-2.0\n---\n# Heads")


def test_large_weights_stand_beside_the_archive_and_monai_fetches_them(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    edit(bundle / "configs/inference.json", network_def__hidden_channels=[30_000])  # more than any file of the package
    write_weights(bundle)
    monkeypatch.setattr(package_bundle, "LARGE", 500_000)
    with pytest.raises(ValueError, match=r"models/model\.pt .* is too large for the archive: say by --url"):
        pack(str(bundle), str(tmp_path / "dist"))
    archive = pack(str(bundle), str(tmp_path / "dist"), url=(tmp_path / "dist").as_uri())
    assert {"models/model.json", "large_files.yml"} < names(archive)
    assert "models/model.pt" not in names(archive)
    folder = unpack(archive, str(tmp_path / "out"))
    download_large_files(folder)
    assert (Path(folder) / "models/model.pt").read_bytes() == (bundle / "models/model.pt").read_bytes()


def of_another_training(bundle: Path) -> None:
    edit(bundle / "models/model.json", weights_sha256="0" * 64)


def for_another_network(bundle: Path) -> None:
    edit(bundle / "configs/inference.json", network_def__hidden_channels=[7])
    write_weights(bundle)
    edit(bundle / "configs/inference.json", network_def__hidden_channels=[3])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda b: edit(b / "configs/metadata.json", version="1.2.4"),
            r"version: version 1\.2\.4 is not in the changelog, whose",
        ),
        (
            lambda b: edit(b / "configs/metadata.json", monai_version="1.5.0"),
            r"monai is 1\.5\.0 .* requirements\.txt installs 1\.6\.1",
        ),
        (
            lambda b: edit(b / "configs/metadata.json", required_packages_version__itk=">=5"),
            "the version of itk, >=5, is not an exact",
        ),
        (lambda b: edit(b / "configs/metadata.json", task=None), "'task' is a required property"),
        (of_another_training, r"model\.pt is not what models/model\.json describes"),
        (lambda b: (b / "models/model.json").unlink(), r"models/model\.json is missing beside models/model\.pt"),
        (for_another_network, r"model\.pt does not fit the network of configs/inference\.json"),
    ],
)
def test_what_is_stale_is_not_packed(bundle: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str):
    spoil(bundle)
    with pytest.raises(ValueError, match=message):
        pack(str(bundle), str(tmp_path / "dist"))
    assert not (tmp_path / "dist").exists()


def test_exports_go_along_and_give_what_the_network_gives(bundle: Path, tmp_path: Path):
    folder = Path(unpack(pack(str(bundle), str(tmp_path / "dist"), torchscript=True, onnx=True), str(tmp_path / "out")))
    network, image = load("heads", bundle_dir=tmp_path / "out", workflow_type="inference", device="cpu"), torch.rand(5, 4)
    expected = network.eval()(image).detach()
    torch.testing.assert_close(torch.jit.load(folder / "models/model.ts")(image), expected)
    session = onnxruntime.InferenceSession(folder / "models/model.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"input": image.numpy()})[0]), expected)


@pytest.mark.slow
def test_exports_are_reproducible_too(bundle: Path, tmp_path: Path):
    first, second = (Path(pack(str(bundle), str(tmp_path / x), torchscript=True, onnx=True)) for x in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_without_weights_there_is_nothing_to_export(bundle: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="there are no weights to export"):
        pack(str(bundle), str(tmp_path / "dist"), weights=False, onnx=True)


def test_torchscript_of_several_inputs_is_refused(bundle: Path, tmp_path: Path):
    edit(bundle / "configs/metadata.json", network_data_format__inputs__site=1)
    with pytest.raises(ValueError, match="network of several inputs.*give --onnx"):
        run_bundle.export(bundle, tmp_path / "model.ts")


def test_monai_downloads_reads_and_loads_the_archive(bundle: Path, tmp_path: Path):
    archive = pack(str(bundle), str(tmp_path / "dist"))
    download(name="heads", url=Path(archive).as_uri(), bundle_dir=str(tmp_path / "zoo"), progress=False)
    assert (tmp_path / "zoo/heads/custom/paths.py").read_bytes() == (ROOT / "custom/paths.py").read_bytes()
    assert load_bundle_config(str(tmp_path / "zoo/heads.zip"), "inference.json")["_meta_"]["version"] == "1.2.3"
    network = load("heads", bundle_dir=tmp_path / "zoo", workflow_type="inference", device="cpu")
    expected = torch.load(bundle / "models/model.pt", weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
