import json

import numpy as np
import pytest
from scipy.stats import levene
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import permutation_test_score

from custom.harmonization import compare, decodability, quality, site_quality


def table(effect: float, sites: int = 4, per_site: int = 15, features: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    site = np.array([f"S{i % sites}" for i in range(sites * per_site)], dtype=object)
    shift = dict(zip(np.unique(site), rng.normal(size=(sites, features)), strict=True))
    x = rng.normal(size=(len(site), features)) + effect * np.stack([shift[s] for s in site])
    return x, site, [str(i) for i in range(len(site))]


def test_strong_site_effect_is_seen_by_every_figure_and_none_by_none():
    strong, none = (site_quality(*table(effect), n_permutations=20) for effect in (6, 0))
    assert strong["site_accuracy"]["lda"] == strong["site_accuracy"]["forest"] == 1
    assert strong["omega_squared"]["mean"] > 0.7
    assert strong["significant"]["anova"] == strong["significant"]["kruskal"] == 1
    assert strong["silhouette"] > 0.5
    assert none["site_accuracy"]["chance"] == 0.25
    assert none["site_accuracy"]["lda"] < none["site_accuracy"]["lda_permuted_95"] < 0.45
    assert none["site_accuracy"]["forest"] < 0.45
    assert abs(none["omega_squared"]["mean"]) < 0.05
    assert set(none["significant"].values()) == {0}
    assert none["silhouette"] < 0.05


def test_spread_alone_is_seen_by_brown_forsythe_only():
    x, site, subject = table(0, per_site=40)
    x[site == "S1"] *= 4
    found = site_quality(x, site, subject, n_permutations=1)["significant"]
    assert found == {"anova": 0, "kruskal": 0, "brown_forsythe": 1}


def test_brown_forsythe_is_scipy_s_levene_about_the_median():
    x, site, _ = table(0, per_site=8)
    x[site == "S1"] *= 2.5
    p = [levene(*(x[site == s, k] for s in np.unique(site)), center="median").pvalue for k in range(6)]
    expected = (np.sort(p) * 6 / np.arange(1, 7))[::-1]
    assert quality._significant(x, site)["brown_forsythe"] == (np.minimum.accumulate(expected) < 0.05).mean()


def test_omega_squared_by_its_definition():
    x, site, _ = table(0.5)
    groups = [x[site == s, 0] for s in np.unique(site)]
    between = sum(len(g) * (g.mean() - x[:, 0].mean()) ** 2 for g in groups)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    error = within / (len(x) - 4)
    expected = (between - 3 * error) / (between + within + error)
    assert quality._omega_squared(x[:, :1], site)["max"] == pytest.approx(expected)


def test_bound_agrees_with_refitting_the_discriminant():
    x, site, _ = table(2, sites=3)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(3, 1 / 3))
    _, slow, _ = permutation_test_score(
        lda, x, site, cv=decodability.SPLIT, n_permutations=60, scoring="balanced_accuracy", random_state=0
    )
    fast = decodability.permuted_bound(x, site, 200)
    assert fast == pytest.approx(np.percentile(slow, 95), abs=0.05)


def test_small_sites_weigh_as_much_as_large_ones():
    x, site, _ = table(1.5, sites=8)
    # half of the subjects at one site: with priors by size the discriminant drops to 0.70
    order = np.argsort(site, kind="stable")
    x, site = x[order], site[order].copy()
    site[:60] = "large"
    assert decodability.lda_accuracy(x, site) > 0.78


def test_compare_is_json_and_counts_sites_and_classes():
    x, site, subject = table(6)
    site[:3] = "small"
    label = np.arange(len(x)) % 3 % 2
    found = compare(x, x, site, subject, label, fitted=True, n_permutations=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["fitted"] is True
    assert found["before"]["sites_left_out"] == ["small"]
    assert found["sites"]["small"] == {"n": 3, "classes": {"0": 2, "1": 1}}
    assert found["sites"]["S3"] == {"n": 15, "classes": {"0": 10, "1": 5}}


def test_too_few_subjects_or_constant_features_leave_figures_undefined():
    x, site, subject = table(1, per_site=4)
    few = site_quality(x, site, subject)
    assert few["sites_left_out"] == ["S0", "S1", "S2", "S3"]
    assert site_quality(*table(1, per_site=5), n_permutations=1)["sites_left_out"] == []
    assert few["site_accuracy"] is few["omega_squared"] is few["silhouette"] is None
    x, site, subject = table(6)
    x[:, 2] = 3
    assert site_quality(x, site, subject, n_permutations=1)["features"] == 5
    assert site_quality(np.ones_like(x), site, subject)["site_accuracy"] is None


def test_what_is_no_table_is_refused():
    x, site, subject = table(1)
    with pytest.raises(ValueError, match="listed twice"):
        site_quality(x, site, [*subject[:-1], "0"])
    with pytest.raises(ValueError, match="59 sites"):
        site_quality(x, site[:-1], subject)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="#1 of subject 3"):
        site_quality(x, site, subject)
