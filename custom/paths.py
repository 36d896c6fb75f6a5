"""Where a bundle lives, and how a file comes into being whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["bundle_root", "explained", "file_digest", "on_disc", "refuse_other_file", "written_whole"]

AGAIN = "and run the same command again (a training with --resume True): what is complete is kept"
REMEDIES = {
    errno.ENOSPC: f"free some space {AGAIN}",
    errno.EDQUOT: f"free some of your quota {AGAIN}",
    errno.EFBIG: f"raise the limit of a file's size {AGAIN}",
    errno.EIO: f"look after the disc {AGAIN}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n), or give fewer --num_workers, {AGAIN}",
    errno.ENFILE: f"raise this machine's limit of open files, or give fewer --num_workers, {AGAIN}",
    errno.ENOMEM: f"give fewer --num_workers, or a machine with more memory, {AGAIN}",
    errno.ESTALE: f"see to the file server {AGAIN}",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "give a folder that you may write",
    errno.EPERM: "give a folder that you may write",
}
TORCH_WRITER = "inline_container"


def bundle_root(name: str) -> str:
    """Return the directory of a bundle: in the repository, around a vendored copy of this package, or the current one."""
    home = Path(__file__).resolve().parents[1]
    for root in (home / "bundles" / name, home):
        if (root / "configs" / "metadata.json").is_file():
            return str(root)
    return "."


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block ends without an error.

    A reader sees the old file or the whole new one, whatever kills the writer, a power cut included. The temporary name
    keeps the suffixes, since nibabel chooses the format by them, and holds the process id and a word drawn at random, since in
    every container the first process is number 1: two writers do not meet.
    """
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}-{secrets.token_hex(4)}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        on_disc(temporary)  # before it has the name: else, after a power cut, the name may stand for nothing
        os.replace(temporary, target)
        on_disc(target.parent)
    except OSError as error:
        ours = error.filename is None or Path(os.fsdecode(error.filename)) in (temporary, target, *target.parents)
        if not ours or error.errno not in REMEDIES:
            raise
        raise explained(error, target) from error
    except RuntimeError as error:
        if TORCH_WRITER not in str(error):
            raise
        raise explained(OSError(errno.EIO, "torch could not write all of it, is the disc full?"), target) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that has become read-only; the error that led here is raised
            temporary.unlink(missing_ok=True)


def on_disc(path: Path) -> None:
    """Wait until what was written into a file, or which names a folder holds, is on the disc."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot: nothing is known to be lost
            raise
    finally:
        os.close(descriptor)


def explained(error: OSError, path: Path) -> OSError:
    """Return an error of writing with the file's name and what to do about it, which the system's own lacks."""
    remedy = REMEDIES.get(error.errno or 0, "see to it, and run the same command again")
    return OSError(error.errno, f"{error.strerror}: {remedy}", str(path))


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, as ``sha256sum`` prints it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def refuse_other_file(path: str | os.PathLike[str], told: Mapping[str, Any], beside: Path) -> None:
    """Raise ValueError if weights are not those that the file beside them tells of, whose subjects are then not theirs.

    Weights and what tells of them are two files, and a training may be killed between writing the one and the other. What
    tells no SHA-256 (of an older version, or written by hand) is not compared.
    """
    wanted, found = told.get("weights_sha256"), file_digest(path)
    if wanted not in (None, found):
        raise ValueError(
            f"{path} is not the file that {beside} tells of (weights_sha256 {wanted}, the file's is {found}): go on with the "
            "training that was killed (train.json, --resume True), or copy both once more from where the weights come from."
        )
