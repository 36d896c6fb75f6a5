"""The contract that every bundle meets: complete, consistent, and every workflow runs, resumes, exports and travels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from bundle_cases import CASES, ROOT, Case, Overlay, Paths, raises_beneath, run_command, run_workflow
from ignite.engine import Engine
from jsonschema import Draft7Validator
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_net_in_out
from package_bundle import pack, unpack

from custom.config import unread_keys
from custom.data import read_datalist
from custom.handlers import VerifiedExport
from custom.metrics import read_predictions
from custom.networks import OnnxNetwork

WORKFLOWS = {
    "preprocess": ["preprocess"],
    "train": ["train"],
    "evaluate": ["train", "evaluate"],
    "multi_gpu_train": ["train", "multi_gpu_train"],
    "multi_gpu_evaluate": ["train", "evaluate", "multi_gpu_evaluate"],
    "inference": ["inference"],
    "explain": ["inference", "explain"],
    "export": ["inference", "export"],
    "onnx": ["inference", "onnx"],
}


def workflows(case: Case) -> dict[str, Sequence[str]]:
    return {**WORKFLOWS, **case.workflows}


def workflow_names() -> list[str]:
    return sorted({name for case in CASES for name in workflows(case)})


def configs_of(case: Case, workflow: str) -> Sequence[str]:
    if workflow not in workflows(case):
        pytest.skip(f"{case.name} has no workflow {workflow}")
    return workflows(case)[workflow]


def not_of_generators(case: Case) -> None:
    if case.generates:
        pytest.skip(f"{case.name} infers by generating; its decoding is tested in test_haxby_bundle.py")


def only_of_first(case: Case) -> None:
    """For what is the same code in all bundles, and costs a process; ``scripts/try_package.sh`` does it with all."""
    if case is not CASES[0]:
        pytest.skip(f"tested with {CASES[0].name}")


def load(case: Case, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([case.config(name) for name in names])
    return parser


def network_of(case: Case, *names: str, key: str = "network_def") -> torch.nn.Module:
    """The network of a configuration on the grid of the test study."""
    parser = load(case, *names)
    parser.update(case.grid)
    return parser.get_parsed_content(key)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


# ---- complete and consistent


def test_files(case: Case) -> None:
    wanted = ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/metadata.json", "configs/logging.conf"]
    for name in wanted + [f"configs/{names[-1]}.json" for names in workflows(case).values()]:
        assert (case.folder / name).is_file(), name


def test_metadata(case: Case, real_data: Path) -> None:
    meta = json.loads((case.folder / "configs/metadata.json").read_text())
    schema = json.loads((real_data / "schema" / "meta_schema_20240725.json").read_text())
    assert [e.message for e in Draft7Validator(schema).iter_errors(meta)] == []
    assert meta["version"] in meta["changelog"]
    assert "research" in meta["intended_use"]
    assert "not for diagnosis" in meta["intended_use"]


def test_metadata_names_the_pinned_versions(case: Case) -> None:
    meta = json.loads((case.folder / "configs/metadata.json").read_text())
    pins = {m[0]: m[1] for m in re.findall(r"^([\w-]+)==([\d.]+)(?!.*<)", (ROOT / "requirements.txt").read_text(), re.M)}
    versions = meta["required_packages_version"] | {
        "monai": meta["monai_version"],
        "torch": meta["pytorch_version"],
        "numpy": meta["numpy_version"],
    }
    assert {name: pins.get(name) for name in versions} == versions


def test_class_names_of_metadata_are_those_of_the_network(case: Case) -> None:
    meta = json.loads((case.folder / "configs/metadata.json").read_text())
    named = [text.split(": ")[1] for text in meta["label_classes"].split(", ")]
    assert named == load(case, "inference").get_parsed_content("class_names")
    if not case.generates:
        assert list(meta["network_data_format"]["outputs"]["pred"]["channel_def"].values()) == named


def test_training_and_inference_agree(case: Case) -> None:
    for key in (case.classes, *case.network_keys):
        assert load(case, "train")[key] == load(case, "inference")[key], key


def test_preparation_and_inference_agree(case: Case) -> None:
    preprocess, inference = load(case, "preprocess"), load(case, "decode" if case.generates else "inference")
    assert preprocess["scan_transforms"] == inference["scan_transforms"]
    for key in set(re.findall(r"@(\w+)", json.dumps(preprocess["scan_transforms"]))):
        assert preprocess[key] == inference[key], key


def changes_network(case: Case, overlay: str) -> bool:
    return any(key.split("::")[0] in case.network_keys for key in load_json(case, overlay))


@pytest.mark.parametrize("workflow", workflow_names())
def test_no_dead_keys(case: Case, workflow: str) -> None:
    assert unread_keys(load(case, *configs_of(case, workflow)).get()) == []


@pytest.mark.parametrize("workflow", workflow_names())
def test_refuses_unread_keys_first_and_records_the_run(case: Case, workflow: str) -> None:
    """What a run writes into is taken before anything is written; a preparation takes its folder itself, and records itself
    last.
    """
    names = configs_of(case, workflow)
    first, second, *others = load(case, *names)["run"]
    assert first == {"_target_": "custom.config.refuse_unread_keys"}
    if workflow != "preprocess":
        assert second["_target_"] == "custom.folder_lock.FolderLock"
        assert second["folder"] == ("@ckpt_dir" if workflow in ("train", "multi_gpu_train") else "@output_dir")
        assert ("_disabled_" in second) == (workflow.split("_")[-1] in ("train", "evaluate"))
        assert "record_run" in str(others[0])
    (record,) = (item for item in others if "record_run" in str(item))
    assert Path(record["path"].split("'")[1]).stem in names


def test_tracking_finds_the_loss(case: Case) -> None:
    """MONAI's ``--tracking`` takes the first item's loss, which batches that are not taken apart do not have."""
    assert load(case, "train")["train"]["trainer"].get("decollate", True)


def test_strings_hold_no_hash(case: Case) -> None:
    """MONAI turns it into ``::`` wherever it stands."""
    for path in (case.folder / "configs").glob("*.json"):
        assert path.name == "metadata.json" or "#" not in path.read_text(), path.name


def test_every_overlay_is_tested(case: Case) -> None:
    """A config is a workflow of its own, a variant in ``case.overlays``, or one that preparation needs."""
    files = {p.stem for p in (case.folder / "configs").glob("*.json")} - {"metadata"}
    rest = files - set(chain.from_iterable(workflows(case).values())) - {o.name for o in case.overlays}
    assert rest == set(case.tested_elsewhere)


def test_readme_states_the_measured_parameter_counts(case: Case) -> None:
    readme = (case.folder / "docs/README.md").read_text()
    for overlay in ["", *(o.name for o in case.overlays if changes_network(case, o.name))]:
        network = load(case, "train", *filter(None, [overlay])).get_parsed_content("network_def")
        row = next(x for x in readme.splitlines() if x.startswith(f"| `{overlay}.json`" if overlay else "| none"))
        assert f"{sum(p.numel() for p in network.parameters()):,}" in row, row


def test_network_takes_and_gives_the_declared_shapes(case: Case) -> None:
    configs = case.config("metadata"), case.config("inference")
    verify_net_in_out("network_def", *configs, any=8, extra_forward_args=case.extra_inputs, **case.settings("network"))


# ---- train, resume, evaluate, infer, explain, export


@pytest.mark.parametrize(("kind", "config"), [("train", "train"), ("infer", "inference")])
def test_properties(case: Case, prepared: Paths, kind: str, config: str, tmp_path: Path) -> None:
    override = Paths(tmp_path).train if kind == "train" else Paths(tmp_path).inference
    override["dataset_dir"] = prepared.data if kind == "train" else prepared.raw
    workflow = ConfigWorkflow(config_file=case.config(config), workflow_type=kind, logging_file=False, **override)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()


def test_train_writes_weights_of_the_plain_network(case: Case, trained: Paths) -> None:
    network = network_of(case, "train")
    network.load_state_dict(weights(trained.models / "model.pt"))
    provenance = json.loads((trained.models / "model.json").read_text())
    assert provenance["split_digest"] == read_datalist(f"{trained.data}/datalist.json")["split"]["digest"]
    assert list(trained.eval.glob("events.out.tfevents.*"))


@pytest.mark.slow  # tests/trust kills and resumes
def test_resume_equals_uninterrupted(case: Case, trained: Paths, tmp_path: Path) -> None:
    paths = Paths(tmp_path).train | {"dataset_dir": trained.data}
    run_workflow(case, "train", epochs=1, **paths, **case.train)
    run_workflow(case, "train", epochs=3, resume=True, **paths, **case.train)
    for name in ("model.pt", "last.pt"):
        assert_equal(weights(tmp_path / "models" / name), weights(trained.models / name))


def test_weights_do_not_depend_on_the_number_of_workers(case: Case, trained: Paths, tmp_path: Path) -> None:
    paths = Paths(tmp_path).train | {"dataset_dir": trained.data}
    run_workflow(case, "train", epochs=3, num_workers=2, **paths, **case.train)
    for name in ("model.pt", "last.pt"):
        assert_equal(weights(tmp_path / "models" / name), weights(trained.models / name))


def test_validation_every_second_epoch(case: Case, prepared: Paths, tmp_path: Path) -> None:
    paths = Paths(tmp_path).train | {"dataset_dir": prepared.data}
    run_workflow(case, "train", epochs=2, val_interval=2, **paths, **case.train)
    assert weights(tmp_path / "models/last.pt")["evaluator"]["best_metric_epoch"] == 2


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key


@pytest.fixture(scope="session")
def evaluated(case: Case, trained: Paths) -> Paths:
    run_workflow(case, "train", "evaluate", **trained.train, **case.evaluate)
    return trained


def test_evaluate(case: Case, evaluated: Paths) -> None:
    metrics = json.loads((evaluated.eval / "metrics.json").read_text())
    predictions = read_predictions(evaluated.eval / "predictions.csv")
    test = read_datalist(f"{evaluated.data}/datalist.json")["test"]
    assert set(predictions["subject"]) == {row["subject"] for row in test}
    assert metrics["synthetic"]
    assert len(metrics["models"]) > 2, "the network stands alone, without baselines"
    for figures in metrics["models"].values():
        auc = figures["auc"]
        known = auc["low"] is not None  # a single test run has no interval
        assert known == (not case.generates)
        assert not known or auc["low"] <= auc["value"] <= auc["high"]
    body = (evaluated.eval / "report.html").read_text().split("<body>")[1]
    assert "synthetic" in re.sub(r"<[^>]*>", "", body).strip().splitlines()[0].lower()


def test_inference_equals_evaluation(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The raw scans of the test subjects, without labels, give the probabilities that the prepared images gave."""
    not_of_generators(case)
    evaluated: Paths = request.getfixturevalue("evaluated")
    paths = evaluated.inference | {"output_dir": str(tmp_path)}
    run_workflow(case, "inference", "explain", run=["$@evaluator.run()"], num_subjects=99, **paths, **case.inference)
    one, other = (read_predictions(p) for p in (evaluated.eval / "predictions.csv", tmp_path / "explain/predictions.csv"))
    columns = [c for c in one if c.startswith("p_")]
    one, other = (table.set_index(case.unit).sort_index()[columns] for table in (one, other))
    assert list(one.index) == list(other.index)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_inference_of_one_scan(case: Case, trained: Paths, tmp_path: Path) -> None:
    not_of_generators(case)
    rows = read_datalist(f"{trained.data}/datalist.json")["test"]
    scan = rows[0]["source"]
    paths = trained.inference | {"output_dir": str(tmp_path), "dataset_dir": scan}
    run_workflow(case, "inference", **paths, **case.inference)
    table = pd.read_csv(tmp_path / "inference/predictions.csv")
    assert len(table) == len({row[case.unit] for row in rows if row["source"] == scan})
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-6)


