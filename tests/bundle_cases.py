"""The bundles under test, each with a study small enough for a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Overlay:
    """A variant on ``train.json``: what its data need beside the bundle's own test settings."""

    name: str
    preprocess_overlays: Sequence[str] = ()
    preprocess: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A bundle: its phantom and the overrides that make each workflow small are those under ``trial`` in its metadata."""

    name: str
    overlays: Sequence[Overlay]
    more: dict[str, dict[str, Any]] = field(default_factory=dict)  # overrides of tests alone, beside the trial's
    tested_elsewhere: Sequence[str] = ()  # configs whose data this phantom is not, or that are no variant
    network_keys: Sequence[str] = ("network_def",)  # what defines the network; the last is what the trainer trains
    extra_inputs: dict[str, Any] = field(default_factory=dict)  # of the network's forward, beside the image
    built_for_grid: bool = False  # the network takes images of one size
    image_shape: Sequence[int] = (1, 48, 48, 48)  # of the network's input, without batch
    unit: str = "subject"  # what a label belongs to
    classes: str = "classes"  # key of the classes in train.json
    workflows: dict[str, Sequence[str]] = field(default_factory=dict)  # beside or in place of the usual ones
    generates: bool = False  # inference makes images, decoding has a configuration of its own

    @cached_property
    def trial(self) -> dict[str, dict[str, Any]]:
        return json.loads((self.folder / "configs/metadata.json").read_text())["trial"]

    def settings(self, name: str) -> dict[str, Any]:
        """Overrides of a workflow, or of the network without weights (``network``)."""
        return self.trial.get(name, {}) | self.more.get(name, {})

    @property
    def preprocess(self) -> dict[str, Any]:
        return self.settings("preprocess")

    @property
    def train(self) -> dict[str, Any]:
        return self.settings("train")

    @property
    def evaluate(self) -> dict[str, Any]:
        return self.settings("evaluate")

    @property
    def inference(self) -> dict[str, Any]:
        return self.settings("inference")

    @property
    def decode(self) -> dict[str, Any]:
        """Of the configuration that predicts classes of raw scans."""
        if not self.generates:
            return self.inference
        return self.grid | {"spacing": self.preprocess["spacing"], "inferer::temperature": 1.0, "inferer::num_noises": 1}

    @property
    def grid(self) -> dict[str, Any]:
        """The size of a network that is built for one, and what goes with it."""
        return self.settings("export") if self.built_for_grid else {}

    def write_study(self, raw_dir: str | Path) -> Path:
        """Write the phantom of the trial."""
        phantom = dict(self.trial["phantom"])
        return import_module(f"custom.phantoms.{phantom.pop('study')}").write_study(raw_dir, **phantom)

    @property
    def folder(self) -> Path:
        return ROOT / "bundles" / self.name

    @property
    def predicts(self) -> str:
        """The configuration that predicts classes of raw scans."""
        return "decode" if self.generates else "inference"

    def config(self, name: str) -> str:
        return str(self.folder / "configs" / f"{name}.json")


@dataclass(frozen=True)
class Paths:
    """Where a test keeps a study and what is made of it, as the overrides of each workflow."""

    root: Path

    @property
    def raw(self) -> str:
        return str(self.root / "raw")

    @property
    def data(self) -> str:
        return str(self.root / "data")

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def eval(self) -> Path:
        return self.root / "eval"

    @property
    def preprocess(self) -> dict[str, str]:
        return {"raw_dir": self.raw, "dataset_dir": self.data}

    @property
    def train(self) -> dict[str, str]:
        return {"dataset_dir": self.data, "ckpt_dir": str(self.models), "output_dir": str(self.eval)}

    @property
    def inference(self) -> dict[str, str]:
        model = str(self.models / "model.pt")
        return {"dataset_dir": self.data, "ckpt_path": model, "output_dir": str(self.eval)}


def run_workflow(case: Case, *configs: str, **override: Any) -> ConfigWorkflow:
    """Run configs of a bundle in this process, as ``python -m monai.bundle run`` does in its own."""
    workflow = ConfigWorkflow(config_file=[case.config(c) for c in configs], logging_file=False, **override)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


@contextmanager
def raises_beneath(error: type[Exception], match: str) -> Iterator[None]:
    """Like ``pytest.raises``, for what MONAI wraps in a RuntimeError when a configuration's component raises it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # what it is, is told below
        yield
    causes: list[BaseException] = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert any(isinstance(c, error) and re.search(match, str(c)) for c in causes), causes


