"""ComBat takes a planted site effect out of subjects that it has not seen, and leaves a planted diagnosis in."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from custom.harmonization import compare, fit_combat
from custom.harmonization.decodability import lda_accuracy
from custom.metrics.bootstrap import auc_within


def diagnosis_score(x: np.ndarray, label: np.ndarray, training: np.ndarray, test: np.ndarray) -> np.ndarray:
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[training], label[training])
    return model.decision_function(x[test])


@pytest.mark.parametrize("with_labels", [False, True])
def test_site_goes_and_diagnosis_stays_on_held_out_subjects(abide19, with_labels):
    study, training, test = abide19
    x, site, covariates, label = study.rows(training)
    affine = fit_combat(x, site, covariates, label if with_labels else None, subjects=training)
    after = affine(torch.from_numpy(study.x), affine.index(study.site)).numpy()
    found = compare(study.x[test], after[test], study.site[test], test, study.label[test])
    raw, harmonized = found["before"], found["after"]
    assert raw["site_accuracy"]["lda"] >= 0.95
    assert harmonized["site_accuracy"]["lda"] <= 0.25
    assert harmonized["site_accuracy"]["forest"] <= 0.25
    assert harmonized["omega_squared"]["mean"] < 0.05 < raw["omega_squared"]["mean"]
    aucs = {}
    for name, features in {"raw": study.x, "harmonized": after}.items():
        score = diagnosis_score(features, study.label, training, test)
        aucs[name] = auc_within(study.label[test], score, study.site[test])["value"]
    assert aucs["harmonized"] > aucs["raw"] - 0.02
    assert aucs["harmonized"] > 0.75
    assert found["sites"]["S00"]["n"] == 8


def test_what_remains_is_below_chance_on_the_fitted_subjects(abide19):
    """The artefact for which figures of fitted data are marked."""
    study, training, _ = abide19
    x, site, covariates, _ = study.rows(training)
    affine = fit_combat(x, site, covariates, subjects=training)
    after = affine(torch.from_numpy(x), affine.index(site)).numpy()
    assert lda_accuracy(x, site) >= 0.95
    assert lda_accuracy(after, site) < 1 / 19
