"""What the diffusion bundle does beside the contract of all bundles: decoding, generation, anomalies, attention maps."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_cases import CASES, Case, Paths, raises_beneath, run_workflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from custom.data import read_datalist
from custom.metrics import read_predictions

CASE = next(case for case in CASES if case.name == "haxby_fmri_diffusion")
RAW = {"inferer::rejection": None, "spacing": CASE.preprocess["spacing"], **CASE.grid}


@pytest.fixture(scope="module", params=[CASE], ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("haxby"))
    CASE.write_study(paths.raw)
    run_workflow(CASE, "preprocess", **paths.preprocess, **CASE.preprocess)
    return paths


@pytest.fixture(scope="module")
def trained(prepared: Paths) -> Paths:
    """Trained for an epoch, evaluated, explained."""
    run_workflow(CASE, "train", epochs=1, **prepared.train, **CASE.train)
    run_workflow(CASE, "train", "evaluate", **prepared.train, **CASE.evaluate)
    run_workflow(CASE, "train", "explain", **prepared.train, **CASE.grid)
    return prepared


def scan_of(paths: Paths) -> str:
    return str(Path(paths.raw) / "haxby2001")


# ---- evaluation


def test_the_evaluation_has_every_part(trained: Paths) -> None:
    names = ["metrics.json", "volumes/metrics.json", "generation.json", "anomalies.json", "samples/samples.json", "report.html"]
    assert [name for name in names if not (trained.eval / name).is_file()] == []
    assert [name for name in ("probe.pt", "anomaly.pt", "decoder.json") if not (trained.models / name).is_file()] == []
    blocks, volumes = (read_predictions(trained.eval / n / "predictions.csv", "block") for n in ("", "volumes"))
    assert (len(blocks), len(volumes)) == (8, 72)
    assert set(blocks["subject"]) == {"sub-1"}
    body = (trained.eval / "report.html").read_text()
    assert all(title in body for title in ("volume", "memorisation", "Anomalies", "Attention of the diffusion network"))


def test_training_is_watched(trained: Paths) -> None:
    events = EventAccumulator(str(trained.eval), {"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train_loss", "val_loss", "val_loss_timestep_062"} <= set(tags["scalars"])


def test_the_decoder_finds_the_classes_of_the_phantom(trained: Paths) -> None:
    accuracy = json.loads((trained.eval / "volumes/metrics.json").read_text())["models"]["network"]["accuracy"]["value"]
    assert accuracy > 0.3  # chance 0.125; two runs train


def test_attention_maps_are_on_the_grid_of_the_runs(trained: Paths) -> None:
    maps = json.loads((trained.eval / "explain/maps.json").read_text())["maps"]
    run = nib.load(read_datalist(f"{trained.data}/datalist.json")["test"][0]["image"])
    assert len(maps) == 8
    for entry in maps:
        found = nib.load(trained.eval / "explain" / entry["nifti"])
        assert found.shape == run.shape[:3]
        np.testing.assert_allclose(found.affine, run.affine, atol=1e-4)
        assert -1 <= entry["randomised_weights_correlation"] <= 1


# ---- decoding of raw runs


def test_decoding_a_raw_study_equals_the_evaluation(trained: Paths, tmp_path: Path) -> None:
    paths = trained.inference | {"output_dir": str(tmp_path), "dataset_dir": scan_of(trained)}
    run_workflow(CASE, "decode", **paths, **RAW)
    found = pd.read_csv(tmp_path / "decode/predictions.csv").set_index("block")
    expected = read_predictions(trained.eval / "predictions.csv", "block").set_index("block")
    columns = [c for c in expected if c.startswith("p_")]
    assert len(found) == 32
    np.testing.assert_allclose(found.loc[expected.index, columns], expected[columns], atol=2e-4)


def test_decoding_by_the_linear_probe(trained: Paths, tmp_path: Path) -> None:
    paths = trained.inference | {"output_dir": str(tmp_path), "dataset_dir": scan_of(trained)}
    run_workflow(CASE, "decode", "linear_probe", **paths, spacing=RAW["spacing"], **CASE.grid)
    table = pd.read_csv(tmp_path / "decode/predictions.csv")
    assert len(table) == 32
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-6)


# ---- generation


def test_generated_windows_are_in_the_units_of_the_runs(trained: Paths, tmp_path: Path) -> None:
    paths = {key: value for key, value in trained.inference.items() if key != "dataset_dir"} | {"output_dir": str(tmp_path)}
    classes = ["house", "unconditional"]
    run_workflow(CASE, "inference", classes=classes, **paths, **{**CASE.inference, "per_class": 2, "num_steps": 20})
    listed = json.loads((tmp_path / "samples/samples.json").read_text())["samples"]
    assert [s["label"] for s in listed] == [1, 1, -1, -1]
    window, raw = nib.load(tmp_path / "samples/house_0000.nii.gz"), nib.load(Path(scan_of(trained)) / "subj1/bold.nii.gz")
    assert window.shape == (8, 10, 4, 9)
    assert window.header.get_zooms()[3] == 2.5
    prepared = nib.load(read_datalist(f"{trained.data}/datalist.json")["test"][0]["image"])
    np.testing.assert_allclose(window.affine, prepared.affine, atol=1e-4)
    brain = np.asarray(prepared.dataobj).any(-1)
    level = raw.get_fdata()[raw.get_fdata().mean(-1) > 100].mean()
    assert window.get_fdata()[brain].mean() == pytest.approx(level, rel=0.2)


def test_generation_beside_real_windows(trained: Paths, tmp_path: Path) -> None:
    paths = trained.inference | {"dataset_dir": trained.data, "output_dir": str(tmp_path)}
    run_workflow(CASE, "inference", "generate", **paths, **CASE.inference)
    assert "statistics" in json.loads((tmp_path / "generation.json").read_text())
    assert len(list(tmp_path.glob("generation_*.png"))) >= 4


def test_a_class_that_was_never_seen_is_refused(trained: Paths, tmp_path: Path) -> None:
    paths = {key: value for key, value in trained.inference.items() if key != "dataset_dir"} | {"output_dir": str(tmp_path)}
    with raises_beneath(ValueError, match="'dog'.*the network was trained on"):
        run_workflow(CASE, "inference", classes=["dog"], **paths, **CASE.inference)


# ---- anomalies


def test_anomalies_of_a_raw_study(trained: Paths, tmp_path: Path) -> None:
    paths = trained.inference | {"output_dir": str(tmp_path), "dataset_dir": scan_of(trained)}
    run_workflow(CASE, "decode", "detect_anomalies", **paths, spacing=RAW["spacing"], **CASE.grid)
    table = pd.read_csv(tmp_path / "anomalies/anomalies.csv")
    assert len(table) == 32
    assert table["score"].notna().all()
    assert table["flagged"].mean() < 0.5
    run = nib.load(read_datalist(f"{trained.data}/datalist.json")["test"][0]["image"])
    volume = nib.load(tmp_path / "anomalies/sub-1_run-04_anomaly.nii.gz")
    assert volume.shape == run.shape
    np.testing.assert_allclose(volume.affine, run.affine, atol=1e-4)


# ---- bad input


def test_a_window_longer_than_the_run_is_refused(prepared: Paths, tmp_path: Path) -> None:
    with raises_beneath(ValueError, match="run"):
        run_workflow(CASE, "preprocess", raw_dir=prepared.raw, dataset_dir=str(tmp_path), frames=300, **CASE.preprocess)


def test_a_run_of_constant_voxels_is_rejected_by_name(prepared: Paths, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    CASE.write_study(str(raw))
    file = raw / "haxby2001/subj1/bold.nii.gz"
    image = nib.load(file)
    array = np.asarray(image.dataobj).copy()
    array[..., 121:242] = array[..., 121:122]
    nib.save(nib.Nifti1Image(array, image.affine, image.header), file)
    run_workflow(CASE, "preprocess", raw_dir=str(raw), dataset_dir=str(tmp_path / "data"), **CASE.preprocess)
    rejected = pd.read_csv(tmp_path / "data/rejected.csv")
    assert rejected["name"].tolist() == ["sub-1_run-02"]
    assert "constant" in rejected["reason"][0] or "vary" in rejected["reason"][0]


def test_a_class_without_training_windows_is_refused(prepared: Paths, tmp_path: Path) -> None:
    content = json.loads(Path(prepared.data, "datalist.json").read_text())
    folder = Path(prepared.data)
    content["training"] = [row for row in content["training"] if row["label"] != 3]
    file = folder / "without_bottle.json"
    file.write_text(json.dumps(content))
    with raises_beneath(ValueError, match="of each of the 8 classes two"):
        run_workflow(CASE, "train", epochs=1, datalist_path=str(file), **Paths(tmp_path).train | prepared.train, **CASE.train)


def test_weights_of_the_closed_form_alone_are_anothers(trained: Paths, tmp_path: Path) -> None:
    with raises_beneath(ValueError, match="belongs to another network"):
        run_workflow(CASE, "train", "unet_only", "evaluate", **trained.train, **CASE.evaluate)


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused without a GPU only")
def test_bf16_is_for_a_gpu(prepared: Paths, tmp_path: Path) -> None:
    with raises_beneath(Exception, match="GPU"):
        run_workflow(CASE, "train", "bf16", epochs=1, **Paths(tmp_path).train | {"dataset_dir": prepared.data}, **CASE.train)


@pytest.mark.parametrize(("name", "steps", "scheduler"), [("ddpm", 1000, "DDPMScheduler"), ("ddim", 10, "DDIMScheduler")])
def test_every_sampler_of_an_overlay_generates(trained: Paths, tmp_path: Path, name: str, steps: int, scheduler: str) -> None:
    paths = {key: value for key, value in trained.inference.items() if key != "dataset_dir"} | {"output_dir": str(tmp_path)}
    run_workflow(CASE, "inference", name, classes=["face"], **paths, **{**CASE.inference, "num_steps": steps})
    assert json.loads((tmp_path / "samples/samples.json").read_text())["scheduler"] == scheduler


def test_checkpointing_trains_the_same_weights(prepared: Paths, tmp_path: Path) -> None:
    found = []
    for name in ("plain", "checkpointing"):
        paths = Paths(tmp_path / name).train | {"dataset_dir": prepared.data}
        run_workflow(CASE, "train", *([name] if name != "plain" else []), epochs=1, **paths, **CASE.train)
        found.append(torch.load(tmp_path / name / "models/model.pt", weights_only=True))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
