import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from custom.metrics import expected_calibration_error, figures

NAMES3 = ["none", "mild", "severe"]


def test_perfect_prediction():
    found = figures([0, 1, 2], np.eye(3), NAMES3)
    assert all(found[k] == 1 for k in ("accuracy", "balanced_accuracy", "macro_f1", "kappa", "mcc", "auc", "pr_auc"))
    assert found["quadratic_kappa"] == 1
    assert found["ece"] == pytest.approx(0)
    assert found["log_loss"] == pytest.approx(0)


def test_binary_auc_is_that_of_class_one():
    y, p1 = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    found = figures(y, np.stack([1 - p1, p1], 1), ["healthy", "ill"])
    assert found["auc"] == found["auc_ill"] == 0.75
    assert found["recall_healthy"] == 1
    assert found["recall_ill"] == 0.5
    assert found["balanced_accuracy"] == 0.75


def test_multiclass_auc_is_scikit_learns_macro_one_versus_rest():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    assert figures(y, p, NAMES3)["auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))


def test_precision_recall_area_is_the_mean_precision_at_the_positives():
    y, p1 = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    found = figures(y, np.stack([1 - p1, p1], 1), ["healthy", "ill"])
    assert found["pr_auc"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_precision_recall_area_of_a_constant_score_is_the_share_of_the_class():
    y = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    assert figures(y, np.full((8, 2), 0.5), ["healthy", "ill"])["pr_auc"] == 0.25


def test_multiclass_precision_recall_area_is_scikit_learns_macro_mean():
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    assert figures(y, p, NAMES3)["pr_auc"] == pytest.approx(sk.average_precision_score(np.eye(3)[y], p, average="macro"))


def test_kappa_is_agreement_beyond_chance():
    # 6 of 8 right; by chance (4 · 6 + 4 · 2) / 64 = 1/2
    y, said = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 0, 0, 1, 1])
    assert figures(y, np.eye(2)[said], ["healthy", "ill"], ordinal=False)["kappa"] == pytest.approx((0.75 - 0.5) / 0.5)


def test_absent_class_is_nan_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = figures([0, 1, 0, 1], np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]] * 2), NAMES3)
    assert np.isnan(found["auc_severe"])
    assert np.isnan(found["recall_severe"])
    assert found["auc"] == 1
    assert found["balanced_accuracy"] == 1
    assert found["macro_f1"] == 1


def test_single_class_leaves_only_what_is_defined():
    found = figures([1, 1], np.array([[0.2, 0.8], [0.6, 0.4]]), ["healthy", "ill"])
    assert found["accuracy"] == 0.5
    assert all(np.isnan(found[k]) for k in ("auc", "pr_auc", "mcc", "kappa", "recall_healthy"))
    assert np.isnan(found["quadratic_kappa"])


def test_kappa_only_for_ordered_classes():
    assert "quadratic_kappa" not in figures([0, 1], np.eye(2), ["left", "right"], ordinal=False)


def test_calibration_error_of_known_bins():
    # eight predictions at 0.75 of which six are right, two at 0.95 of which one is right
    p = np.array([0.75] * 8 + [0.95] * 2)
    y = np.array([1] * 6 + [0] * 2 + [1, 0])
    assert expected_calibration_error(y, np.stack([1 - p, p], 1)) == pytest.approx(0.2 * 0.45, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "p"),
    [([0, 2], np.eye(2)), ([0, -1], np.eye(2)), ([0], np.eye(2)), ([0, 1], np.full((2, 2), np.nan)), ([], np.eye(2))],
)
def test_refuses(labels, p):
    with pytest.raises(ValueError, match="labels"):
        figures(labels, p, ["healthy", "ill"])
