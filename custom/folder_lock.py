"""One writer per folder: a second preparation, training or evaluation that writes into the same one is refused.

Two runs into one folder would each write whole files, but of two trainings: ``model.pt`` of the one beside ``last.pt`` of the
other. The lock is the kernel's (``fcntl``), so it dies with its process, whatever kills that; the file ``.lock`` that is left
behind then counts for nothing. Within a process the folder may be taken several times.

On a network file system the server holds the lock. If the machine itself goes down it does not know that the process is no
more, and refuses the folder until that machine is back or its lease has run out (NFSv4: a minute or two).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import struct
import sys
import time
import weakref
from pathlib import Path

from .paths import explained

__all__ = ["FolderInUse", "FolderLock", "alive"]

logger = logging.getLogger(__name__)

NAME = ".lock"
LEFTOVER = re.compile(r"\.(\d+)-.+")  # what `written_whole` calls a file that is not whole yet
TAKEN = (errno.EAGAIN, errno.EACCES)

_held: dict[tuple[int, str], list[int]] = {}  # (process, lock file) → descriptor, times taken; a forked process holds none


class FolderInUse(RuntimeError):
    """Another process writes into the folder."""


class FolderLock:
    """Take a folder for a ``with`` block or for as long as this object lives; remove what a killed run has left half-written.

    Standing early in a configuration's ``run`` list it is held until the whole list has run.

    Args:
        folder: made if it is not there.

    Raises:
        FolderInUse: if another process has it; names that process and the remedy.
        OSError: if nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        file = Path(folder).resolve() / NAME  # by whatever link or detour it is named, it is one folder
        key = (os.getpid(), str(file))
        taken = key in _held
        if taken:
            _held[key][1] += 1
        else:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                descriptor = _locked(file)
            except OSError as error:
                raise explained(error, file) from error
            _held[key] = [descriptor, 1]
        self.release = weakref.finalize(self, _release, key)
        # without locks, or in a second object of the holder, a file of a process that is not known here may be a live one's
        if not taken and _is(file, descriptor):
            _remove_leftovers(file.parent)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _locked(file: Path) -> int:
    """Return a descriptor that holds the lock; of a file system without locks, one of the null device."""
    while True:
        descriptor, alone = _opened(file)
        try:
            if not _take(file, descriptor, alone):
                os.close(descriptor)
                return os.open(os.devnull, os.O_RDONLY)
            if _is(file, descriptor):
                if alone:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our opening and our locking


def _opened(file: Path) -> tuple[int, bool]:
    """Return a descriptor of the lock file, and whether it may be written.

    The file that another user's killed run has left may be read only. A shared lock on it is refused as long as that user has
    the folder, and keeps that user out; two others who find such a file would not keep each other out.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666), True
    except PermissionError:
        if not file.exists():
            raise
        return os.open(file, os.O_RDONLY), False


def _take(file: Path, descriptor: int, alone: bool) -> bool:
    """Lock the file; return whether its file system can.

    The lock is the open file's where the system has such locks (OFD): a process's own would be gone as soon as anything in the
    process, such as a copy of the folder, closes the file.
    """
    kind = fcntl.F_WRLCK if alone else fcntl.F_RDLCK
    try:
        if sys.platform == "linux":
            # struct flock: type, whence, start, length (0: all), process
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
        else:
            fcntl.lockf(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in TAKEN:
            logger.warning(
                f"{file.parent}: its file system has no locks ({error}): see to it yourself that one run writes there."
            )
            return False
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        raise FolderInUse(
            f"{file.parent} is being written by {holder}: wait until it has ended, end it (of a notebook: its kernel), "
            "or give another folder."
        ) from error
    return True


def _is(file: Path, descriptor: int) -> bool:
    return file.exists() and os.path.samestat(file.stat(), os.fstat(descriptor))


def _release(key: tuple[int, str]) -> None:
    if key[0] != os.getpid():
        return
    _held[key][1] -= 1
    if _held[key][1] == 0:
        descriptor, _ = _held.pop(key)
        with contextlib.suppress(OSError):  # a folder that has become read-only: the file counts for nothing without its lock
            if _is(Path(key[1]), descriptor):
                os.unlink(key[1])
        os.close(descriptor)


def _forget() -> None:
    """Close what a forked process has inherited: a worker that outlives its run would keep the folder."""
    for key in list(_held):
        os.close(_held.pop(key)[0])


os.register_at_fork(after_in_child=_forget)


def _remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that are no more, in the folder and in those right below it."""
    for file in (*folder.glob(".*"), *folder.glob("*/.*")):
        found = LEFTOVER.fullmatch(file.name)
        if not found or not file.is_file() or alive(int(found[1])):
            continue
        try:
            file.unlink(missing_ok=True)
            logger.info(f"{file} was left half-written by a run that was killed: deleted.")
        except OSError as error:  # it does no harm there
            logger.warning(f"{file} was left half-written by a run that was killed, and could not be deleted: {error}")


def alive(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process has such a number, so that the file is not ours
        return True
    return True
