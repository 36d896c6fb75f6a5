"""Several processes: every bundle trains and evaluates on two, and gives what one gives where arithmetic says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from bundle_cases import ROOT, Case, Paths, command, raises_beneath, run_workflow
from ignite import distributed as idist
from monai.bundle import ConfigParser
from torch.multiprocessing import ProcessRaisedException
from two_processes import run_on_two

from custom.data import read_datalist
from custom.processes import end_all_but_first, share, together

EVALUATION = ["train", "evaluate", "multi_gpu_evaluate"]
LAST = {"_target_": "custom.processes.end_all_but_first"}
# of the evaluation: what the first process does alone and no figure depends on
DEAR = ("@report", "@site_effects", "@generation_pictures", "@anomalies", "@anomaly_pictures", "@probe")


def only_of(case: Case, part: str) -> None:
    if part not in case.name:
        pytest.skip(f"tested with {part} alone")


def items(case: Case, config: str) -> list[Any]:
    """What a configuration runs, but for the record of the run."""
    return [item for item in json.loads(Path(case.config(config)).read_text())["run"] if "record_run" not in str(item)]


@pytest.fixture(scope="module")
def study(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A phantom study, prepared in this process: two more would cost their imports."""
    paths = Paths(tmp_path_factory.mktemp(case.name))
    case.write_study(paths.raw)
    run_workflow(case, "preprocess", **paths.preprocess, **case.preprocess | {"num_workers": 1})
    return paths


@pytest.fixture(scope="module")
def trained_on_two(case: Case, study: Paths) -> Paths:
    run_on_two(case, "train", "multi_gpu_train", epochs=1, metrics_dir=study.root, **study.train, **case.train)
    return study


# ---- every bundle


def test_two_processes_train(case: Case, trained_on_two: Paths) -> None:
    """Both hold the same figures, and what is saved is the plain network's."""
    parser = ConfigParser()
    parser.read_config(case.config("train"))
    parser.update(case.grid)
    state = torch.load(trained_on_two.models / "last.pt", weights_only=True)
    parser.get_parsed_content(case.network_keys[-1]).load_state_dict(state["model"])
    first, second = (json.loads((trained_on_two.root / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert state["evaluator"]["best_metric"] in first.values()
    assert len(list(trained_on_two.eval.glob("events.out.tfevents.*"))) == 1


def test_two_processes_evaluate_as_one(case: Case, trained_on_two: Paths, tmp_path: Path) -> None:
    one, two = ({**trained_on_two.train, "output_dir": str(tmp_path / name)} for name in ("one", "two"))
    less = case.evaluate
    run_on_two(case, *EVALUATION, run=[x for x in items(case, "multi_gpu_evaluate")[1:] if x not in DEAR], **two, **less)
    run_workflow(case, "train", "evaluate", run=[x for x in items(case, "evaluate")[1:] if x not in DEAR], **one, **less)
    tables = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.csv"))
    assert Path("predictions.csv") in tables
    for name in tables:
        pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / of / name) for of in ("one", "two")), rtol=0, atol=1e-6)
    for name in sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("metrics.json")):
        found, expected = (json.loads((tmp_path / of / name).read_text()) for of in ("two", "one"))
        assert list(found) == list(expected)
        for key in expected:
            assert_close(found[key], expected[key], key)
    for name in sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npy")):
        np.testing.assert_allclose(*(np.load(tmp_path / of / name) for of in ("one", "two")), atol=1e-4, err_msg=str(name))


