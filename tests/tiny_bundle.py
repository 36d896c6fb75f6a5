"""A bundle of a few lines, complete all the same: what packing and verifying are tried on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from custom.paths import file_digest

ROOT = Path(__file__).resolve().parents[1]
TENSOR = {"type": "image", "format": "vector", "spatial_shape": [], "dtype": "float32", "value_range": []}
METADATA: dict[str, Any] = {
    "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
    "version": "1.2.3",
    "changelog": {"1.2.3": "what is new", "1.2.2": "first version"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "1.26.4",
    "required_packages_version": {"pytorch-ignite": "0.5.5"},
    "task": "Head or tail",
    "description": "A bundle for tests",
    "authors": "neuro-bundles",
    "copyright": "Copyright (c) neuro-bundles",
    "label_classes": "0: head, 1: tail",
    "network_data_format": {
        "inputs": {"image": {**TENSOR, "num_channels": 4}},
        "outputs": {"pred": {**TENSOR, "format": "classes", "num_channels": 2, "channel_def": {"0": "head", "1": "tail"}}},
    },
}
RUN = [{"_target_": "custom.config.refuse_unread_keys"}]
RECORD = {"_target_": "custom.run_record.record_run", "path": "$@output_dir + '/runs/run.json'"}
INFERENCE: dict[str, Any] = {
    "bundle_root": {"_target_": "custom.paths.bundle_root", "name": "heads"},
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "output_dir": "$@bundle_root + '/eval'",
    "class_names": ["head", "tail"],
    "network_def": {
        "_target_": "FullyConnectedNet",
        "in_channels": 4,
        "out_channels": "$len(@class_names)",
        "hidden_channels": [3],
        "dropout": 0.1,
    },
    "device": "cpu",
    "evaluator": "@ckpt_path",
    "initialize": [],
    "run": [*RUN, RECORD, "@evaluator"],
}
TRAIN = {key: INFERENCE[key] for key in ("class_names", "network_def")} | {
    "epochs": 1,
    "run": [*RUN, "@epochs", "@network_def"],
}
EXPORT = {
    "onnx_path": "$@ckpt_path[:-len('pt')] + 'onnx'",
    "export": {
        "_target_": "custom.networks.export_onnx",
        "network": "@network_def",
        "ckpt_path": "@ckpt_path",
        "path": "@onnx_path",
        "inputs": {"input": {"shape": ["batch", 4], "dtype": "float32"}},
    },
    "run": [*RUN, RECORD, "@export"],
}


def write_tiny_bundle(folder: Path, weights: bool = True) -> Path:
    """Write the bundle to a folder, with weights drawn at random if wanted."""
    configs = {
        "metadata": METADATA,
        "inference": INFERENCE,
        "train": TRAIN,
        "export": EXPORT,
        "wider": {"network_def::hidden_channels": [5]},
    }
    for name, content in configs.items():
        write(folder / "configs" / f"{name}.json", json.dumps(content, indent=1))
    write(folder / "LICENSE", (ROOT / "LICENSE").read_text())
    write(folder / "docs/README.md", "# Heads\n\nor tails.\n")
    write(folder / "docs/data_license.txt", "none\n")
    if weights:
        write_weights(folder)
    return folder


def write_weights(folder: Path) -> None:
    """Draw weights for the network of ``inference.json`` and describe them."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    path = folder / "models/model.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), path)
    write(path.with_suffix(".json"), json.dumps({"weights_sha256": file_digest(path)}))


def write(path: Path, text: str = "x") -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def edit(path: Path, **changes: Any) -> None:
    """Set ids of a JSON file, ``a__b`` for ``b`` in ``a``; ``None`` removes."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(content))