def test_explain(case: Case, request: pytest.FixtureRequest) -> None:
    not_of_generators(case)
    evaluated: Paths = request.getfixturevalue("evaluated")
    run_workflow(case, "inference", "explain", num_subjects=2, **evaluated.inference, **case.inference)
    maps = json.loads((evaluated.eval / "explain/maps.json").read_text())
    assert {m["subject"] for m in maps["maps"]} <= {
        r["subject"] for r in read_datalist(f"{evaluated.data}/datalist.json")["test"]
    }
    assert all((evaluated.eval / "explain" / m[kind]).is_file() for m in maps["maps"] for kind in ("png", "nifti"))
    assert maps["method"] in (evaluated.eval / "report.html").read_text()


@pytest.fixture(scope="session")
def exported(case: Case, trained: Paths) -> Path:
    """The ONNX file that export.json writes beside the weights."""
    run_workflow(case, "inference", "export", **trained.inference, **case.inference)
    return trained.models / "model.onnx"


def example(node: onnxruntime.NodeArg, batch: int) -> torch.Tensor:
    """A batch for an input of an exported network; axes with a name other than the batch's are frames."""
    shape = [batch if axis == "batch" else 24 if isinstance(axis, str) else axis for axis in node.shape]
    if node.type == "tensor(float)":
        return torch.rand(shape)
    return torch.ones(shape, dtype=torch.bool if node.type == "tensor(bool)" else torch.int64)