def assert_close(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_close(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_close(a, b, f"{where}/{i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-6), where
    else:
        assert found == expected, where


def test_several_processes_evaluate_all_that_one_evaluates(case: Case) -> None:
    """The same items; engines and samples are shared out before the others end, figures and reports come after."""
    several, one = items(case, "multi_gpu_evaluate"), items(case, "evaluate")
    place = several.index(LAST)
    shared, alone = several[:place], several[place + 1 :]
    assert sorted(map(str, shared + alone)) == sorted(map(str, one))
    assert all(item in one[:2] or item == "@samples" or item.endswith("::evaluator.run()") for item in shared)
    assert not any("evaluator" in item or item == "@samples" for item in alone)


def test_bf16_goes_with_several_processes(case: Case, study: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its handler reaches the distributed trainer, which on a CPU it refuses."""
    present = {path.stem for path in (case.folder / "configs").glob("*.json")}
    if "bf16" not in present:
        pytest.skip(f"{case.name} has no bf16.json")
    override = Paths(tmp_path).train | {"dataset_dir": study.data} | case.train
    monkeypatch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with raises_beneath(ValueError, "training in bfloat16 on 'cpu' is refused"):
            run_workflow(case, "train", "multi_gpu_train", *sorted(present & {"accumulate"}), "bf16", **override)
    finally:
        dist.destroy_process_group()
        idist.sync()


# ---- training: the same step from the same batch


@pytest.mark.parametrize("overlays", [[], ["accumulate"]], ids=["plain", "accumulated"])
def test_two_processes_train_as_one(case: Case, overlays: list[str], study: Paths, tmp_path: Path) -> None:
    """The same global batches in the same order, without draws: 2 × 4 windows against 8; of 5 to validate one is given twice.

    The learning stages' network has no batch norm, their loss no class weights: shares of a batch add up to the batch.
    """
    only_of(case, "learning_stage")
    common = case.train | {"epochs": 2, "max_shift": 0, "noise": 0.0, "network_def::dropout_rate": 0.0}
    common |= {"accumulation_steps": 2} if overlays else {}
    common |= {"train::dataset::data": "$@datalist['training'][::3][:32]"}
    common |= {"validate::dataset::data": "$@datalist['validation'][::8]"}
    in_order = {"_target_": "DistributedSampler", "dataset": "@train::dataset", "shuffle": False}
    paths = {of: Paths(tmp_path / of).train | {"dataset_dir": study.data} for of in ("one", "two")}
    run_on_two(
        case,
        *["train", "multi_gpu_train", *overlays],
        metrics_dir=tmp_path,
        **common | paths["two"] | {"batch_size": 4, "train::sampler": in_order, "validate::sampler::even_divisible": True},
    )
    workflow = run_workflow(
        case,
        *["train", *overlays],
        **common | paths["one"] | {"train::sampler": "$torch.utils.data.SequentialSampler(@train::dataset)"},
    )
    expected = workflow.parser.get_parsed_content("validate::evaluator").state.metrics
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected, abs=1e-5)
    found = {of: torch.load(tmp_path / of / "models/last.pt", weights_only=True)["model"] for of in ("one", "two")}
    for key, value in found["one"].items():
        torch.testing.assert_close(found["two"][key], value, atol=1e-5, rtol=0, msg=key)


# ---- as a command, and what goes wrong


def torchrun(configs: list[str], override: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = launch + command(configs, override)[1:]
    return subprocess.run(run, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_command_of_the_readme(case: Case, trained_on_two: Paths, tmp_path: Path) -> None:
    only_of(case, "oasis")
    done = torchrun([case.config(name) for name in EVALUATION], trained_on_two.train | {"output_dir": str(tmp_path)})
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("Predictions of") == 1, "the other process is silent"
    assert (tmp_path / "report.html").is_file()


def test_all_but_the_first_process_end(case: Case, trained_on_two: Paths, tmp_path: Path) -> None:
    only_of(case, "oasis")
    after = "$open(@output_dir + '/of_process_' + str(@rank), 'w').close()"
    run_on_two(case, *EVALUATION, run=[LAST, after], **trained_on_two.train | {"output_dir": str(tmp_path)})
    assert [path.name for path in tmp_path.glob("of_process_*")] == ["of_process_0"]


def with_a_broken_scan(study: Paths, folder: Path) -> dict[str, str]:
    """Overrides by which the second test scan, that of the second process, is no image."""
    datalist = read_datalist(f"{study.data}/datalist.json")
    broken = folder / "broken.nii"
    broken.write_bytes(b"no image")
    datalist["test"][1]["image"] = str(broken)
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return study.train | {"datalist_path": str(folder / "datalist.json"), "output_dir": str(folder / "eval")}


def test_an_error_of_one_process_ends_the_other(case: Case, trained_on_two: Paths, tmp_path: Path) -> None:
    only_of(case, "oasis")
    started = time.monotonic()
    with pytest.raises(ProcessRaisedException, match="broken.nii"):
        run_on_two(case, *EVALUATION, **with_a_broken_scan(trained_on_two, tmp_path))
    assert time.monotonic() - started < 120, "it waited for a collective operation to give up"
    assert not (tmp_path / "eval/predictions.csv").exists()


@pytest.mark.slow
def test_torchrun_ends_the_other_too(case: Case, trained_on_two: Paths, tmp_path: Path) -> None:
    only_of(case, "oasis")
    started = time.monotonic()
    done = torchrun([case.config(name) for name in EVALUATION], with_a_broken_scan(trained_on_two, tmp_path))
    assert done.returncode != 0
    assert "broken.nii" in done.stdout
    assert time.monotonic() - started < 120


# ---- the pieces


def test_shares_come_together_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 1, 2, 7):
        parts = []
        for rank in range(3):
            monkeypatch.setattr(idist, "get_world_size", lambda: 3)
            monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
            parts.append(share(range(number)))
        monkeypatch.setattr(idist, "all_gather", lambda mine, parts=parts: parts)
        assert together(parts[0]) == list(range(number))


def test_one_process_does_all_and_goes_on() -> None:
    assert share("abc") == ["a", "b", "c"]
    assert together(["a", None]) == ["a", None]
    end_all_but_first()
    assert idist.get_world_size() == 1
