"""ComBat and the head from sums of sites, against the fits on all rows."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from custom.harmonization import CombatEstimates, estimate_combat
from custom.harmonization.design import LABEL, apply_coding, code_covariates, covariate_levels, pooled_coding
from custom.harmonization.federated import (
    combat_of_sites,
    effect_of_site,
    moments_of_site,
    pool_moments,
    pool_sigma,
    residuals_of_site,
)
from custom.harmonization.federated_head import logistic_sums, pool_scaler, scaler_sums, solve_logistic_ridge
from custom.harmonization.head import linear_head, logistic_ridge


def design_of(study, labels: bool) -> pd.DataFrame:
    coded = code_covariates(study.covariates, study.subject)
    return coded.assign(**{LABEL: study.label}) if labels else coded


def federated(x: np.ndarray, site: np.ndarray, design: pd.DataFrame, **options) -> CombatEstimates:
    """The three exchanges; a site is given its own rows only."""
    own = {name: (x[site == name], design.to_numpy(float)[site == name]) for name in np.unique(site)}
    pooled = pool_moments({s: moments_of_site(*rows) for s, rows in own.items()}, list(design), **options)
    sigma = pool_sigma(pooled, {s: residuals_of_site(*rows, pooled.beta) for s, rows in own.items()})
    standard = pooled.standard(sigma)
    return combat_of_sites(pooled, sigma, {s: effect_of_site(*rows, standard) for s, rows in own.items()})


def assert_same(found: CombatEstimates, expected: CombatEstimates, atol: float) -> None:
    for field in fields(CombatEstimates):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, tuple):
            assert one == other, field.name
        else:
            np.testing.assert_allclose(one, other, atol=atol, rtol=atol, err_msg=field.name)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("reference", [None, "S01"])
def test_equals_the_pooled_fit(study, labels, reference):
    """To 1e-6: the library casts covariates to float32, the sums are float64."""
    expected = estimate_combat(study.x, study.site, study.covariates, study.label if labels else None,
                               subjects=study.subject, reference_site=reference)  # fmt: skip
    assert_same(federated(study.x, study.site, design_of(study, labels), reference_site=reference), expected, 1e-6)


def test_equals_the_pooled_fit_at_the_sizes_of_abide_and_without_covariates_to_rounding(abide19):
    study, training, _ = abide19
    x, site, covariates, label = study.rows(training)
    names = [study.subject[i] for i in training]
    expected = estimate_combat(x, site, covariates, label, subjects=names)
    assert_same(federated(x, site, design_of(study, True).iloc[training]), expected, 1e-6)
    nothing = pd.DataFrame(index=range(len(x)))
    assert_same(federated(x, site, nothing), estimate_combat(x, site, subjects=names), 1e-12)


def test_feature_constant_at_a_site_is_passed_through(study, caplog):
    x = study.x.copy()
    x[study.site == "S01", 2] = 4.25
    found = federated(x, study.site, design_of(study, False))
    assert "#2" in caplog.text
    assert found.affine().unadjusted == [2]
    assert_same(found, estimate_combat(x, study.site, study.covariates, subjects=study.subject), 1e-6)


def test_offset_of_a_feature_costs_no_digits(study):
    """Raw sums of squares would lose them: 1e5 squared is 1e10."""
    design = design_of(study, False)
    one, other = federated(study.x, study.site, design), federated(study.x + 1e5, study.site, design)
    np.testing.assert_allclose(other.gamma_star, one.gamma_star, atol=1e-8)
    np.testing.assert_allclose(other.sigma, one.sigma, atol=1e-8)


def message(call) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the message is what is compared
        call()
    return str(error.value)


def refused(study, site=None, x=None, **columns) -> None:
    """Assert that both fits refuse with the same words."""
    site, x = study.site if site is None else site, study.x if x is None else x
    covariates = study.covariates.assign(**columns)
    design = code_covariates(covariates, study.subject)
    pooled = message(lambda: estimate_combat(x, site, covariates, subjects=study.subject))
    assert message(lambda: federated(x, site, design)) == pooled
    return pooled


def test_site_with_too_few_subjects_is_refused_by_name_as_by_the_pooled_fit(study):
    site = study.site.copy()
    site[5:7] = "SMALL"
    assert "SMALL (2)" in refused(study, site)


def test_what_cannot_be_estimated_is_refused_as_by_the_pooled_fit(study):
    assert "scanner is the same" in refused(study, scanner=0.1)
    assert "field is determined by site" in refused(study, field=np.where(study.site == "S01", 3.0, 1.5))
    assert "months is determined by site and age" in refused(study, months=12 * study.covariates.age)
    exact = study.x.copy()
    exact[:, 4] = 2 * study.covariates.age + (study.site == "S01")
    assert "feature #4 is determined" in refused(study, x=exact)
    assert "1 of 8 features vary" in refused(study, x=np.where(np.arange(8) > 0, 1.0, study.x))


def test_coding_of_texts_is_agreed_on_from_the_values_of_all_sites(study):
    tables = [study.covariates[study.site == s].reset_index(drop=True) for s in np.unique(study.site)]
    tables[0]["sex"] = "F"
    levels = [covariate_levels(table, list(range(len(table)))) for table in tables]
    assert levels[0] == {"age": [], "sex": ["F"]}
    coding = pooled_coding(levels)
    assert coding == {"age": None, "sex": "M"}
    assert (apply_coding(tables[0], coding)["sex=M"] == 0).all()
    np.testing.assert_array_equal(apply_coding(tables[1], coding)["sex=M"], tables[1]["sex"] == "M")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([["M"], []], "a number at some sites and a text such as 'M'"),
        ([["M"], ["M"]], "sex is M for everybody"),
        ([["F", "M"], ["X"]], "has the values F, M, X"),
    ],
)
def test_coding_that_sites_disagree_on_is_refused(values, expected):
    with pytest.raises(ValueError, match=expected):
        pooled_coding([{"sex": v} for v in values])


def parts(n: int = 90) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Features of three sites, of which one has a single class."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 12)) * np.logspace(-2, 2, 12) + 50
    y = (x[:, 0] * 100 + rng.normal(size=n) > 5000).astype(int)
    site = np.where(y == 0, 2, 0)
    site[: 2 * n // 3] = np.arange(2 * n // 3) % 2
    return x, y, [np.flatnonzero(site == s) for s in range(3)]


def head_of_sites(x: np.ndarray, y: np.ndarray, sites: list[np.ndarray], strength: float) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = pool_scaler([scaler_sums(x[i]) for i in sites])
    balanced = len(y) / (2 * np.bincount(y))

    def ask(coefficients: np.ndarray) -> list:
        return [logistic_sums((x[i] - mean) / scale, y[i], balanced, coefficients) for i in sites]

    return solve_logistic_ridge(ask, x.shape[1], strength), mean


@pytest.mark.parametrize("strength", [0.1, 100.0])
def test_head_is_the_pooled_regression(strength):
    x, y, sites = parts()
    assert set(y[sites[2]]) == {0}
    found, _ = head_of_sites(x, y, sites, strength)
    model = LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky", tol=1e-12)
    model = make_pipeline(StandardScaler(), model).fit(x, y)[-1]
    np.testing.assert_allclose(found, np.r_[model.coef_[0], model.intercept_], atol=1e-7)


def test_head_is_that_of_the_bundle(study):
    x, y, sites = parts()
    found, mean = head_of_sites(x, y, sites, 0.1)
    assert np.abs(found[:-1] - logistic_ridge(0.1).fit(x, y)[-1].coef_[0]).max() < 1e-3
    np.testing.assert_allclose(mean, x.mean(0))
    assert linear_head(x, y, 2).weight.shape == (2, 12)


def test_scaler_is_that_of_all_rows():
    x, _, sites = parts()
    x[:, 3] = 7
    mean, scale = pool_scaler([scaler_sums(x[i]) for i in sites])
    expected = StandardScaler().fit(x)
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(scale, expected.scale_, rtol=1e-10)


def test_regression_that_does_not_converge_is_an_error():
    with pytest.raises(ValueError, match="did not converge"):
        solve_logistic_ridge(lambda c: [{"loss": 0.0, "gradient": np.ones(3), "hessian": np.zeros((3, 3))}], 2, 1.0)
