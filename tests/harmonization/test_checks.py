"""What the fit refuses; beside each, what the library alone makes of it, where that is cheap to show."""

import logging

import numpy as np
import pandas as pd
import pytest
from neuroHarmonize import harmonizationLearn

from custom.harmonization import estimate_combat, fit_combat

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::PendingDeprecationWarning")


def library(x, site, covariates=None) -> np.ndarray:
    table = pd.DataFrame({"SITE": site})
    return harmonizationLearn(x, table if covariates is None else table.join(covariates))[1]


def fit(study, **changes):
    given = {"features": study.x, "sites": study.site, "covariates": study.covariates, "subjects": study.subject} | changes
    return fit_combat(**given)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_names_subject_and_feature(study, value):
    x = study.x.copy()
    x[7, 3] = value
    assert np.isnan(library(x, study.site)[:, 3]).all()
    with pytest.raises(ValueError, match="feature f3 of subject sub0007"):
        fit(study, features=x, feature_names=[f"f{i}" for i in range(8)])
    with pytest.raises(ValueError, match="feature #3 of subject sub0007"):
        fit(study, features=x)


def test_site_with_one_subject_is_named(study):
    site = study.site.copy()
    site[5] = "LONELY"
    assert np.isnan(library(study.x, site)).any()
    with pytest.raises(ValueError, match=r"LONELY \(1\)"):
        fit(study, sites=site)
    site[6] = "LONELY"
    with pytest.raises(ValueError, match=r"fewer than 3.*LONELY \(2\)"):
        fit(study, sites=site)
    assert "LONELY" in fit(study, sites=site, min_site_n=2).sites
    with pytest.raises(ValueError, match="min_site_n is 1"):
        fit(study, min_site_n=1)


@pytest.mark.parametrize("value", [0.0, 4.25])
def test_constant_feature_is_passed_through_and_moves_no_other(study, value, caplog):
    x = np.insert(study.x, 2, value, axis=1)
    without, with_it = fit(study), fit(study, features=x)
    assert with_it.unadjusted == [2]
    assert "#2" in caplog.text
    np.testing.assert_array_equal(np.delete(with_it.scale.numpy(), 2, axis=1), without.scale.numpy())
    np.testing.assert_array_equal(np.delete(with_it.shift.numpy(), 2, axis=1), without.shift.numpy())
    assert (with_it.scale[:, 2] == 1).all()
    assert (with_it.shift[:, 2] == 0).all()
    moved = np.delete(library(x, study.site), 2, axis=1) - library(study.x, study.site)
    assert not np.abs(moved).max() < 1e-3


@pytest.mark.parametrize("missing", [np.nan, None, np.inf])
@pytest.mark.parametrize("column", ["age", "sex"])
def test_missing_covariate_names_subject_and_column(study, column, missing):
    covariates = study.covariates.astype(object)
    covariates.loc[11, column] = missing
    with pytest.raises(ValueError, match=f"subject sub0011 has no {column}"):
        fit(study, covariates=covariates)


def test_library_returns_nan_for_one_missing_age(study):
    age = study.covariates[["age"]].copy()
    age.loc[11, "age"] = np.nan
    assert np.isnan(library(study.x, study.site, age)).all()


def test_covariate_determined_by_site_is_named(study):
    field = pd.Series(study.site).map({"S00": 1.5, "S01": 3.0, "S02": 3.0}).to_numpy()
    with pytest.raises(ValueError, match="field is determined by site"):
        fit(study, covariates=study.covariates.assign(field=field))
    # the column's size is no matter, nor a rounding
    noise = 1e-9 * np.random.default_rng(0).normal(size=len(field))
    for column in (1e6 * field, 1e-6 * field * (1 + noise), 1e6 + field):
        with pytest.raises(ValueError, match="field is determined by site"):
            fit(study, covariates=pd.DataFrame({"field": column}))


def test_constant_and_collinear_covariates_are_named(study):
    with pytest.raises(ValueError, match="scanner is the same"):
        fit(study, covariates=study.covariates.assign(scanner=0.1))
    months = 12 * study.covariates.age + 10 * (study.site == "S01")
    with pytest.raises(ValueError, match="months is determined by site and age, sex=M together"):
        fit(study, covariates=study.covariates.assign(months=months))


def test_covariate_that_varies_little_within_site_is_used(study):
    day = pd.Series(study.site).map({"S00": 730_000, "S01": 730_060, "S02": 730_100}) + np.arange(len(study.site)) % 2
    assert fit(study, covariates=pd.DataFrame({"day": day})).covariates == ["day"]


