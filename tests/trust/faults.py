"""Faults, each in a process of its own that is forked from the tests': killed, starved of disc or memory, or set back
in time.

A fork starts in milliseconds, where ``python -m monai.bundle`` needs seconds. Mounts are made in a mount namespace of the
forked process, so that none outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import hashlib
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import custom.paths
from custom.folder_lock import LEFTOVER

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
LIMIT = 180.0  # seconds after which a forked process counts as hanging


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Args:
        signal: that killed it, 0 if none did.
        error: the exception that it ended with and its causes, empty if it succeeded.
        result: what the work returned.
    """

    signal: int
    error: str
    result: Any = None

    @property
    def succeeded(self) -> bool:
        return not self.signal and not self.error


class Child:
    """A forked process, leader of its own group, that does some work; its output goes into a file."""

    def __init__(self, work: Callable[[], Any], log: Path) -> None:
        self.log, self.began = log, time.monotonic()
        self.told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(work, tell, log)
        os.close(tell)

    def wait(self, seconds: float) -> Outcome | None:
        """Return how it ended, ``None`` if it runs after so many seconds since its start."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                with os.fdopen(self.told) as pipe:
                    told = json.loads(pipe.read() or '{"error": "", "result": null}')
                code = os.waitstatus_to_exitcode(status)
                return Outcome(max(0, -code), told["error"], told["result"])
            if time.monotonic() - self.began > seconds:
                return None
            time.sleep(0.002)

    def kill(self) -> Outcome:
        """End the whole group by SIGKILL, unless it has ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        outcome = self.wait(LIMIT)
        assert outcome is not None, "survives SIGKILL"
        return outcome


def _be_child(work: Callable[[], Any], tell: int, log: Path) -> None:
    """Do the work and end without what the tests' process would do at its end."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1), os.dup2(output, 2)
    tqdm.set_lock(threading.RLock())  # its own lock is shared: a process killed with it would stop the tests for ever
    gc.freeze()  # what the tests left behind stays: to destroy a session of onnxruntime here would wait for threads it lacks
    torch.set_num_threads(1)  # a forked process lacks the threads of OpenMP
    error, result = "", None
    try:
        result = work()
    except BaseException as caught:  # noqa: BLE001  # whatever it is, the tests' process is to judge it
        error = chain(caught)
    os.write(tell, json.dumps({"error": error, "result": result}).encode()[:60_000])
    os._exit(1 if error else 0)


def chain(error: BaseException) -> str:
    """Return an exception and its causes as text, the first cause last."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return "\n".join(texts)[-20_000:]


def in_child(work: Callable[[], Any], log: Path, kill_after: float | None = None) -> Outcome:
    """Do some work in a process that is killed after some seconds, or at once waited for."""
    child = Child(work, log)
    outcome = child.wait(LIMIT if kill_after is None else kill_after)
    if outcome is None and kill_after is None:
        child.kill()
        raise AssertionError(f"hangs: no end after {LIMIT:g} s, see {log}")
    return outcome or child.kill()


def killed_in_a_write(work: Callable[[], Any], number: int) -> None:
    """Do some work in this process, which is killed at a write: at 1 with half of the first file on the disc, at 2 as soon as
    that file has its name, at 3 with half of the second one, and so on: tensors, images, tables and JSON alike.
    """
    replace, moments = os.replace, itertools.count(1)

    def dying(source: Any, target: Any, **options: Any) -> None:
        ours = LEFTOVER.fullmatch(Path(source).name)
        if ours and next(moments) == number:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **options)
        if ours and next(moments) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying
    work()


@contextmanager
def clock_shifted(seconds: float) -> Iterator[None]:
    """Let ``time.time`` tell another time."""
    real = time.time
    time.time = lambda: real() + seconds
    try:
        yield
    finally:
        time.time = real


def set_times(folder: Path, rng: random.Random) -> None:
    """Give every file below a folder a time between 1980 and 2060."""
    for file in folder.rglob("*"):
        moment = rng.uniform(315e6, 2840e6)
        os.utime(file, (moment, moment))


# ---- discs


def why_no_mounts() -> str:
    """Return why this process may not mount, empty if it may."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root may mount a small disc"
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    return tried.stderr.strip()


def mount_disc(folder: Path, size: int) -> None:
    """Mount a disc of so many bytes, for this process and those it starts."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the size of a disc (``size=…``) or whether it can be written (``ro``)."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@contextmanager
def no_room_for(name: str) -> Iterator[None]:
    """Let the disc be full when a file of this name is written."""
    real = custom.paths.on_disc

    def full(path: Path) -> None:
        if path.name.endswith(f"-{name}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    custom.paths.on_disc = full
    try:
        yield
    finally:
        custom.paths.on_disc = real


# ---- memory and time of readers


def limit_memory(more: int) -> None:
    """Let this process ask for so many bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


def peak() -> int:
    """Return the most bytes that this process has held in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_time(seconds: int) -> None:
    """Have the kernel end this process unless this is called again in time: C code that hangs hears no Python handler."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


# ---- folders


def contents(folder: str | Path) -> dict[str, str]:
    """Return the digest of every file below a folder, without locks, TensorBoard's files and records of runs."""
    files = [p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock" and "tfevents" not in p.name]
    files = [p for p in files if p.parent.name != "runs"]  # they hold the folder's own name
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def half_written(folder: Path, reference: dict[str, str]) -> list[str]:
    """Return the files that bear their final names and are not what an undisturbed run writes."""
    found = contents(folder)
    return [name for name, digest in found.items() if not Path(name).name.startswith(".") and reference.get(name) != digest]


def temporaries(folder: Path) -> list[str]:
    """Return the files of a folder that were never finished."""
    return [name for name in contents(folder) if Path(name).name.startswith(".")]
