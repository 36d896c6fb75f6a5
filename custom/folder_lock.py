"""One writer per folder: a second preparation or training that writes into the same one is refused.

Two runs into one folder would each write whole files, but of two trainings: ``model.pt`` of the one beside ``last.pt`` of the
other. The lock is the kernel's (``fcntl``), so it dies with its process, whatever kills that; the file ``.lock`` that is left
behind then counts for nothing. Within a process the folder may be taken several times.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
import time
import weakref
from pathlib import Path

from .paths import explained

__all__ = ["FolderInUse", "FolderLock"]

logger = logging.getLogger(__name__)

NAME = ".lock"
LEFTOVER = re.compile(r"\.(\d+)-.+")  # what `written_whole` calls a file that is not whole yet
TAKEN = (errno.EAGAIN, errno.EACCES)

_held: dict[tuple[int, str], list[int]] = {}  # (process, lock file) → descriptor, times taken; a forked process holds none


class FolderInUse(RuntimeError):
    """Another process writes into the folder."""


class FolderLock:
    """Take a folder for a ``with`` block or for as long as this object lives; remove what a killed run has left half-written.

    Args:
        folder: made if it is not there.

    Raises:
        FolderInUse: if another process has it; names that process and the remedy.
        OSError: if nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        file = Path(folder).absolute() / NAME
        key = (os.getpid(), str(file))
        if key in _held:
            _held[key][1] += 1
        else:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                _held[key] = [_locked(file), 1]
            except OSError as error:
                raise explained(error, file) from error
            _remove_leftovers(file.parent)
        self.release = weakref.finalize(self, _release, key)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _locked(file: Path) -> int:
    """Return a descriptor that holds the lock."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            if error.errno in TAKEN:
                raise FolderInUse(
                    f"{file.parent} is being written by {holder}: wait until it has ended, end it (of a notebook: its kernel), "
                    "or give another folder."
                ) from error
            logger.warning(
                f"{file.parent}: its file system has no locks ({error}): see to it yourself that one run writes there."
            )
            return os.open(os.devnull, os.O_RDONLY)
        if _is(file, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed it between our opening and our locking


def _is(file: Path, descriptor: int) -> bool:
    return file.exists() and os.path.samestat(file.stat(), os.fstat(descriptor))


def _release(key: tuple[int, str]) -> None:
    if key[0] != os.getpid():
        return
    _held[key][1] -= 1
    if _held[key][1] == 0:
        descriptor, _ = _held.pop(key)
        if os.path.exists(key[1]) and _is(Path(key[1]), descriptor):
            os.unlink(key[1])
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that are no more, in the folder and in those right below it."""
    for file in (*folder.glob(".*"), *folder.glob("*/.*")):
        found = LEFTOVER.fullmatch(file.name)
        if found and not _alive(int(found[1])):
            logger.info(f"{file} was left half-written by a run that was killed: deleted.")
            file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
