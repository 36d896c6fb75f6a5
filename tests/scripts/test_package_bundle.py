from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from verify_bundle import verify

from custom.harmonization import SiteAffine
from custom.networks.weights_digest import weights_digest
from custom.paths import file_digest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that has been worked with."""
    root = write_tiny_bundle(tmp_path / "heads")
    left = (
        *("models/last.pt", "models/features.csv", "models/participants.tsv", "models/.12-model.pt", "models/fold1/last.pt"),
        *("models/model.ts", "models/model.onnx", "models/runs/events.out.tfevents"),  # of an earlier training, perhaps
        *("eval/metrics.json", "eval2/predictions.csv", "data/images/a.nii", "raw/a.img", "out/scans/sub-01.nii.gz"),
        *("mlruns/0/meta.yaml", "train.log", "configs/__pycache__/a.pyc", "docs/.ipynb_checkpoints/a.ipynb"),
        *("custom/of_another_version.py", "requirements.txt", "README.md", "large_files.yml"),  # of an archive, unpacked
    )
    for name in left:
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


def test_large_files_of_one_name_stand_beside_each_other(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package_bundle, "LARGE", 500_000)
    torch.save({"filler": torch.zeros(200_000)}, write(bundle / "models/fold1/filler.pt"))
    torch.save({"filler": torch.ones(200_000)}, write(bundle / "models/fold2/filler.pt"))
    archive = pack(str(bundle), str(tmp_path / "dist"), url="https://example.org")
    beside = [tmp_path / f"dist/heads_v1.2.3_fold{i}--filler.pt" for i in (1, 2)]
    assert [torch.load(path)["filler"][0] for path in beside] == [0, 1]
    assert [found for found in verify(archive, execute=False) if found[1]] == []


def of_another_training(bundle: Path) -> None:
    edit(bundle / "models/model.json", weights_sha256="0" * 64)


def for_another_network(bundle: Path) -> None:
    edit(bundle / "configs/inference.json", network_def__hidden_channels=[7])
    write_weights(bundle)
    edit(bundle / "configs/inference.json", network_def__hidden_channels=[3])


def damaged(bundle: Path) -> None:
    content = (bundle / "models/model.pt").read_bytes()
    (bundle / "models/model.pt").write_bytes(content[:-200])
    edit(bundle / "models/model.json", weights_sha256=file_digest(bundle / "models/model.pt"))


def classes_turned_round(bundle: Path) -> None:
    edit(bundle / "models/model.json", class_names=["head", "tail"])
    edit(bundle / "configs/inference.json", class_names=["tail", "head"])


def probe_of_another_network(bundle: Path) -> None:
    torch.save({"weight": torch.zeros(1), "weights": "0" * 64}, bundle / "models/probe.pt")


def harmonizer_of_another_extractor(bundle: Path) -> None:
    harmonizer = SiteAffine(3, ("A",))
    harmonizer.feature_digest = "0" * 64
    torch.save(harmonizer.state_dict(), bundle / "models/harmonizer.pt")


def linked(bundle: Path) -> None:
    (bundle / "docs").rename(bundle.parent / "elsewhere")
    (bundle / "docs").symlink_to(bundle.parent / "elsewhere")


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
        (lambda b: edit(b / "configs/metadata.json", version=["1"]), r"metadata: .*version: \['1'\] is not of type 'string'"),
        (lambda b: edit(b / "configs/metadata.json", network_data_format=[]), "metadata: .*network_data_format: "),
        (
            lambda b: edit(b / "configs/metadata.json", version="../../evil", changelog={"../../evil": ""}),
            r"version: version \.\./\.\./evil is not three numbers",
        ),
        (of_another_training, r"model\.pt is not what models/model\.json describes"),
        (lambda b: (b / "models/model.json").unlink(), r"models/model\.json is missing beside models/model\.pt"),
        (
            lambda b: (b / "models/model.pt").unlink(),
            r"no weights: .*heads/models/model\.pt is to be there, or --weights to be F",
        ),
        (linked, "heads/docs is a link to a folder, whose files would be left out"),
        (for_another_network, r"model\.pt does not fit the network of configs/inference\.json"),
        (damaged, r"heads/models/model\.pt is damaged"),
        (lambda b: edit(b / "models/model.json", class_names=["tail", "head"]), r"was trained for \['tail', 'head'\], as"),
        (classes_turned_round, r"was trained for \['head', 'tail'\], .*inference\.json names \['tail', 'head'\]"),
        (lambda b: edit(b / "models/model.json", permuted=7), "was trained with permuted labels"),
        (probe_of_another_network, r"models/probe\.pt was fitted to other weights than models/model\.pt"),
        (harmonizer_of_another_extractor, r"models/harmonizer\.pt was fitted to other weights"),
    ],
)
def test_what_is_stale_is_not_packed(bundle: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str):
    spoil(bundle)
    with pytest.raises(ValueError, match=message):
        pack(str(bundle), str(tmp_path / "dist"))
    assert not (tmp_path / "dist").exists()


def test_what_fits_the_weights_goes_along(bundle: Path, tmp_path: Path):
    network = run_bundle.parsed(bundle, "inference").get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models/model.pt"))
    torch.save({"weight": torch.zeros(1), "weights": weights_digest(network)}, bundle / "models/probe.pt")
    edit(bundle / "models/model.json", class_names=["head", "tail"])
    torch.save({"_extra_state": torch.tensor([1, 1, 1, 8])}, bundle / "models/extractor.pt")  # strides, as of SliceCNNLSTM
    assert {"models/probe.pt", "models/extractor.pt"} <= names(pack(str(bundle), str(tmp_path / "dist")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"onnx": "true"}, "--onnx is to be True or False, not 'true'"),
        ({"torchscript": 1}, "--torchscript is to be True or False, not 1"),
        ({"weights": "no"}, "--weights is to be True or False, not 'no'"),
        ({"weights": False, "onnx": True}, "there are no weights to export"),
    ],
)
def test_options_that_are_not_understood_are_named(bundle: Path, tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pack(str(bundle), str(tmp_path / "dist"), **options)
    assert not (tmp_path / "dist").exists()


def test_a_damaged_list_of_archives_is_named_before_anything_is_written(bundle: Path, tmp_path: Path):
    write(tmp_path / "dist/model_info.json", "{")
    with pytest.raises(ValueError, match=r"model_info\.json is damaged"):
        pack(str(bundle), str(tmp_path / "dist"), weights=False)
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["model_info.json"]


# ---- exported networks


GRID, FRAMES = [8, 8, 8], 2


def with_a_network_of_custom(folder: Path) -> Path:
    """Its classes' source is what exports like to remember the place of."""
    write_tiny_bundle(folder, weights=False)
    network = {
        "_target_": "custom.networks.CNNTransformer",
        "num_classes": "$len(@class_names)",
        "spatial_size": GRID,
        "frames": FRAMES,
        "dim": 8,
    }
    edit(folder / "configs/inference.json", network_def=network)
    image = {"num_channels": FRAMES, "spatial_shape": GRID}
    edit(folder / "configs/metadata.json", **{f"network_data_format__inputs__image__{k}": v for k, v in image.items()})
    edit(folder / "configs/export.json", export__inputs={"image": {"shape": ["batch", FRAMES, *GRID], "dtype": "float32"}})
    torch.manual_seed(0)
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Archives of one bundle, packed from two folders, with both exports."""
    first = with_a_network_of_custom(tmp_path_factory.mktemp("here") / "heads")
    second = shutil.copytree(first, tmp_path_factory.mktemp("and-there") / "deeper" / "heads")
    return [Path(pack(str(b), str(b.parent / "dist"), torchscript=True, onnx=True)) for b in (first, second)]


def test_exports_go_along_and_give_what_the_network_gives(exported: list[Path], tmp_path: Path):
    folder = Path(unpack(str(exported[0]), str(tmp_path)))
    network, image = load("heads", bundle_dir=tmp_path, workflow_type="inference", device="cpu"), torch.rand(5, FRAMES, *GRID)
    expected = network.eval()(image).detach()
    torch.testing.assert_close(torch.jit.load(folder / "models/model.ts")(image), expected)
    session = onnxruntime.InferenceSession(folder / "models/model.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), expected)


def test_an_archive_with_exports_has_nothing_to_complain_of(exported: list[Path]):
    assert [found for found in verify(str(exported[0]), execute=False) if found[1]] == []


def test_exports_are_the_same_from_every_folder_and_name_no_place(exported: list[Path]):
    first, second = exported
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as z, z.open("heads/models/model.ts") as inner, zipfile.ZipFile(inner) as ts:
        texts = [z.read("heads/models/model.onnx"), *(ts.read(name) for name in ts.namelist())]
    for place in (b"/tmp", str(ROOT).encode(), sys.prefix.encode(), torch.__path__[0].encode(), b"site-packages"):
        assert not [text for text in texts if place in text], place


@pytest.mark.parametrize("name", ["model.ts", "model.onnx"])
def test_an_export_of_an_earlier_training_is_named(exported: list[Path], tmp_path: Path, name: str):
    folder = Path(unpack(str(exported[0]), str(tmp_path)))
    assert list(run_bundle.CHECKS["export"](folder, tmp_path)) == []
    for other in {"model.ts", "model.onnx"} - {name}:
        (folder / "models" / other).unlink()
    write_weights(folder)
    assert list(run_bundle.CHECKS["export"](folder, tmp_path)) == [
        f"models/{name} holds other weights than model.pt: export it again, or remove it"
    ]
    assert not (folder / "eval").exists(), "to verify a bundle writes no record into it"


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
