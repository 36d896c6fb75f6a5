"""The workflows that are attacked, what an attack is checked by, and broken checkpoints."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bundle_cases import Case, Paths, run_workflow
from trust.faults import LIMIT, Child, chain, clock_shifted, contents, in_child, mount_disc, temporaries

EPOCHS = 3
THOROUGH = 12  # rounds from which on the dear faults are injected too


def preparation(case: Case, raw: str, data: Path, shift: float = 0, **more: Any) -> None:
    with clock_shifted(shift):
        run_workflow(case, "preprocess", raw_dir=raw, dataset_dir=str(data), **{**case.preprocess, "num_workers": 1, **more})


def training(case: Case, data: str, folder: Path, shift: float = 0, **more: Any) -> None:
    with clock_shifted(shift):
        override = Paths(folder).train | {"dataset_dir": data, "epochs": EPOCHS, **case.train}
        run_workflow(case, "train", **{**override, **more})


def state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same(found: Any, expected: Any, at: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), at
        for key in expected:
            assert_same(found[key], expected[key], f"{at}/{key}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), at
    elif isinstance(expected, list):
        assert len(found) == len(expected), at
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{at}/{i}")
    else:
        assert found == expected, at


def assert_trained_alike(models: Path, reference: Path) -> None:
    """Weights, optimizer and everything else bit for bit; the archives around the tensors bear the name of a process.

    The reference may hold more, which other tests made of it: exported networks, fitted decoders.
    """
    assert temporaries(models) == []
    written = set(contents(models))
    assert {"model.pt", "model.json", "last.pt"} <= written <= set(contents(reference))
    for file in models.glob("*.pt"):
        assert_same(state(file), state(reference / file.name), file.name)
    for file in models.glob("*.json"):
        one, other = (json.loads((folder / file.name).read_text()) for folder in (models, reference))
        assert {**one, "weights_sha256": ""} == {**other, "weights_sha256": ""}


def done(data: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of whatever belongs to a record that says it is complete."""
    names = []
    for file in (data / "images").glob("[!.]*.json"):
        content = json.loads(file.read_text())
        names += [f"images/{file.name}", *(row["image"] for row in content["images"]), *content.get("scales", [])]
    return {name: ((data / name).stat().st_ino, (data / name).stat().st_mtime_ns) for name in names}


# ---- kills


def killed_at_random(work: Callable[[], Any], folder: Path, seconds: float, rng: random.Random, log: Path) -> None:
    """Kill a run into a fresh folder at a random moment; one that ended before that is no kill, and is repeated."""
    for _ in range(10):
        outcome = in_child(work, log, kill_after=rng.uniform(0.05, 1) * seconds)
        if outcome.signal == signal.SIGKILL:
            return
        assert outcome.succeeded, outcome.error
        shutil.rmtree(folder)
        seconds *= 0.7
    raise AssertionError("it always ends before it is killed")


def seconds_of(work: Callable[[], Any], log: Path) -> float:
    """Return how long a run takes that nothing disturbs."""
    began = time.monotonic()
    outcome = in_child(work, log)
    assert outcome.succeeded, f"signal {outcome.signal}: {outcome.error}"
    return time.monotonic() - began


def epoch_of(models: Path) -> int:
    """Return the last complete epoch, having loaded every file that bears its final name."""
    states = {file.name: state(file) for file in models.glob("[!.]*.pt")}
    return states["last.pt"]["trainer"]["epoch"] if "last.pt" in states else 0


# ---- discs


def refused(work: Callable[[], Any], *told: str) -> str:
    """Run in this process what has to fail; return what is missing in the error, empty if nothing is."""
    try:
        work()
    except Exception as error:
        text = chain(error)
        return "" if all(part in text for part in told) else f"{told} are not all in: {text}"
    return "it was not refused"


def on_disc(scenario: Callable[[Path], None], size: int, tmp_path: Path) -> None:
    """Run a scenario in a process that has a small disc."""

    def work() -> None:
        mount_disc(tmp_path / "disc", size)
        scenario(tmp_path / "disc")

    outcome = in_child(work, tmp_path / "log")
    assert outcome.succeeded, f"signal {outcome.signal}: {outcome.error}"


FULL = ("No space left on device", "free some space and run the same command again")


# ---- company


@contextmanager
def stopped(work: Callable[[], Any], lock: Path, log: Path) -> Iterator[None]:
    """Start a run, hold it still once it has taken its folder, and kill it in the end."""
    child = Child(work, log)
    try:
        while not (lock.exists() and lock.read_text()):
            assert child.wait(0) is None, f"it ended before it took its folder: {log.read_text()[-2000:]}"
            assert time.monotonic() - child.began < LIMIT, f"no {lock} after {LIMIT:g} s, see {log}"
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGSTOP)
        yield
    finally:
        child.kill()


# ---- checkpoints


class Payload:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def broken_checkpoints(good: Path, folder: Path, rng: random.Random) -> dict[str, Path]:
    """Write what may have become of a checkpoint."""
    whole = good.read_bytes()
    flipped = bytearray(whole)
    for _ in range(8):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    files = {"truncated": whole[: rng.randrange(1, len(whole))], "empty": b"", "bits flipped": bytes(flipped)}
    for name, content in files.items():
        (folder / f"{name}.pt").write_bytes(content)
    torch.save(list(state(good).values()), folder / "a list.pt")
    torch.save({"other": torch.zeros(3)}, folder / "other keys.pt")
    torch.save(state(good) | {"model": Payload(str(folder / "executed"))}, folder / "pickled code.pt")
    return {file.stem: file for file in folder.glob("*.pt")}
