import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from custom.metrics import bootstrap, figures, paired_difference
from custom.metrics.bootstrap import auc_within, percentile_interval, resample, weighted_auc, weighted_figures


def study(n: int, k: int, seed: int, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    logits = rng.normal(size=(n, k)) + skill * np.eye(k)[y]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return y, np.round(p, 1) / np.round(p, 1).sum(1, keepdims=True), [f"c{i}" for i in range(k)]  # rounded: ties


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_weighted_figures_are_those_of_scikit_learn_on_the_repeated_subjects(k, seed):
    y, p, names = study(23, k, seed)
    weights = resample(len(y), n=10, seed=seed)
    fast = weighted_figures(y, p, weights, names)
    for r, w in enumerate(weights.astype(int)):
        slow = figures(np.repeat(y, w), np.repeat(p, w, axis=0), names)
        assert slow.keys() == fast.keys()
        for name in slow:
            np.testing.assert_allclose(fast[name][r], slow[name], atol=2e-6, err_msg=name)


def test_degenerate_resamples_agree_too():
    y, p = np.array([0, 0, 1, 2]), np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0.9, 0.1, 0], [1, 0, 0]])
    weights = np.array([[4, 0, 0, 0], [2, 0, 2, 0], [0, 0, 4, 0], [0, 1, 1, 2]])
    fast = weighted_figures(y, p, weights.astype(float), ["a", "b", "c"])
    for r, w in enumerate(weights):
        for name, value in figures(np.repeat(y, w), np.repeat(p, w, axis=0), ["a", "b", "c"]).items():
            np.testing.assert_allclose(fast[name][r], value, atol=2e-6, err_msg=name)


def test_same_seed_same_interval_other_seed_another():
    y, p, names = study(40, 2, 0)
    assert bootstrap(y, p, names, seed=3) == bootstrap(y, p, names, seed=3) != bootstrap(y, p, names, seed=4)


def test_interval_of_accuracy_is_the_binomial_one():
    y, hit = np.ones(400, int), np.arange(400) < 280
    p1 = np.where(hit, 0.9, 0.1)
    found = bootstrap(y, np.stack([1 - p1, p1], 1), ["a", "b"], n=4000)["accuracy"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert found["value"] == 0.7
    assert found["low"] == pytest.approx(0.7 - half, abs=0.01)
    assert found["high"] == pytest.approx(0.7 + half, abs=0.01)


def test_interval_covers_the_true_auc_about_as_often_as_it_says():
    truth = 0.7602  # of two unit normals one apart: Phi(1 / sqrt(2))
    rng, y, covered = np.random.default_rng(0), np.arange(80) % 2, []
    for seed in range(400):
        p1 = 1 / (1 + np.exp(-(rng.normal(size=80) + y)))
        samples = weighted_auc(y == 1, p1, resample(80, n=300, seed=seed))
        found = percentile_interval(truth, samples)
        covered.append(found["low"] <= truth <= found["high"])
    # 0.93 in 1500 trials; four standard errors to either side
    assert 0.88 < np.mean(covered) < 0.98


def test_folds_average_and_resample_within():
    y, p, names = study(60, 2, 1)
    folds = np.arange(60) // 2 % 5
    found = bootstrap(y, p, names, folds=folds)
    expected = np.mean([figures(y[folds == f], p[folds == f], names)["auc"] for f in range(5)])
    assert found["auc"]["value"] == pytest.approx(expected)
    # a fold of one subject cannot vary when subjects are drawn within folds
    alone = bootstrap(y[:8], p[:8], names, folds=range(8))["accuracy"]
    assert alone["low"] == alone["high"] == alone["value"]


def test_fold_without_a_class_is_left_out_of_that_figure_only():
    y, p = np.array([0, 1, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.9, 0.1]])
    found = bootstrap(y, p, ["a", "b"], folds=[0, 0, 1, 1])
    assert found["auc"]["value"] == 1
    assert found["accuracy"]["value"] == 0.75


def test_undefined_figure_has_no_interval():
    found = bootstrap([0, 0, 0], np.tile([0.6, 0.4], (3, 1)), ["a", "b"])
    assert all(np.isnan(v) for v in found["auc"].values())
    assert found["accuracy"]["value"] == 1


def test_clusters_are_drawn_whole_and_widen_the_interval():
    weights = resample(6, clusters=["a", "a", "b", "b", "c", "c"], n=50)
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert (weights.sum(1) == 6).all()
    y, p, names = study(20, 2, 2)
    rows, groups = np.repeat(np.arange(20), 10), np.repeat(np.arange(20), 10)
    width = [
        np.ptp([v for k, v in bootstrap(y[rows], p[rows], names, clusters=c)["auc"].items() if k != "value"])
        for c in (None, groups)
    ]
    assert width[1] > 2 * width[0]


def test_difference_with_itself_is_exactly_zero():
    y, p, names = study(40, 3, 0)
    assert paired_difference(p, p, y, names)["auc"] == {"value": 0, "low": 0, "high": 0}


def test_difference_is_antisymmetric_and_narrower_than_unpaired():
    y, a, names = study(80, 2, 0)
    noisy = 0.9 * a + 0.1 * study(80, 2, 9)[1]
    there, back = paired_difference(a, noisy, y, names), paired_difference(noisy, a, y, names)
    assert there["auc"]["value"] == pytest.approx(-back["auc"]["value"])
    assert there["auc"]["low"] == pytest.approx(-back["auc"]["high"])
    single = bootstrap(y, a, names)["auc"]
    assert there["auc"]["high"] - there["auc"]["low"] < single["high"] - single["low"]


def sites(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A score that tells the sites, which differ in their share of cases, and nothing else."""
    rng = np.random.default_rng(seed)
    site = rng.integers(4, size=n)
    return (rng.random(n) < site / 3).astype(int), site + 0.1 * rng.normal(size=n), site


def test_auc_within_groups_is_the_share_of_rightly_ordered_pairs():
    y, score, site = sites(60, 0)
    score = score + 0.05 * y
    pairs = [(score[i] > score[j]) for i in range(60) for j in range(60) if y[i] > y[j] and site[i] == site[j]]
    assert auc_within(y, score, site)["value"] == pytest.approx(np.mean(pairs))
    assert auc_within(y, score, np.zeros(60))["value"] == pytest.approx(roc_auc_score(y, score))


def test_knowing_the_site_is_worth_nothing_within_sites():
    y, score, site = sites(400, 1)
    found = auc_within(y, score, site)
    assert roc_auc_score(y, score) > 0.8
    assert found["low"] < 0.5 < found["high"]


def test_scores_of_different_folds_are_not_compared():
    y, score, site = sites(200, 2)
    fold = np.arange(200) % 2
    assert auc_within(y, score + 100 * fold, site, folds=fold) == auc_within(y, score - 100 * fold, site, folds=fold)


def test_auc_within_groups_of_one_class_is_undefined():
    y = np.array([0, 0, 1, 1])
    assert np.isnan(auc_within(y, np.arange(4.0), y)["value"])


def test_of_a_single_subject_there_is_no_interval():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 24)
    found = bootstrap(rng.integers(0, 2, 24), p, ["a", "b"], clusters=["one"] * 24, n=20)
    assert 0 < found["accuracy"]["value"] < 1
    assert np.isnan([found["accuracy"]["low"], found["accuracy"]["high"]]).all()
