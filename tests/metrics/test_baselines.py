import nibabel as nib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from custom.metrics import Baseline, LinearSVM, Unavailable, probabilities

NAMES = ["healthy", "ill"]


def study(n: int = 60, seed: int = 0, first: int = 0) -> list[dict]:
    """Two rows per subject; the ill are older and more often male."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(first, first + n):
        label = i % 2
        age, sex = float(rng.normal(70 + 10 * label, 5)), "M" if rng.random() < 0.3 + 0.4 * label else "F"
        rows += [{"subject": f"s{i:03}", "label": label, "Age": age, "Sex": sex, "image": f"{i}_{z}"} for z in (0, 1)]
    return rows


def auc(table) -> float:
    return roc_auc_score(table["label"], probabilities(table)[:, 1])


def test_majority_gives_the_class_frequencies():
    rows = [{"subject": str(i), "label": int(i == 0), "image": str(i)} for i in range(4)]
    table = Baseline().fit(rows, NAMES).predict_proba(rows)
    assert probabilities(table).tolist() == [[0.75, 0.25]] * 4
    assert table["predicted"].tolist() == [0] * 4


def test_columns_learn_and_table_is_by_subject():
    table = Baseline(["Age", "Sex"]).fit(study(), NAMES).predict_proba(study(40, seed=1, first=60))
    assert list(table.columns) == ["subject", "label", "predicted", "rows", "p_healthy", "p_ill"]
    assert len(table) == 40
    assert (table["rows"] == 2).all()
    assert auc(table) > 0.8
    np.testing.assert_allclose(probabilities(table).sum(1), 1)


def test_number_of_rows_of_a_subject_does_not_weigh():
    once = [r for r in study() if r["image"].endswith("_0")]
    test = study(10, seed=1, first=60)
    a, b = (probabilities(Baseline(["Age"]).fit(rows, NAMES).predict_proba(test)) for rows in (once, study()))
    np.testing.assert_allclose(a, b)


def test_unseen_text_is_all_zeros():
    test = [dict(study()[0], Sex="unknown")]
    assert len(Baseline(["Sex"]).fit(study(), NAMES).predict_proba(test)) == 1


def test_other_estimator_is_not_fitted_in_place():
    forest = RandomForestClassifier(20, random_state=0)
    table = Baseline(["Age"], estimator=forest).fit(study(), NAMES).predict_proba(study(40, seed=1, first=60))
    assert auc(table) > 0.7
    assert not hasattr(forest, "classes_")


def test_class_without_training_subjects_has_probability_zero():
    training, test = ([r | {"label": 2 * r["label"]} for r in rows] for rows in (study(), study(40, 1, first=60)))
    table = Baseline(["Age"]).fit(training, ["healthy", "never seen", "ill"]).predict_proba(test)
    assert table.columns[-3:].tolist() == ["p_healthy", "p_never seen", "p_ill"]
    assert (table["p_never seen"] == 0).all()
    assert (table["predicted"] == table["label"]).mean() > 0.7


@pytest.mark.parametrize("baseline", [Baseline(), Baseline(["Age"]), Baseline(["Age"], estimator=LinearSVM())])
def test_training_subjects_of_one_class_predict_that_class(baseline):
    training = [row for row in study() if row["label"] == 1]
    table = baseline.fit(training, NAMES).predict_proba(study(10, seed=1, first=60))
    assert probabilities(table).tolist() == [[0, 1]] * 10


@pytest.mark.parametrize("classes", [2, 3])
def test_pixels_learn(tmp_path, classes):
    rng, rows = np.random.default_rng(0), []
    for i in range(45):
        array = rng.normal(size=(16, 16, 1)).astype(np.float32)
        array[: 5 * (i % classes)] += 1.5
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{i}.nii")
        rows.append({"subject": f"{i:02}", "label": i % classes, "image": str(tmp_path / f"{i}.nii")})
    names = ["a", "b", "c"][:classes]
    table = Baseline(image_size=8).fit(rows[:30], names).predict_proba(rows[30:])
    assert (table["predicted"] == table["label"]).mean() > 0.8
    np.testing.assert_allclose(probabilities(table).sum(1), 1)


def test_own_features():
    baseline = Baseline(features=lambda units: np.array([[rows[0]["Age"]] for rows in units.values()]))
    assert auc(baseline.fit(study(), NAMES).predict_proba(study(40, seed=1, first=60))) > 0.8


def test_unit_other_than_subject():
    rows = [dict(r, block=r["image"], label=int(r["image"].endswith("1"))) for r in study(4)]
    table = Baseline().fit(rows, NAMES, unit="block").predict_proba(rows)
    assert list(table.columns[:3]) == ["block", "subject", "label"]
    assert len(table) == 8


def test_refuses():
    with pytest.raises(Unavailable, match="nWBV"):
        Baseline(["nWBV"]).fit(study(), NAMES)
    with pytest.raises(ValueError, match="one of columns"):
        Baseline(["Age"], image_size=8)
    with pytest.raises(ValueError, match="no rows"):
        Baseline().fit([], NAMES)
    with pytest.raises(ValueError, match=r"s000 has the labels \[0, 1\]"):
        Baseline().fit([dict(r, label=i % 2) for i, r in enumerate(study(2))], NAMES)
    with pytest.raises(ValueError, match="no column 'block'"):
        Baseline().fit(study(2), NAMES, unit="block")
