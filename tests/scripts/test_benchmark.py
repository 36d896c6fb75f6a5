"""The table of ratios: both ways of every row agree on a tiny size, one that does not is an error, and the machine is named."""

from __future__ import annotations

import io
import os
import platform
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import benchmark
import numpy as np
import pytest
import torch
from benchmarks import ROWS, Row, costs, row, start_up, step
from benchmarks.diffusion import denoiser, unet
from benchmarks.row import Ways, difference
from torch import nn

GRID = (6, 5, 1)
WIDTH = {"channels": (8, 16), "attention_levels": (False, True), "num_heads": 2, "head_dim": 4, "norm_num_groups": 4}
TINY: dict[str, dict[str, Any]] = {  # sizes in place of the row's, by the name of its function
    "whole_scan": {"shape": (6, 5, 4, 3)},
    "window": {"shape": (6, 5, 4, 3), "frames": 2},
    "inpaint": {"shape": (4, 14, 14, 14)},
    "zscore": {"shape": (8, 4, 4, 3)},
    "windows": {"shape": (8, 5, 4, 3), "frames": 3, "count": 2},
    "volumes": {"side": 12, "count": 2},
    "slice_cnn_lstm": {"shape": (1, 2, 12, 12, 2)},
    "attention": {"tokens": 6, "dim": 8, "batch": 2},
    "checkpointing": {"batch": 1, "grid": GRID, "width": WIDTH},
    "draw": {"grid": GRID, "steps": 10, "all_steps": 100, "count": 4, "width": WIDTH},
    "decode": {"grid": GRID, "brain": 22, "count": 8, "noises": 2, "width": WIDTH},
    "closed_form": {"grid": GRID, "brain": 22, "batch": 3},
    "apply": {"subjects": 60, "features": 8, "sites": 2},
    "first_step": {"side": 16},
}
STAGES = ["load", "inpaint", "z-score", "cache", "step", "sample", "ComBat", "start-up"]


@pytest.fixture(autouse=True)
def one_call_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "TURN", 0)


def tiny(big: Row) -> Row:
    return Row(big.stage, big.name, big.plain_is, big.ways, {**big.size, **TINY[big.ways.__name__]}, big.tolerance)


def row_of(plain: Any, ours: Any, **changes: Any) -> Row:
    values = {"stage": "stage", "name": "{shape} voxels", "plain_is": "plainly", "size": {"shape": (2, 3)}, "tolerance": 0.1}
    return Row(ways=lambda folder, shape: Ways(lambda: plain, lambda: ours), **(values | changes))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no process, which takes eight seconds: a command's code or module runs here."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["", *command[3:]])
        with redirect_stdout(io.StringIO()) as out:
            if command[1] == "-c":
                exec(command[2], {})
            else:
                runpy.run_module(command[2], run_name="__main__")
        return subprocess.CompletedProcess(command, 0, out.getvalue())

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("big", ROWS, ids=lambda r: f"{r.stage}: {r.what}, {r.plain_way}")
def test_both_ways_agree(big: Row, tmp_path: Path) -> None:
    result = tiny(big).measure(tmp_path, repeats=1)
    assert result.difference <= big.tolerance
    assert result.ratio > 0
    assert "{" not in big.what + big.plain_way


def test_every_stage_has_a_row_and_rows_stand_by_stage() -> None:
    assert list(dict.fromkeys(r.stage for r in ROWS)) == STAGES
    assert [r.stage for r in ROWS] == sorted((r.stage for r in ROWS), key=STAGES.index)


