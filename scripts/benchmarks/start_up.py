"""Seconds from the command to the gradients of the first training step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from .cache import TRAIN
from .row import Row, Ways

__all__ = ["ROWS"]

SCRIPT = """
import json, sys
import torch
from monai.data import DataLoader, Dataset
from monai.networks.nets import ResNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from monai.utils import set_determinism

folder, definition = sys.argv[1], json.loads(sys.argv[2])
set_determinism(0)
network = ResNet(**definition)
optimizer = torch.optim.AdamW(network.parameters())
rows = [{**row, "image": f"{folder}/{row['image']}"} for row in json.load(open(f"{folder}/datalist.json"))["training"]]
dataset = Dataset(rows, Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))
batch = next(iter(DataLoader(dataset, batch_size=len(rows))))
loss = torch.nn.functional.cross_entropy(network(batch["image"]), batch["label"])
loss.backward()
optimizer.step()
print("first loss", loss.item())
"""
FIRST_STEP = {  # on train.json: everything that training needs is made, and the first step taken
    "first_batch": "$next(iter(@train::dataloader))",
    "first_loss": "$@loss(@network(@first_batch['image']), @first_batch['label'])",
    "loss::weight": None,
    "train::random_transforms": [],
    "run": [
        "@network",
        "@train::trainer",
        "$@first_loss.backward()",
        "$@optimizer.step()",
        "$print('first loss', @first_loss.item())",
    ],
}


def first_step(folder: Path, side: int) -> Ways:
    """The OASIS bundle's network on two volumes: by a script of its own, and by ``monai.bundle run`` with all of train.json."""
    definition = json.loads(TRAIN.read_text())
    classes = list(definition["classes"])
    rows = [{"image": f"{i}.nii", "label": i % len(classes), "subject": str(i)} for i in range(4)]
    for i in range(4):
        volume = np.random.default_rng(i).random((side,) * 3, np.float32)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{i}.nii")
    parts = {"training": rows[:2], "validation": rows[2:3], "test": rows[3:]}
    listed = {**parts, "class_names": classes, "split": {"digest": {}}}
    (folder / "datalist.json").write_text(json.dumps(listed))
    (folder / "first_step.json").write_text(json.dumps(FIRST_STEP))
    network = {k: v for k, v in definition["network_def"].items() if k != "_target_"} | {"num_classes": len(classes)}
    script = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(network)]
    configs = str([str(TRAIN), str(folder / "first_step.json")])
    paths = [f"--{key}={folder}" for key in ("dataset_dir", "ckpt_dir", "output_dir")]
    bundle = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs, "--batch_size=2", *paths]
    return Ways(lambda: _first_loss(script), lambda: _first_loss(bundle))


def _first_loss(command: list[str]) -> np.ndarray:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, text=True, capture_output=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return np.array([float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("first loss")])


ROWS = (
    Row(
        "start-up",
        "to the first step of train.json, {side}³",
        "a script of 15 lines on MONAI",
        first_step,
        {"side": 32},
        1e-5,
        turns=2,
    ),
)