def test_diagnosis_determined_by_site_is_refused_and_single_classes_are_warned_of(study, caplog):
    with pytest.raises(ValueError, match="label is determined by site"):
        fit(study, labels=(study.site == "S01").astype(int))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit(study, labels=study.label)
        assert caplog.messages == []
        fit(study, labels=np.where(study.site == "S01", 1, study.label))
    assert caplog.messages[-1].startswith("one class only at site S01:")
    with pytest.raises(ValueError, match="every label of the fit is 0"):
        fit(study, labels=np.zeros(len(study.label), int))
    with pytest.raises(ValueError, match="sub0001 has no label"):
        fit(study, labels=[0, None, *study.label[2:]])


def test_more_columns_than_subjects(study):
    few = np.r_[np.flatnonzero(study.site == "S00")[:3], np.flatnonzero(study.site == "S01")[:3]]
    many = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 4)), columns=list("abcd"))
    with pytest.raises(ValueError, match="6 subjects for 6 columns"):
        fit_combat(study.x[few], study.site[few], many, subjects=range(6))


def test_reference_site_that_is_not_there(study, capsys):
    harmonizationLearn(study.x, pd.DataFrame({"SITE": study.site}), ref_batch="S9")
    assert "Setting to None" in capsys.readouterr().out
    with pytest.raises(ValueError, match="reference site S9 is not among the sites S00, S01, S02"):
        fit(study, reference_site="S9")


def test_sites_of_mixed_type_are_texts(study):
    number = {"S00": 1, "S01": 2, "S02": 3}
    mixed = [str(number[s]) if i % 2 else number[s] for i, s in enumerate(study.site)]
    with pytest.raises(TypeError):
        library(study.x, mixed)
    affine = fit(study, sites=mixed, reference_site=2)
    assert affine.sites == ["1", "2", "3"]
    assert affine.count.tolist() == [12, 15, 30]
    assert affine.index([2, "2"]).tolist() == [1, 1]


def test_site_or_subject_missing_or_twice(study):
    with pytest.raises(ValueError, match="subject sub0004 has no site"):
        fit(study, sites=[*study.site[:4], None, *study.site[5:]])
    with pytest.raises(ValueError, match="subject sub0003 is listed twice"):
        fit(study, subjects=[*study.subject[:-1], "sub0003"])
    with pytest.raises(ValueError, match="no subject"):
        fit(study, subjects=[*study.subject[:-1], ""])
    with pytest.raises(ValueError, match="at least two sites"):
        fit(study, sites=["A"] * len(study.site))


def test_tables_that_do_not_fit(study):
    with pytest.raises(ValueError, match="real dtype"):
        fit(study, features=study.x.astype(object))
    with pytest.raises(ValueError, match="real dtype"):
        fit(study, features=study.x.astype(complex))
    with pytest.raises(ValueError, match="57 subjects and 8 feature names"):
        fit(study, features=study.x[:-1])
    with pytest.raises(ValueError, match="56 sites for 57"):
        fit(study, sites=study.site[:-1])
    with pytest.raises(ValueError, match="56 rows of covariates"):
        fit(study, covariates=study.covariates[:-1])
    with pytest.raises(ValueError, match="56 labels for 57"):
        fit(study, labels=study.label[:-1])


def test_feature_that_site_and_age_explain_is_named(study):
    x = study.x.copy()
    x[:, 1] = 3 * study.covariates.age + (study.site == "S01")
    with pytest.raises(ValueError, match="feature #1 is determined"):
        fit(study, features=x)
    with pytest.raises(ValueError, match="1 of 2 features vary"):
        fit(study, features=np.column_stack([study.x[:, 0], np.ones(len(x))]))


def test_text_columns_are_coded_by_name(study):
    numbers = study.covariates.assign(sex=(study.covariates.sex == "M").astype(float))
    text, coded = (estimate_combat(study.x, study.site, c, subjects=study.subject) for c in (study.covariates, numbers))
    assert text.columns == ("age", "sex=M")
    assert text.centre[1] == (study.covariates.sex == "M").mean() != 0.5
    np.testing.assert_array_equal(text.gamma_star, coded.gamma_star)
    texts = study.covariates.assign(age=study.covariates.age.map(repr))
    np.testing.assert_array_equal(estimate_combat(study.x, study.site, texts, subjects=study.subject).beta, text.beta)
    for wrong, said in (["a", "b", "c"], "hand has the values a, b, c"), (["a", "a", "a"], "hand is a for everybody"):
        with pytest.raises(ValueError, match=said):
            fit(study, covariates=study.covariates.assign(hand=wrong * 19))
    with pytest.raises(ValueError, match="age mixes numbers and texts such as 'old'"):
        fit(study, covariates=study.covariates.assign(age=["12", "13", "old"] * 19))


def test_three_classes_are_two_columns(study):
    labels = np.arange(len(study.label)) % 3
    assert fit(study, labels=labels, covariates=None).covariates == ["label=1", "label=2"]
    with pytest.raises(ValueError, match="label twice"):
        fit(study, labels=study.label, covariates=pd.DataFrame({"label": study.label}))
