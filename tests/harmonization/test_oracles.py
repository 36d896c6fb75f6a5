"""Against R sva 3.46; see the README beside the reference outputs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from custom.harmonization import estimate_combat

COVARIATES = {"nocov": [], "agesex": ["age", "sex"], "agesexdx": ["age", "sex"]}
CASES = [
    (name, covariates, reference)
    for name, kinds in {"small": COVARIATES, "tiny_sites": COVARIATES, "abide19": ["nocov", "agesex"]}.items()
    for covariates in kinds
    for reference in (None, "S01")
    if (name, covariates, reference) != ("abide19", "nocov", "S01")
]


def with_own_covariates(estimates, x: np.ndarray, site: list[str], z: np.ndarray) -> np.ndarray:
    """What the library returns on its training data: x a + c + (z - mean z) β (1 - a)."""
    affine = estimates.affine()
    row = affine.index(site)
    mapped = affine(torch.from_numpy(x), row).numpy()
    return mapped + (z - estimates.centre) @ estimates.beta * (1 - affine.scale[row].numpy())


def deviation(folder: Path, name: str, covariates: str, reference: str | None = None) -> float:
    table = pd.read_csv(folder / f"{name}_input.csv")
    x, columns = table.filter(regex="^f").to_numpy(), COVARIATES[covariates]
    labels = table.dx if covariates.endswith("dx") else None
    options = {"subjects": table.index, "min_site_n": 2, "reference_site": reference}
    estimates = estimate_combat(x, table.SITE, table[columns] if columns else None, labels, **options)
    z = table[columns + ["dx"] * (labels is not None)].to_numpy(float)
    suffix = f"_ref-{reference}" if reference else ""
    expected = pd.read_csv(folder / f"{name}_sva_{covariates}_parametric{suffix}.csv").to_numpy()
    return np.abs(with_own_covariates(estimates, x, list(table.SITE), z) - expected).max()


@pytest.mark.parametrize(("name", "covariates", "reference"), CASES)
def test_equals_sva(real_data, name, covariates, reference):
    # without covariates the library is float64 throughout; covariates it casts to float32, centred by us before
    assert deviation(real_data / "combat_oracle", name, covariates, reference) < (1e-12 if covariates == "nocov" else 1e-7)


def test_feature_constant_at_one_site_is_passed_through_as_by_sva(real_data, caplog):
    assert deviation(real_data / "combat_oracle", "edge_const_in_site", "agesex") < 1e-7
    assert "passed through" in caplog.text
