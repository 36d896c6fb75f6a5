"""Harmonization of a whole study's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from neuroHarmonize import harmonizationApply, harmonizationLearn

from custom.harmonization import fit_combat

from .row import Row, Ways

__all__ = ["ROWS"]


def apply(_: Path, subjects: int, features: int, sites: int) -> Ways:
    """The fitted model applied: the library's, and the affine map of every row's site."""
    rng, site = np.random.default_rng(0), np.arange(subjects) % sites
    values = rng.normal(size=(subjects, features)) * (1 + site[:, None] / sites) + site[:, None]
    names = [f"S{i:02d}" for i in site]
    table = pd.DataFrame({"SITE": names})
    model, _ = harmonizationLearn(values, table)
    affine = fit_combat(values, names, subjects=[str(i) for i in range(subjects)])
    tensor = torch.from_numpy(values)
    return Ways(lambda: harmonizationApply(values, table, model), lambda: affine(tensor, affine.index(names)))


ROWS = (
    Row(
        "ComBat",
        "applied to {subjects} subjects, {features} features",
        "neuroHarmonize",
        apply,
        {"subjects": 2000, "features": 512, "sites": 20},
        1e-9,
    ),
)
