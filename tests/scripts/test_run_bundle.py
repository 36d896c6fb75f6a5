"""What only running a bundle shows: each of the planted defects is found and named."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import bundle_checks
import pytest
import run_bundle
from bundle_cases import CASES
from package_bundle import pack, unpack
from tiny_bundle import edit, write, write_tiny_bundle
from verify_bundle import verify

META, INFERENCE = "configs/metadata.json", "configs/inference.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The unpacked archive of a bundle."""
    bundle = write_tiny_bundle(tmp_path / "source" / "heads")
    return Path(unpack(pack(str(bundle), str(tmp_path / "dist")), str(tmp_path)))


# ---- in this process, with the repository's custom


def told(check: str, folder: Path) -> str:
    return "; ".join(run_bundle.CHECKS[check](folder, folder.parent))


def test_the_tiny_bundle_has_none_of_the_following_defects(folder: Path):
    assert [told(check, folder) for check in ("keys", "network", "export")] == ["", "", ""]


def test_other_channels_than_the_network_s_are_an_error(folder: Path):
    edit(folder / META, network_data_format__inputs__image__num_channels=5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        told("network", folder)
    edit(folder / META, network_data_format__inputs__image__num_channels=4, network_data_format__outputs__pred__num_channels=3)
    with pytest.raises(ValueError, match="output channel number `2` doesn't match: `3`"):
        told("network", folder)


def test_classes_in_another_order_are_named(folder: Path):
    edit(folder / INFERENCE, class_names=["tail", "head"])
    assert told("network", folder) == (
        "label_classes are ['head', 'tail'], the network of configs/inference.json has ['tail', 'head']"
    )


def test_dead_keys_are_named(folder: Path):
    edit(folder / INFERENCE, epoch=1)
    assert told("keys", folder) == "configs/inference.json: nothing reads epoch"


def test_dead_keys_of_an_overlay_are_named(folder: Path):
    write(folder / "configs/wider.json", json.dumps({"network_def::hidden_channels": [5], "epoch": 1}))
    assert told("keys", folder) == "configs/wider.json: nothing reads epoch"


def test_an_overlay_that_fits_nowhere_is_named(folder: Path):
    write(folder / "configs/wider.json", json.dumps({"network_deff::hidden_channels": [5]}))
    assert "configs/wider.json: does not fit on" in told("keys", folder)


def test_weights_of_another_network_are_an_error(folder: Path):
    edit(folder / INFERENCE, network_def__hidden_channels=[9])
    assert re.search("does not fit the network of configs/inference.json: .*size mismatch", told("export", folder), re.DOTALL)


@pytest.mark.parametrize("name", ["motor", pytest.param("abide", marks=pytest.mark.slow)])  # whose weights are a head's fit
def test_a_trial_prepares_trains_and_infers_on_the_bundle_s_phantom(name: str, tmp_path: Path):
    folder = next(case.folder for case in CASES if name in case.name)
    assert list(run_bundle.CHECKS["trial"](folder, tmp_path)) == []
    assert (tmp_path / "eval/inference/predictions.csv").is_file()
    assert not list(bundle_checks.check_weights(tmp_path)), "model.json describes model.pt"
    assert (tmp_path / "models/model.pt").is_file()


def test_what_monai_asks_for_and_does_not_find_is_named(folder: Path):
    for name in ("preprocess", "train", "inference"):
        write(folder / f"configs/{name}.json", json.dumps({"epochs": 1, "run": ["$print(@epochs)"]}))
    edit(folder / META, trial={"phantom": {"study": "oasis", "n_subjects": 1, "voxel_size": 8.0}})
    with pytest.raises(KeyError, match="Property 'bundle_root' with config ID 'bundle_root' not in the config"):
        told("trial", folder)


def test_an_inference_that_writes_nothing_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    edit(folder / META, trial={"phantom": {"study": "oasis", "n_subjects": 1, "voxel_size": 8.0}})
    beside = [tmp_path / "work/eval" / name for name in ("runs/inference.json", ".lock")]
    monkeypatch.setattr(run_bundle, "_run", lambda *_, **__: [] if [write(path) for path in beside] else None)
    assert list(run_bundle.CHECKS["trial"](folder, tmp_path / "work")) == [
        "configs/inference.json wrote nothing into its output_dir"
    ]


def test_a_trial_without_a_phantom_is_not_said_to_have_run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify_bundle.EXECUTED", ("trial",))
    edit(folder / META, trial={})
    assert "trial" not in dict(verify(str(folder)))


# ---- in processes of their own, with the archive's custom


def complaints(folder: Path) -> dict[str, str]:
    """The failed checks, each with what it says."""
    return {name: "; ".join(found) for name, found in verify(str(folder)) if found}


def test_a_component_that_is_not_vendored_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify_bundle.EXECUTED", ("code", "network"))
    (folder / "custom/networks/onnx_network.py").unlink()
    found = complaints(folder)
    assert found.keys() == {"code"}
    assert "onnx_network" in found["code"]


SHADOWED = "onnx.py"  # what run_bundle.py imports first of what is not Python's, and then finds in the bundle: without delay


def test_a_process_that_ends_itself_is_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify_bundle.EXECUTED", ("code",))
    write(folder / "custom/__init__.py", "import os\nos._exit(0)\n")
    assert complaints(folder) == {"code": "the process ended with 0 before it was done"}
    write(folder / SHADOWED, "import os\nprint('out of memory', flush=True)\nos._exit(3)\n")
    assert complaints(folder) == {"code": "the process ended with 3 before it was done: out of memory"}


def test_what_takes_too_long_is_ended_with_all_that_it_started(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify_bundle.EXECUTED", ("code",))
    monkeypatch.setattr("verify_bundle.TIMEOUT", 4)
    started = "import subprocess, time\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\ntime.sleep(60)\n"
    write(folder / SHADOWED, started)
    end, pid = complaints(folder)["code"].split(": ")
    assert end == "the process had no result within 4 s before it was done"
    deadline = time.monotonic() + 20
    while is_alive(int(pid)):  # SIGKILL is sent, and takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
