from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from custom.metrics import probabilities
from custom.visualize import calibration_curve, confusion_matrix, precision_recall_curves, probability_strips, roc_curves

THREE = ["none", "mild", "severe"]


def three_classes(absent: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    p, label = rng.dirichlet(np.ones(3), 30), np.arange(30) % (2 if absent else 3)
    table = pd.DataFrame({"subject": range(30), "label": label, "predicted": p.argmax(1), "rows": 1})
    return table.assign(**{f"p_{name}": p[:, c] for c, name in enumerate(THREE)})


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_confusion_matrix_shows_counts_and_shares(predictions):
    figure = confusion_matrix(predictions, ["a", "b"])
    expected = pd.crosstab(predictions["label"], predictions["predicted"]).to_numpy()
    shown = [t.get_text().split("\n") for t in figure.axes[0].texts]
    assert [int(count) for count, _ in shown] == expected.ravel().tolist()
    assert [share for _, share in shown] == [f"{x:.0%}" for x in (expected / expected.sum(1, keepdims=True)).ravel()]


def test_roc_of_two_classes_has_a_curve_per_model_but_not_of_a_constant(predictions):
    constant = predictions.copy()
    constant.iloc[:, -2:] = 0.5
    figure = roc_curves({"network": predictions, "age": predictions, "majority class": constant}, ["a", "b"])
    area = roc_auc_score(predictions["label"], probabilities(predictions)[:, 1])
    assert legend(figure) == [f"network (AUC = {area:.2f})", f"age (AUC = {area:.2f})"]


def test_roc_of_folds_is_the_mean_of_their_areas(predictions):
    folds = predictions.assign(fold=np.arange(20) // 10)
    areas = [roc_auc_score(t["label"], probabilities(t)[:, 1]) for _, t in folds.groupby("fold")]
    assert legend(roc_curves({"network": folds}, ["a", "b"])) == [f"network (AUC = {np.mean(areas):.2f})"]


def test_roc_of_three_classes_has_a_curve_per_class_that_occurs():
    assert [t.split(" ")[0] for t in legend(roc_curves({"network": three_classes()}, THREE))] == THREE
    assert [t.split(" ")[0] for t in legend(roc_curves({"network": three_classes(absent=True)}, THREE))] == THREE[:2]


def test_strips_have_one_point_per_subject(predictions):
    (ax,) = probability_strips(predictions, ["a", "b"]).axes
    points = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets()) > 1])
    np.testing.assert_allclose(sorted(points[:, 1]), sorted(probabilities(predictions)[:, 1]))
    assert len(probability_strips(three_classes(), THREE).axes) == 3


def test_calibration_points_are_observed_shares(predictions):
    line = next(line for line in calibration_curve(predictions, ["a", "b"], n_bins=2).axes[0].lines if line.get_label() == "b")
    order = np.argsort(probabilities(predictions)[:, 1])
    halves = np.array_split(predictions["label"].to_numpy()[order], 2)
    np.testing.assert_allclose(line.get_ydata(), [half.mean() for half in halves])


@pytest.mark.parametrize("draw", [roc_curves, precision_recall_curves])
@pytest.mark.parametrize("absent", [False, True])
def test_curves_of_three_classes_can_be_drawn(draw, absent):
    draw({"network": three_classes(absent)}, THREE).savefig(BytesIO(), dpi=30)


@pytest.mark.parametrize("draw", [confusion_matrix, calibration_curve, probability_strips])
@pytest.mark.parametrize("absent", [False, True])
def test_tables_of_three_classes_can_be_drawn(draw, absent):
    draw(three_classes(absent), THREE).savefig(BytesIO(), dpi=30)


def test_pyplot_holds_no_figure(predictions):
    roc_curves({"network": predictions}, ["a", "b"])
    confusion_matrix(predictions, ["a", "b"])
    assert plt.get_fignums() == []
