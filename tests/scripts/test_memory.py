"""The peak of a child process, and that each task of the diffusion bundle runs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import memory
import pytest

TINY = {
    "batch_size": 1,
    "frames": 2,
    "spatial_size": [4, 4, 1],
    "network_def::unet::channels": [8, 16],
    "network_def::unet::attention_levels": [False, True],
    "network_def::unet::head_dim": 4,
    "network_def::unet::norm_num_groups": 4,
}


def test_peak_is_what_the_largest_process_holds() -> None:
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + 200
    assert memory._peak([sys.executable, "-c", f"b'x' * ({held} * 2**20)"]) == pytest.approx(held + 10, abs=20)


def test_peak_of_a_process_that_failed_is_none() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        memory._peak([sys.executable, "-c", "raise SystemExit(3)"])


def test_tasks_of_the_diffusion_bundle_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(memory.BUNDLES.parent)
    for task in ("fit", "generation", "training step"):
        monkeypatch.setattr(sys, "argv", ["-c", str(memory.HAXBY / "train.json"), task, json.dumps(TINY)])
        exec(memory.HAXBY_TASK, {})