@pytest.mark.parametrize("ours", [np.array([1.0, 2.5]), np.array([1.0, np.nan]), np.array([1.0])])
def test_ways_that_disagree_are_an_error(ours: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage, 2×3 voxels: the two ways differ by"):
        row_of(np.array([1.0, 2.0]), ours).measure(tmp_path, 1)


def test_difference_is_that_of_the_worst_part_relative_to_its_largest_value() -> None:
    truth = [torch.tensor([3.0, -4.0]), torch.tensor([1.0, 0.0]), torch.zeros(2)]
    found = [torch.tensor([3.0, -4.2]), torch.tensor([1.0, 0.2]), torch.tensor([1e-9, 0.0])]  # the last is rounding
    assert difference(truth, found) == pytest.approx(0.2)
    assert difference(truth, truth) == 0
    assert difference(truth, truth[:2]) == float("inf")
    assert np.isnan(difference(truth[0], torch.tensor([3.0, float("nan")])))


def test_what_is_short_is_called_often_and_what_is_long_takes_few_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(row, "TURN", 0.01)
    result = row_of(1.0, 1.0, turns=2).measure(tmp_path, 5)
    assert len(result.ratios) == 2
    assert result.plain < 0.005


def test_table_names_the_machine_and_says_when_it_is_busy(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "ROWS", (row_of(1.0, 1.0), row_of(2.0, 2.0, stage="other")))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    benchmark.benchmark(only="stage", repeats=1)
    first, *lines = capsys.readouterr().out.splitlines()
    assert f"{platform.machine()}, {os.cpu_count()} cores" in first
    assert torch.__version__ in first
    assert "LOAD" not in first
    rows = [[cell.strip() for cell in line.split("|")][1:4] for line in lines if line.startswith("| stage")]
    assert rows == [["stage", "what", "plain way"], ["stage", "2×3 voxels", "plainly"]]
    monkeypatch.setattr(os, "getloadavg", lambda: (7.0, 7.0, 7.0))
    assert "UNDER LOAD: 7.0 processes" in benchmark.machine()


def test_a_filter_without_a_row_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="--only nothing: .*load, inpaint, z-score, cache, step, sample, ComBat, start-up, cost"
    ):
        benchmark.benchmark(only="nothing")


class _Kept(nn.Module):
    """Keeps x twice, in one storage, the weight that it is multiplied by, and the sum that is squared."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight + x.view(2, 5).view(10) * self.weight).square()


def test_saved_bytes_count_storages_once_and_weights_never() -> None:
    network, x = _Kept(), torch.rand(10, requires_grad=True)
    assert step.saved_bytes(network, lambda: network(x)) == 2 * 10 * 4  # x and the sum


def test_checkpointing_keeps_less(tmp_path: Path) -> None:
    plain, ours = step.checkpointing(tmp_path, 1, GRID, WIDTH).kept or (0, 0)
    assert 0 < ours < 0.6 * plain


def test_every_weight_of_a_step_has_a_gradient() -> None:
    network = unet(GRID, WIDTH)
    found = step.gradients(network, lambda: network(torch.randn(2, 9, *GRID)).square().mean())
    assert len(found) == len(list(network.parameters()))
    assert all(bool(g.any()) for g in found)


def test_the_closed_form_is_fitted() -> None:
    gaussian = denoiser(GRID, WIDTH, brain=22).gaussian
    assert int(gaussian.mask.sum()) == 22
    assert gaussian.class_maps[:-1, :22].std(0).max() > 0.02


def test_costs_are_within_their_bounds() -> None:
    counted = {name: (gflop, parameters) for name, gflop, parameters, _ in costs()}
    assert counted["CNNTransformer hybrid"] < (250, 2)
    assert counted["CNNTransformer hybrid"][1] < 2
    assert counted["SliceViT"][0] < 93


@pytest.mark.slow
def test_a_training_in_a_process_of_its_own_does_not_wait_for_what_only_pictures_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = "$print('first loss', float('nilearn.plotting' in __import__('sys').modules))"
    monkeypatch.setitem(start_up.FIRST_STEP, "run", [*start_up.FIRST_STEP["run"], modules])
    assert start_up.first_step(tmp_path, 16).ours()[1] == 0.0


def test_a_start_that_fails_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_up, "SCRIPT", "raise SystemExit('no such network')")
    with pytest.raises(RuntimeError, match="ended with 1: no such network"):
        start_up.first_step(tmp_path, 16).plain()
