"""ABIDE I of the Preprocessed Connectomes Project, brought to the layout ``nifti`` by nilearn.

Files that are there are not fetched again, so an interrupted fetch is taken up by repeating it.

Reference: Craddock et al., The Neuro Bureau Preprocessing Initiative, Front Neuroinform 7 (2013) 41.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from nilearn.datasets import fetch_abide_pcp

__all__ = ["fetch", "spread"]


def fetch(
    data_dir: str,
    n_subjects: int | None = None,
    pipeline: str = "cpac",
    derivatives: Sequence[str] = ("func_preproc", "func_mask"),
    quality_checked: bool = True,
    url: str | None = None,
) -> str:
    """Fetch scans, masks and the phenotypic table; return the folder to give as ``raw_dir``.

    Args:
        data_dir: receives ``ABIDE_pcp/``.
        n_subjects: so many, spread evenly over site and diagnosis; all by default (some 100 GB of ``func_preproc``).
        pipeline: ``cpac``, ``ccs``, ``dparsf`` or ``niak``, without band-pass filter and global signal regression.
        derivatives: what to fetch; ``rois_aal`` and its like are ROI series.
        quality_checked: leave out whom the project's raters refused.
        url: of a mirror; by default the project's own address, which nilearn knows.

    Raises:
        ValueError: if nobody is asked for.
    """
    if n_subjects is not None and n_subjects < 1:
        raise ValueError(f"n_subjects is {n_subjects}: ask for one subject at least, or for all by leaving it out.")
    common = {"data_dir": data_dir, "pipeline": pipeline, "quality_checked": quality_checked, "url": url}
    people = fetch_abide_pcp(derivatives=[], **common)["phenotypic"]  # the table only
    chosen = people if n_subjects is None else spread(people, n_subjects)
    fetch_abide_pcp(derivatives=list(derivatives), SUB_ID=chosen["SUB_ID"].tolist(), **common)
    return str(Path(data_dir) / "ABIDE_pcp")


def spread(people: pd.DataFrame, n_subjects: int) -> pd.DataFrame:
    """Return ``n_subjects`` rows of a table, its cells of SITE_ID × DX_GROUP in turn: its first n rows are of one site.

    The first n of a choice of more are the choice of n.
    """
    turn = people.groupby(["SITE_ID", "DX_GROUP"]).cumcount()
    return people.assign(turn=turn).sort_values(["turn", "SITE_ID", "DX_GROUP"], kind="stable").head(n_subjects)
