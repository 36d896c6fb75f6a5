"""Every bundle under attack: killed, without room, without permission, in company, out of time, on damaged checkpoints.

Nothing completed is lost, nothing half-written is taken for whole, and every refusal names a file and a remedy.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_cases import ROOT, Case, Paths, command, raises_beneath, run_workflow
from monai.bundle import ConfigWorkflow
from trust.faults import Outcome, contents, half_written, in_child, killed_in_a_write, set_times
from trust.mutations import FEWEST, check, fuzz
from trust.runs import (
    EPOCHS,
    THOROUGH,
    Payload,
    assert_trained_alike,
    broken_checkpoints,
    done,
    epoch_of,
    killed_at_random,
    preparation,
    seconds_of,
    stopped,
    training,
)

from custom.data.prepare_record import Run, prepare_record
from custom.errors import BadScan
from custom.folder_lock import FolderInUse
from custom.handlers import load_verified

YEAR = 365.25 * 86400
MOMENTS = 12  # of a killed write: half of each of six files, and right after it; a small run has no more
Record = Callable[..., None]


def affordable(rounds: int, seconds: float) -> int:
    """Return how many rounds of so many seconds are run: dear ones are run less often."""
    return max(1, min(rounds, 20, int(60 / seconds)))


def finished(outcome: Outcome) -> None:
    """A process that was killed has no error to tell of either."""
    assert outcome.succeeded, f"signal {outcome.signal}: {outcome.error}"


# ---- kill -9, and a clock that jumps between the runs


AT_RANDOM, IN_A_WRITE = "kill -9 of {} at a random moment", "kill -9 of {} in the middle of a write"


def test_killed_preparation(case: Case, prepared: Paths, tmp_path: Path, rounds: int, record: Record) -> None:
    """Between the runs the clock and the files' times jump."""
    log, reference, rng, in_write = tmp_path / "log", contents(prepared.data), random.Random(case.name), 0
    seconds = seconds_of(partial(preparation, case, prepared.raw, tmp_path / "undisturbed"), log)
    number_of_rounds = affordable(rounds, seconds)
    for number in range(number_of_rounds):
        folder = tmp_path / str(number)
        work = partial(preparation, case, prepared.raw, folder, rng.choice([-10, 0, 10]) * YEAR)
        killed_at_random(work, folder, seconds, rng, log)
        assert half_written(folder, reference) == []
        set_times(folder, rng)
        outcome = in_child(partial(killed_in_a_write, work, rng.randint(1, MOMENTS)), log)
        assert outcome.signal or outcome.succeeded, outcome.error
        in_write += outcome.signal == signal.SIGKILL
        assert half_written(folder, reference) == []
        set_times(folder, rng)
        complete = done(folder)
        finished(in_child(partial(preparation, case, prepared.raw, folder), log))
        assert contents(folder) == reference
        assert {name: done(folder)[name] for name in complete} == complete, "prepared again"
    record(AT_RANDOM.format("preprocess"), case.name, "bit-equal after rerun", number_of_rounds)
    record(IN_A_WRITE.format("preprocess"), case.name, "bit-equal after rerun", in_write)
    record("clock ±10 years, file times 1980-2060, preprocess", case.name, "bit-equal after rerun", number_of_rounds)


