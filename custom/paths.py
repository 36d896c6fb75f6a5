"""Where a bundle lives, and how a file comes into being whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["bundle_root", "written_whole"]


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

    A reader sees the old file or the whole new one, whatever kills the writer. The temporary name keeps the suffixes,
    since nibabel chooses the format by them, and holds the process id, so that two writers do not meet.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
