"""The diffusion bundle decodes what subject 1 of Haxby et al. (Science 2001) saw, in runs that it does not know; one slice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_cases import Paths, run_workflow
from haxby_decoding import CASE, CHANCE, TINY, Datalist, accuracies, fitted, folds, prepare

from custom.data import frame_datalist, read_datalist
from custom.data.splits import PARTS
from custom.metrics import permute_labels
from custom.transforms.window_rows import read_windows

GRID = {"spatial_size": [40, 20, 1], "spacing": [3.1, 3.75, 3.75]}
SEEDS = range(8)


@pytest.fixture(scope="module")
def paths(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The eight runs, prepared; run 8 tests."""
    paths, study = Paths(tmp_path_factory.mktemp("haxby")), real_data / "haxby"
    prepare(paths, **GRID, raw_dir=str(study), image="bold_1slice.nii.gz", mask=str(study / "mask_1slice.nii.gz"))
    return paths


@pytest.fixture(scope="module")
def runs(paths: Paths) -> list[Datalist]:
    """A datalist per run that is left out."""
    found = folds(paths)
    assert [{row["run"] for row in fold["test"]} for fold in found] == [{str(run)} for run in range(1, 9)]
    return found


# ---- decoding without training


def test_before_training_the_network_is_its_closed_form(runs: list[Datalist]) -> None:
    network, _ = fitted(runs[0], GRID["spatial_size"])
    x, inputs = read_windows(runs[0]["test"][:2]), (torch.tensor([100, 700]), torch.tensor([3, -1]))
    with torch.no_grad():
        torch.testing.assert_close(network(x, *inputs), network.gaussian(x, *inputs), rtol=0, atol=0)


def test_blocks_and_volumes_of_a_run_left_out(runs: list[Datalist]) -> None:
    found = np.array([accuracies(fold, GRID["spatial_size"], frame_datalist(fold)) for fold in runs])
    blocks, volumes = found.mean(0)
    assert blocks >= 0.8  # chance is 0.125
    assert volumes >= 0.55  # a linear SVM that learns from the same six runs: 0.60


def test_permuted_labels_are_decoded_at_chance(runs: list[Datalist]) -> None:
    """Permuted among the blocks of every run: what is decoded above chance then, is so because the parts share something."""
    permuted = [[permute_labels(fold, seed, unit="block", within="scan") for fold in runs] for seed in SEEDS]
    found = [np.mean([accuracies(fold, GRID["spatial_size"])[0] for fold in lists]) for lists in permuted]
    assert np.mean(found) == pytest.approx(CHANCE, abs=0.05)  # of 512 blocks: a standard error of 0.015


# ---- the whole way


def test_trained_network_decodes_by_the_bundles_own_evaluation(paths: Paths, tmp_path: Path) -> None:
    places = {**Paths(tmp_path).train, "dataset_dir": paths.data}
    network = {"spatial_size": GRID["spatial_size"], **TINY}
    run_workflow(CASE, "train", epochs=1, val_interval=1, **places, **network)
    decoding = ["$@validate::evaluator.run()", "@figures"]  # neither volumes nor samples nor anomalies
    run_workflow(CASE, "train", "evaluate", run=decoding, **places, **network)
    models = json.loads((tmp_path / "eval" / "metrics.json").read_text())["models"]
    assert models["network"]["accuracy"]["value"] >= 0.5  # four of eight blocks; chance is one


# ---- runs, not volumes, are kept apart


def targets(node: Any) -> set[str]:
    """Every ``_target_`` of a configuration."""
    if isinstance(node, dict):
        return {node.get("_target_", "")}.union(*(targets(value) for value in node.values()))
    return set().union(*(targets(value) for value in node)) if isinstance(node, list) else set()


def test_runs_are_the_only_split_on_offer() -> None:
    used = set().union(*(targets(json.loads(file.read_text())) for file in (CASE.folder / "configs").glob("*.json")))
    splits = {f"custom.data.{name}" for name in ("HoldOut", "KFold", "LeaveOneGroupOut", "LeaveOneRunOut")}
    assert used & splits == {"custom.data.LeaveOneRunOut"}


def test_volumes_of_a_run_in_two_parts_are_refused(runs: list[Datalist], tmp_path: Path) -> None:
    content = frame_datalist(runs[0])
    rng = np.random.default_rng(0)
    rows = [row for part in PARTS for row in content[part]]
    for part, indices in zip(PARTS, np.split(rng.permutation(len(rows)), [400, 480]), strict=True):
        content[part] = [rows[i] for i in indices]
    file = tmp_path / "random.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"scan sub-1_run-0\d is in training and in (validation|test)"):
        read_datalist(file)