def test_killed_training(case: Case, trained: Paths, tmp_path: Path, rounds: int, record: Record) -> None:
    """Between the runs the clock and the files' times jump."""
    log, rng, in_write = tmp_path / "log", random.Random(case.name), 0
    seconds = seconds_of(partial(training, case, trained.data, tmp_path / "undisturbed"), log)
    number_of_rounds = affordable(rounds, 2 * seconds)
    for number in range(number_of_rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        work = partial(training, case, trained.data, folder, rng.choice([-10, 0, 10]) * YEAR)
        killed_at_random(work, folder, seconds, rng, log)
        epoch = epoch_of(folder / "models")
        set_times(folder, rng)
        outcome = in_child(partial(killed_in_a_write, partial(work, resume=True), rng.randint(1, MOMENTS)), log)
        assert outcome.signal or outcome.succeeded, outcome.error
        in_write += outcome.signal == signal.SIGKILL
        assert epoch_of(folder / "models") >= epoch, "completed epochs are lost"
        set_times(folder, rng)
        finished(in_child(partial(training, case, trained.data, folder, resume=True), log))
        assert_trained_alike(folder / "models", trained.models)
    record(AT_RANDOM.format("train"), case.name, "bit-equal after --resume", number_of_rounds)
    record(IN_A_WRITE.format("train"), case.name, "bit-equal after --resume", in_write)
    record("clock ±10 years, file times 1980-2060, train", case.name, "bit-equal after --resume", number_of_rounds)


@pytest.mark.slow
@pytest.mark.parametrize("workflow", ["preprocess", "train"])
def test_killed_command(case: Case, trained: Paths, workflow: str, tmp_path: Path, record: Record) -> None:
    """The command as it is typed, with joblib's workers, killed as a group."""
    override = {"dataset_dir": str(tmp_path / "data"), "raw_dir": trained.raw, **case.preprocess, "num_workers": 2}
    sign = tmp_path / "data/images/transforms.hash"
    if workflow == "train":
        override = Paths(tmp_path).train | {"dataset_dir": trained.data, "epochs": EPOCHS, **case.train}
        sign = tmp_path / "models/.lock"
    # the command line makes numbers of names such as '4', unless they are quoted
    quoted = {key: repr(value) if isinstance(value, str) and value.isdecimal() else value for key, value in override.items()}
    typed, again = command([case.config(workflow)], quoted), ["--resume", "True"] if workflow == "train" else []
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(typed, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        while not sign.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.01)
        time.sleep(random.Random(case.name).uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    subprocess.run([*typed, *again], cwd=ROOT, check=True, capture_output=True)
    if workflow == "train":
        assert_trained_alike(tmp_path / "models", trained.models)
    else:
        assert contents(tmp_path / "data") == contents(trained.data)
    record(f"kill -9 of the command and its workers, {workflow}", case.name, "bit-equal after rerun")


# ---- two runs into one folder


@pytest.mark.parametrize("workflow", ["preprocess", "train", "evaluate"])
def test_two_runs_into_one_folder(case: Case, trained: Paths, workflow: str, tmp_path: Path, record: Record) -> None:
    """The second is refused and touches nothing, neither the record of the first nor what TensorBoard reads."""
    folder = tmp_path / {"preprocess": "data", "train": "models", "evaluate": "eval"}[workflow]
    evaluation = trained.train | {"output_dir": str(folder)} | case.evaluate
    work = {
        "preprocess": partial(preparation, case, trained.raw, folder),
        "train": partial(training, case, trained.data, tmp_path, epochs=1),
        "evaluate": partial(run_workflow, case, "train", "evaluate", **evaluation),
    }[workflow]
    (tmp_path / "eval/runs").mkdir(parents=True)
    (tmp_path / f"eval/runs/{workflow}.json").write_text("of the first run")

    def everything() -> dict[str, bytes]:
        files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "log"]
        return {str(file.relative_to(tmp_path)): file.read_bytes() for file in files}

    with stopped(work, folder / ".lock", tmp_path / "log"):
        before = everything()
        with raises_beneath(FolderInUse, "is being written by process .*: wait until it has ended"):
            work()
        assert everything() == before
    record(f"second {workflow} into the same folder", case.name, "refused by FolderInUse, nothing touched")


# ---- checkpoints, devices


def test_the_payload_works(tmp_path: Path) -> None:
    torch.save(Payload(str(tmp_path / "executed")), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "executed").is_dir()


def test_broken_weights(case: Case, trained: Paths, tmp_path: Path, record: Record) -> None:
    """As evaluation, inference and decoding load them."""
    broken = broken_checkpoints(trained.models / "model.pt", tmp_path, random.Random(case.name))
    parser = ConfigWorkflow(config_file=case.config("train"), logging_file=False).parser
    parser.update(case.grid)
    network = parser.get_parsed_content("network_def")
    for name, file in broken.items():
        with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
            load_verified(str(file), network)
        assert "train" in str(caught.value), "no remedy"
        record(f"model.pt: {name}", case.name, "ValueError names file and remedy, nothing executed")
    assert len(broken) == 6
    assert not (tmp_path / "executed").exists()


def test_broken_state_of_training(case: Case, trained: Paths, tmp_path: Path, rounds: int, record: Record) -> None:
    """As ``--resume True`` loads it; the broken file is left for whoever wants to look at it."""
    broken = broken_checkpoints(trained.models / "last.pt", tmp_path, random.Random(case.name))
    assert len(broken) == 6
    for name in broken if rounds >= THOROUGH else ("bits flipped", "pickled code"):
        file = broken[name]
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True)
        shutil.copy(file, folder / "models/last.pt")
        with raises_beneath(ValueError, rf"{re.escape(str(folder))}/models/last\.pt .*(without --resume|does not fit)"):
            training(case, trained.data, folder, resume=True)
        assert (folder / "models/last.pt").read_bytes() == file.read_bytes()
        record(f"last.pt: {name}", case.name, "ValueError names file and remedy, nothing executed")
    assert not (tmp_path / "executed").exists()


def test_missing_gpu(case: Case, prepared: Paths, tmp_path: Path, record: Record) -> None:
    with raises_beneath(ValueError, "the device cuda:99 is asked for, .* leave --device out"):
        training(case, prepared.data, tmp_path, device="cuda:99")
    assert not (tmp_path / "models").exists()
    record("GPU asked for, none there", case.name, "ValueError names device and remedy")


# ---- damaged scans


def test_raw_scans_of_a_bundle(case: Case, prepared: Paths, tmp_path: Path, rounds: int, record: Callable[..., None]) -> None:
    """Through the transforms of ``preprocess.json``: a damaged scan is listed as rejected, or its image is finite."""
    override = prepared.preprocess | case.preprocess
    parser = ConfigWorkflow(config_file=case.config("preprocess"), logging_file=False, **override).parser
    transform, first = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("study").records[0]
    sources = [first.image, *(path for key, path in first.inputs.items() if key == "mask")]
    sources += [str(Path(s).with_suffix(".hdr")) for s in sources if s.endswith(".img")]
    files = {source: tmp_path / Path(source).name for source in sources}
    for source, file in files.items():
        file.write_bytes(Path(source).read_bytes())
    inputs = {key: str(files.get(path, path)) for key, path in first.inputs.items()}
    record_ = replace(first, image=str(files[first.image]), inputs=inputs)
    run = Run.of_this_process(tmp_path, transform, "float32")

    def read(file: Path) -> str:
        """Prepare the scan anew; what is wrong with it comes back as a text."""
        (tmp_path / "images" / f"{record_.name}.json").unlink(missing_ok=True)
        rows = prepare_record(record_, transform, run)[1]
        if isinstance(rows, str):
            raise BadScan(rows)
        for row in rows:
            assert np.isfinite(nib.load(tmp_path / row["image"]).get_fdata()).all(), "NaN travels on"
        return hashlib.sha256(b"".join((tmp_path / row["image"]).read_bytes() for row in rows)).hexdigest()

    good = read(tmp_path)
    work = partial(fuzz, list(files.values()), max(FEWEST, rounds), case.name, read, lambda e: isinstance(e, BadScan), good)
    check(work, tmp_path / "log", f"{case.name}: raw scan, mask", record)
