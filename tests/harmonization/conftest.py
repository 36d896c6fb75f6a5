from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split


@dataclass
class Study:
    """Features with a planted site effect, and an effect of age and of the diagnosis."""

    x: np.ndarray
    site: np.ndarray
    covariates: pd.DataFrame
    label: np.ndarray
    subject: list[str]

    def rows(self, index) -> tuple[np.ndarray, np.ndarray, pd.DataFrame, np.ndarray]:
        return self.x[index], self.site[index], self.covariates.iloc[index], self.label[index]


def simulate(sizes: list[int], n_features: int, seed: int = 0, diagnosis: float = 0.0) -> Study:
    rng = np.random.default_rng(seed)
    site = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(site)
    age, sex, label = rng.normal(15, 4, n), rng.choice(["F", "M"], n), rng.integers(0, 2, n)
    x = rng.normal(size=(n, n_features)) + 0.1 * np.outer(age - 15, rng.normal(size=n_features))
    x = x + diagnosis * np.outer(label, rng.normal(size=n_features) / np.sqrt(n_features))
    location, scale = rng.normal(size=(len(sizes), n_features)), rng.uniform(0.6, 1.6, (len(sizes), n_features))
    names = np.array([f"S{s:02}" for s in range(len(sizes))], dtype=object)
    covariates = pd.DataFrame({"age": age, "sex": sex})
    return Study(5 + location[site] + scale[site] * x, names[site], covariates, label, [f"sub{i:04}" for i in range(n)])


@pytest.fixture(scope="session")
def study() -> Study:
    return simulate([12, 15, 30], 8)


@pytest.fixture(scope="session")
def abide19() -> tuple[Study, np.ndarray, np.ndarray]:
    """The sizes of ABIDE's nineteen sites, a diagnosis in the features; rows for training and for test."""
    study = simulate(list(range(20, 96, 4)), 32, seed=1, diagnosis=1.5)
    strata = [f"{site} {label}" for site, label in zip(study.site, study.label, strict=True)]
    training, test = train_test_split(np.arange(len(strata)), test_size=0.4, stratify=strata, random_state=0)
    return study, training, test
