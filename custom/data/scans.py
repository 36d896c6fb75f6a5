"""Scans to predict or explain, as the dictionaries that MONAI's ``Dataset`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path

from .datalist import read_datalist
from .records import Event

__all__ = ["images_within", "list_scans", "sample_test_scans"]

SUFFIXES = (".nii", ".nii.gz", ".img", ".mgz", ".jpg", ".jpeg", ".png")


def list_scans(path: str) -> list[dict[str, str]]:
    """Return ``{"image": file, "subject": name}`` of one scan, or of every scan below a folder.

    The subject is the file's place below the folder, since nothing else is known of it.

    Raises:
        FileNotFoundError: if there is no scan.
    """
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.name.lower().endswith(SUFFIXES))
    if not files:
        raise FileNotFoundError(f"no scan ({', '.join(SUFFIXES)}) at {root}: give --dataset_dir a scan or a folder of them.")
    return [{"image": str(f), "subject": f.name if f == root else str(f.relative_to(root))} for f in files]


def sample_test_scans(path: str, num_subjects: int, site: str | None = None) -> list[dict]:
    """Return the raw scans of some test subjects of a datalist, classes in turn, all scans of a subject together.

    With ``site`` they are subjects of that site. Each is a row of the datalist in which ``image``, and whatever further files
    the scan has, are those of the raw study. A run whose windows have rows of their own comes once, with its ``events``.
    """
    rows = [row for row in read_datalist(path)["test"] if site is None or str(row.get("site")) == site]
    if not rows:
        raise ValueError(f"no test subject of {path} is of site '{site}'.")
    by_class: dict[int, dict[str, None]] = {}
    for row in rows:
        by_class.setdefault(row["label"], {})[row["subject"]] = None
    in_turn = [s for several in zip_longest(*(by_class[c] for c in sorted(by_class))) for s in several if s is not None]
    chosen = list(islice(dict.fromkeys(in_turn), num_subjects))
    scans = _by_scan(rows)
    picked = [scans[name] for subject in chosen for name in scans if scans[name]["subject"] == subject]
    absent = [row["source"] for row in picked if not Path(row["source"]).is_file()]
    if absent:
        raise FileNotFoundError(f"the raw scan {absent[0]}, which {path} was prepared from, is not there any more.")
    return [{**row, **row.get("inputs", {}), "image": row["source"]} for row in picked]


def _by_scan(rows: Sequence[dict]) -> dict[str, dict]:
    """Return one row per raw scan: the slices of a volume share their source, the windows of a run their ``scan``."""
    scans = {_scan_of(row): row for row in rows}
    windows: dict[str, list[dict]] = {}
    for row in rows:
        if "block" in row:
            windows.setdefault(_scan_of(row), []).append(row)
    return scans | {name: _run(members) for name, members in windows.items()}


def _scan_of(row: dict) -> str:
    """Return what tells scans apart: several runs may lie in one file."""
    return row.get("scan", row["source"])


def _run(windows: Sequence[dict]) -> dict:
    """Return what the rows of a run's windows have in common, and the windows as its ``events``."""
    common = {key: value for key, value in windows[0].items() if all(row.get(key) == value for row in windows)}
    events = tuple(Event(row["onset"], row["duration"], row["label"], {"block": row["block"]}) for row in windows)
    return {**common, "events": events}


def images_within(gib: float, rows: Sequence[dict]) -> int:
    """Return how many prepared images fit into a memory budget: uncompressed files are as large as what is cached."""
    return int(gib * 2**30 // Path(rows[0]["image"]).stat().st_size) if rows else 0