def test_onnx_gives_what_pytorch_gives(case: Case, trained: Paths, exported: Path) -> None:
    """For another batch size than was recorded."""
    network = network_of(case, "inference").eval()
    network.load_state_dict(weights(trained.models / "model.pt"))
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    inputs = {node.name: example(node, batch=3) for node in session.get_inputs()}
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(found, network(*inputs.values()).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_inference_from_the_exported_file(case: Case, trained: Paths, exported: Path, tmp_path: Path) -> None:
    """A folder without ``model.pt`` gives the predictions that the weights give."""
    for name in ("model.onnx", "model.json"):
        shutil.copy(exported.with_name(name), tmp_path)
    scan = read_datalist(f"{trained.data}/datalist.json")["test"][0]["source"]
    tables = []
    for folder, overlays in (trained.models, []), (tmp_path, ["onnx"]):
        paths = {"dataset_dir": scan, "ckpt_path": str(folder / "model.pt"), "output_dir": str(tmp_path)}
        run_workflow(case, case.predicts, *overlays, **paths, **case.decode)
        tables.append(pd.read_csv(tmp_path / case.predicts / "predictions.csv").filter(like="p_"))
    np.testing.assert_allclose(*tables, atol=1e-4)


def test_exported_file_of_other_weights_is_refused(case: Case, trained: Paths, exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported, tmp_path)
    known = json.loads(exported.with_suffix(".json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**known, "weights_sha256": "of a later training"}))
    handler = VerifiedExport(OnnxNetwork(str(tmp_path / "model.onnx")), str(tmp_path / "model.onnx"), known["class_names"])
    with pytest.raises(ValueError, match="weights_sha256"):
        handler(Engine(lambda engine, batch: None))


def test_monai_exports(case: Case, trained: Paths, tmp_path: Path) -> None:
    """MONAI's own verbs, for networks of which one input is enough: TorchScript and ONNX, with a dynamic batch."""
    if case.extra_inputs:
        pytest.skip("MONAI exports networks of one input")
    checkpoint, configs = str(trained.models / "model.pt"), (case.config("metadata"), case.config("inference"))
    network = network_of(case, "inference").eval()
    network.load_state_dict(weights(trained.models / "model.pt"))
    image = torch.rand(3, *case.image_shape)
    expected = network(image).detach()
    shape = [2, *case.image_shape]  # a batch of 1 would become a constant
    ckpt_export("network_def", str(tmp_path / "model.ts"), checkpoint, *configs, use_trace=True, input_shape=shape, **case.grid)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected)
    axes = {"image": {0: "batch"}, "pred": {0: "batch"}}
    converter = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": axes}
    onnx_export(
        "network_def",
        str(tmp_path / "model.onnx"),
        checkpoint,
        *configs,
        input_shape=shape,
        converter_kwargs=converter,
        **case.grid,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.fixture(scope="session")
def prepared_for(case: Case, prepared: Paths, tmp_path_factory: pytest.TempPathFactory):
    """The study prepared as an overlay needs it; overlays with the same needs share it."""
    made: dict[str, Paths] = {}

    def prepare(overlay: Overlay) -> str:
        if not overlay.preprocess and not overlay.preprocess_overlays:
            return prepared.data
        key = str((overlay.preprocess, overlay.preprocess_overlays))
        if key not in made:
            made[key] = Paths(tmp_path_factory.mktemp("overlay"))
            override = made[key].preprocess | {"raw_dir": prepared.raw} | case.preprocess | overlay.preprocess
            run_workflow(case, "preprocess", *overlay.preprocess_overlays, **override)
        return made[key].data

    return prepare


LARGE = ("densenet121", "efficientnet_b0", "resnet50")  # of the 2D networks; resnet18 stands for them


def overlay_names() -> list:
    names = sorted({o.name for c in CASES for o in c.overlays})
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


@pytest.mark.parametrize("name", overlay_names())
def test_overlay_trains(case: Case, name: str, prepared_for, tmp_path: Path) -> None:
    """Every variant trains and evaluates, and fits the inference config too."""
    overlay = next((o for o in case.overlays if o.name == name), None)
    if overlay is None:
        pytest.skip(f"{case.name} has no overlay {name}")
    paths = Paths(tmp_path).train | {"dataset_dir": prepared_for(overlay)}
    run_workflow(case, "train", name, epochs=1, **paths, **case.train)
    less = {"run": ["$@validate::evaluator.run()", "@figures", "@report"]} if case.generates else {}
    run_workflow(case, "train", name, "evaluate", **paths, **case.evaluate, **less)
    assert (tmp_path / "eval/report.html").is_file()
    if changes_network(case, name):
        network_of(case, "inference", name).load_state_dict(weights(tmp_path / "models/model.pt"))


def load_json(case: Case, name: str) -> dict:
    return json.loads(Path(case.config(name)).read_text())


# ---- as a command: processes, places, archive


def test_runs_from_the_bundles_folder(case: Case, trained: Paths, tmp_path: Path) -> None:
    only_of_first(case)
    scan = read_datalist(f"{trained.data}/datalist.json")["test"][0]["source"]
    override = trained.inference | {"dataset_dir": scan, "output_dir": str(tmp_path), **case.inference}
    run_command(["configs/inference.json"], override, cwd=case.folder)
    assert (tmp_path / "inference/predictions.csv").is_file()


def test_archive_runs_alone(case: Case, prepared: Paths, tmp_path: Path) -> None:
    """The unpacked archive trains with its own copy of ``custom`` and writes within itself."""
    only_of_first(case)
    folder = Path(unpack(pack(str(case.folder), str(tmp_path), weights=False), str(tmp_path / "elsewhere")))
    (folder / "custom/networks/__init__.py").open("a").write("\nprint('vendored copy at work')\n")
    done = run_command(["configs/train.json"], {"dataset_dir": prepared.data, "epochs": 1, **case.train}, cwd=folder)
    assert "vendored copy at work" in done.stdout
    assert (folder / "models/model.pt").is_file()


def test_misspelt_override_is_an_error_that_names_the_key(case: Case, prepared: Paths, tmp_path: Path) -> None:
    override = Paths(tmp_path).train | {"dataset_dir": prepared.data, "epoch": 1}
    with raises_beneath(ValueError, "nothing in this configuration reads 'epoch': did you mean 'epochs'\\?"):
        run_workflow(case, "train", **override)