def command(configs: Sequence[str], override: dict[str, Any]) -> list[str]:
    """The command line of a run."""
    arguments = [text for key, value in override.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(list(configs)), *arguments]


def run_command(
    configs: Sequence[str], override: dict[str, Any], cwd: Path = ROOT, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run configs in a process of their own."""
    return subprocess.run(
        command(configs, override),
        cwd=cwd,
        check=check,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


SLICES = {"spatial_dims": 2, "slice_size": 64, "scan_transforms::7::num_slices": 2}
OPTIONS = ("masking", "mixup", "accumulate")  # of training, in both decoders
OF_TASKS = ("bf16", "explore", "kfold", "wandb")

CASES = [
    Case(
        name="oasis_mri_alzheimers_classification",
        overlays=[
            Overlay("resnet3d"),
            Overlay("simple_cnn3d"),
            Overlay("binary", preprocess_overlays=["binary"]),
            Overlay("permuted_labels"),
            *(
                Overlay(name, preprocess=SLICES)
                for name in ("linear_probe", "resnet18", "resnet50", "efficientnet_b0", "densenet121")
            ),
        ],
        more={"train": {"learning_rate": 0.001}},
        tested_elsewhere=["kfold", "pictures", "pretrain", "four_class"],
    ),
    Case(
        name="abide_fmri_asd_classification",
        overlays=[Overlay("strided_stem"), Overlay("permuted_labels")],
        tested_elsewhere=[
            "band_pass",
            "federated",
            "federated_site_only",
            "kfold",
            "leave_site_out",
            "only_extractor",
            "only_harmonization",
            "only_head",
        ],
        network_keys=("network_def", "extractor_def"),
        extra_inputs={"site": torch.zeros(1, dtype=torch.int64)},
    ),
    Case(
        name="fmri_learning_stage_classification",
        overlays=[Overlay(name) for name in (*OPTIONS, "permuted_labels")],
        more={"train": {"schedule_epochs": 3}},
        tested_elsewhere=[*OF_TASKS, "explain_gradients", "leave_dataset_out", "learning_curve", "task_run"],
        built_for_grid=True,
        image_shape=(8, 10, 12, 6),
        unit="scan",
    ),
    Case(
        name="fmri_motor_task_classification",
        overlays=[Overlay(name) for name in (*OPTIONS, "permuted_labels", "cnn_only", "transformer_only")],
        more={"train": {"schedule_epochs": 3}},
        tested_elsewhere=[*OF_TASKS, "leave_run_out", "twelve_class"],
        built_for_grid=True,
        image_shape=(8, 10, 12, 8),
        unit="block",
    ),
    Case(
        name="haxby_fmri_diffusion",
        overlays=[Overlay(name) for name in ("epsilon", "permuted_labels", "unet_only")],
        more={
            "train": {"schedule_epochs": 3},
            "network": {
                "network_def::unet::channels": [8, 8, 8, 16],
                "network_def::unet::norm_num_groups": 4,
                "network_def::unet::head_dim": 4,
            },
        },
        tested_elsewhere=["bf16", "checkpointing", "ddim", "ddpm", "linear_probe"],
        built_for_grid=True,
        image_shape=(9, 8, 10, 4),
        unit="block",
        classes="class_names",
        workflows={
            "explain": ["train", "explain"],
            "generate": ["inference", "generate"],
            "decode": ["decode"],
            "onnx": ["decode", "onnx"],
            "detect_anomalies": ["decode", "detect_anomalies"],
        },
        generates=True,
    ),
]
