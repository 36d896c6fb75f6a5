"""The bundles under test, each with a study small enough for a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom.phantoms import abide, haxby, learning_stage, motor, oasis

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Overlay:
    """A variant on ``train.json``: what its data need beside the bundle's own test settings."""

    name: str
    preprocess_overlays: Sequence[str] = ()
    preprocess: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A bundle: how to write its phantom, and the overrides that make each workflow small."""

    name: str
    write_study: Callable[[str], Any]
    overlays: Sequence[Overlay]
    preprocess: dict[str, Any]
    train: dict[str, Any]
    inference: dict[str, Any]
    tested_elsewhere: Sequence[str] = ()  # configs whose data this phantom is not, or that are no variant
    network_keys: Sequence[str] = ("network_def",)  # what defines the network; the last is what the trainer trains
    extra_inputs: dict[str, Any] = field(default_factory=dict)  # of the network's forward, beside the image
    network: dict[str, Any] = field(default_factory=dict)  # overrides that these inputs need without weights
    grid: dict[str, Any] = field(default_factory=dict)  # of the network, where it is built for one grid
    image_shape: Sequence[int] = (1, 48, 48, 48)  # of the network's input, without batch
    unit: str = "subject"  # what a label belongs to
    evaluate: dict[str, Any] = field(default_factory=dict)  # overrides of the evaluation
    classes: str = "classes"  # key of the classes in train.json
    workflows: dict[str, Sequence[str]] = field(default_factory=dict)  # beside or in place of the usual ones
    generates: bool = False  # inference makes images, decoding has a configuration of its own
    decode: dict[str, Any] = field(default_factory=dict)  # its overrides

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


SMALL = {"spacing": 6, "spatial_size": 32}
COARSE = {"voxel_size": 12, "spacing": 12, "spatial_size": [10, 12, 6]}
SLICES = {"spatial_dims": 2, "slice_size": 64, "scan_transforms::7::num_slices": 2}
STAGE_GRID: dict[str, Any] = {"spatial_size": [10, 12, 6]}
STAGE = {"spacing": [14, 14, 14], **STAGE_GRID}
MOTOR_GRID: dict[str, Any] = {"spatial_size": [10, 12, 8]}
MOTOR = {"spacing": [18, 18, 18], **MOTOR_GRID}
HAXBY_GRID: dict[str, Any] = {
    "spatial_size": [8, 10, 4],
    "network_def::unet::channels": [8, 16],
    "network_def::unet::attention_levels": [False, True],
    "network_def::unet::norm_num_groups": 4,
    "network_def::unet::head_dim": 8,
}
HAXBY_VOXELS = {"spacing": [25.0, 22.4, 40.0]}
OPTIONS = ("masking", "mixup", "accumulate")  # of training, in both decoders
OF_TASKS = ("bf16", "explore", "kfold", "wandb")

CASES = [
    Case(
        name="oasis_mri_alzheimers_classification",
        write_study=partial(oasis.write_study, n_subjects=24, voxel_size=6.0, with_cdr_only=True, age_min=60),
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
        preprocess=SMALL,
        train={"batch_size": 4, "learning_rate": 0.001},
        inference=SMALL,
        tested_elsewhere=["kfold", "pictures", "pretrain", "four_class"],
    ),
    Case(
        name="abide_fmri_asd_classification",
        write_study=partial(abide.write_study, n_sites=3, subjects_per_site=10, shape=(10, 12, 6), n_frames=40),
        overlays=[Overlay("strided_stem"), Overlay("permuted_labels")],
        preprocess=COARSE,
        train={"batch_size": 4, "frames": 16},
        inference=COARSE,
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
        network={"network_def::sites": ["A"]},
    ),
    Case(
        name="fmri_learning_stage_classification",
        write_study=partial(learning_stage.write_study, n_subjects=5, shape=(10, 12, 6), n_frames=60),
        overlays=[Overlay(name) for name in (*OPTIONS, "permuted_labels")],
        preprocess=STAGE,
        train={"batch_size": 8, "schedule_epochs": 3, **STAGE_GRID},
        inference=STAGE,
        tested_elsewhere=[*OF_TASKS, "explain_gradients", "leave_dataset_out", "learning_curve", "task_run"],
        grid=STAGE_GRID,
        image_shape=(8, *STAGE_GRID["spatial_size"]),
        unit="scan",
    ),
    Case(
        name="fmri_motor_task_classification",
        write_study=partial(motor.write_study, n_subjects=8, n_runs=2, shape=(10, 12, 8), conditions=(3, 4, 5, 6)),
        overlays=[Overlay(name) for name in (*OPTIONS, "permuted_labels", "cnn_only", "transformer_only")],
        preprocess=MOTOR,
        train={"batch_size": 8, "schedule_epochs": 3, **MOTOR_GRID},
        inference=MOTOR,
        tested_elsewhere=[*OF_TASKS, "leave_run_out", "twelve_class"],
        grid=MOTOR_GRID,
        image_shape=(8, *MOTOR_GRID["spatial_size"]),
        unit="block",
    ),
    Case(
        name="haxby_fmri_diffusion",
        write_study=partial(haxby.write_study, n_runs=4, shape=(8, 10, 4)),
        overlays=[Overlay(name) for name in ("epsilon", "permuted_labels", "unet_only")],
        preprocess={**HAXBY_VOXELS, "spatial_size": [8, 10, 4], "held_out_run": "4", "validation_run": "3"},
        train={"batch_size": 12, "schedule_epochs": 3, "rest_stride": 40, **HAXBY_GRID},
        inference={"per_class": 1, "num_steps": 4, **HAXBY_GRID},
        tested_elsewhere=["bf16", "checkpointing", "ddim", "ddpm", "linear_probe"],
        network={
            "network_def::unet::channels": [8, 8, 8, 16],
            "network_def::unet::norm_num_groups": 4,
            "network_def::unet::head_dim": 4,
        },
        grid=HAXBY_GRID,
        image_shape=(9, 8, 10, 4),
        unit="block",
        evaluate={"per_class": 2, "num_steps": 4, "film": 2, "anomalies::copies": 1, "anomalies::n_bootstrap": 100},
        classes="class_names",
        workflows={
            "explain": ["train", "explain"],
            "generate": ["inference", "generate"],
            "decode": ["decode"],
            "onnx": ["decode", "onnx"],
            "detect_anomalies": ["decode", "detect_anomalies"],
        },
        generates=True,
        decode={**HAXBY_VOXELS, **HAXBY_GRID, "inferer::temperature": 1.0, "inferer::num_noises": 1},
    ),
]
