"""The folder of a synthetic study, which must never be that of a real one."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["MARKER", "make_room"]

MARKER = "SYNTHETIC"  # name of the file that marks a folder as synthetic


def make_room(raw_dir: Path, pattern: str) -> None:
    """Make the folder; delete the folders of an earlier synthetic study in it, which match the pattern.

    Raises:
        FileExistsError: if the folder holds something and no marker.
    """
    if raw_dir.exists() and any(raw_dir.iterdir()) and not (raw_dir / MARKER).exists():
        raise FileExistsError(
            f"{raw_dir} holds files but no {MARKER} marker, so they may be real scans: "
            "name another folder for the synthetic study, or empty this one"
        )
    raw_dir.mkdir(parents=True, exist_ok=True)
    for folder in (p for p in raw_dir.glob(pattern) if p.is_dir()):
        shutil.rmtree(folder)
