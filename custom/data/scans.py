"""Scans to predict or explain, as the dictionaries that MONAI's ``Dataset`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path

from .datalist import read_datalist

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
    the scan has, are those of the raw study.
    """
    rows = [row for row in read_datalist(path)["test"] if site is None or str(row.get("site")) == site]
    if not rows:
        raise ValueError(f"no test subject of {path} is of site '{site}'.")
    by_class: dict[int, dict[str, None]] = {}
    for row in rows:
        by_class.setdefault(row["label"], {})[row["subject"]] = None
    in_turn = [s for several in zip_longest(*(by_class[c] for c in sorted(by_class))) for s in several if s is not None]
    chosen = list(islice(dict.fromkeys(in_turn), num_subjects))
    scans = {row["source"]: row for row in rows}  # the slices of a volume share their source
    picked = [scans[source] for subject in chosen for source in scans if scans[source]["subject"] == subject]
    absent = [row["source"] for row in picked if not Path(row["source"]).is_file()]
    if absent:
        raise FileNotFoundError(f"the raw scan {absent[0]}, which {path} was prepared from, is not there any more.")
    return [{**row, **row.get("inputs", {}), "image": row["source"]} for row in picked]


def images_within(gib: float, rows: Sequence[dict]) -> int:
    """Return how many prepared images fit into a memory budget: uncompressed files are as large as what is cached."""
    return int(gib * 2**30 // Path(rows[0]["image"]).stat().st_size) if rows else 0
