"""One prepared dataset per site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..data import PARTS, read_datalist
from ..data.datalist import check_datalist, digest, kept_apart, names
from ..paths import written_whole

__all__ = ["cut_by_site"]


def cut_by_site(dataset_dir: str | Path, output_dir: str | Path) -> dict[str, str]:
    """Write ``<output_dir>/<site>/datalist.json`` of every site; the images stay where they lie.

    Every subject keeps its part, so that a test subject of the whole study is one of its site.

    Returns:
        Site -> its folder, sorted by site.

    Raises:
        ValueError: a row without a site, or a site without training subjects or with less than two validation subjects.
    """
    content = read_datalist(Path(dataset_dir) / "datalist.json")
    rows = [row for part in PARTS for row in content[part]]
    lost = [row["subject"] for row in rows if not row.get("site")]
    if lost:
        raise ValueError(f"subject {lost[0]} has no site: complete the study's table and run preprocess.json again.")
    folders = {}
    for site in sorted({str(row["site"]) for row in rows}):
        folder = Path(output_dir) / site
        _write(folder / "datalist.json", _of_site(content, site))
        folders[site] = str(folder)
    return folders


def _of_site(content: dict[str, Any], site: str) -> dict[str, Any]:
    lists = {part: [row for row in content[part] if str(row["site"]) == site] for part in PARTS}
    for part, least in (("training", 1), ("validation", 2)):  # the mean over one subject would be that subject's score
        count = len(names(lists[part]))
        if count < least:
            raise ValueError(
                f"site {site} has {count} {part} subjects, {least} are needed: split by site and label, or leave the site out."
            )
    column = kept_apart(content["split"])
    return {
        **content,
        **lists,
        "split": {**content["split"], "digest": {part: digest(names(lists[part], column)) for part in PARTS}},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    check_datalist(content, str(path), path.parent)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False))
