"""Baselines that the network has to beat, fitted on the same training subjects and judged on the same test subjects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from .aggregate import PREFIX
from .features import BlockMeans, column_table

__all__ = ["Baseline", "LinearSVM"]


class Baseline:
    """A scikit-learn classifier over what the datalist knows of a unit, or over its coarse pixels.

    * ``columns``: numbers are standardised, texts one-hot coded (an unseen text is all zeros); logistic regression.
    * ``image_size``: block means of the prepared images, standardised; :class:`LinearSVM`.
    * ``features``: function from {unit: rows} to an array (n_units, n_features), standardised; logistic regression.
    * none of them: the majority class with the class frequencies as probabilities.

    Args:
        columns: columns of the datalist.
        image_size: blocks per axis, see :class:`BlockMeans`.
        features: any other features of a unit.
        estimator: scikit-learn classifier with ``predict_proba``, in place of the one named above.
    """

    def __init__(
        self,
        columns: Sequence[str] = (),
        image_size: int | None = None,
        features: Callable[[dict[str, list[dict]]], np.ndarray] | None = None,
        estimator: BaseEstimator | None = None,
    ) -> None:
        if sum(map(bool, (columns, image_size, features))) > 1:
            raise ValueError("a baseline takes one of columns, image_size and features")
        self.columns, self.image_size, self.features, self.estimator = list(columns), image_size, features, estimator

    def fit(self, rows: list[dict], class_names: Sequence[str], unit: str = "subject") -> Baseline:
        """Fit on the rows of the training part; where they are all of one class, that class is predicted.

        Raises:
            Unavailable: not every unit has a value of one of the columns.
            ValueError: some units have two labels, or other views than the rest.
        """
        units = by_unit(rows, unit)
        self.class_names_, self.unit_ = list(class_names), unit
        labels = [label_of(name, members) for name, members in units.items()]
        model = self._pipeline() if len(set(labels)) > 1 else DummyClassifier(strategy="prior")
        self.model_ = model.fit(self._table(units), labels)
        return self

    def predict_proba(self, rows: list[dict]) -> pd.DataFrame:
        """Predictions table in the form of :func:`subject_table`; a class without training subjects gets 0."""
        units = by_unit(rows, self.unit_)
        p = np.zeros((len(units), len(self.class_names_)))
        p[:, self.model_.classes_] = self.model_.predict_proba(self._table(units))
        table = pd.DataFrame(p, columns=[PREFIX + name for name in self.class_names_])
        table.insert(0, "rows", [len(members) for members in units.values()])
        table.insert(0, "predicted", p.argmax(1))
        table.insert(0, "label", [label_of(name, members) for name, members in units.items()])
        if self.unit_ != "subject":
            table.insert(0, "subject", [members[0]["subject"] for members in units.values()])
        table.insert(0, self.unit_, list(units))
        return table

    def _table(self, units: dict[str, list[dict]]) -> pd.DataFrame | np.ndarray:
        if self.columns:
            return column_table(units, self.columns)
        if self.image_size:
            return BlockMeans(self.image_size).table(units)
        return self.features(units) if self.features else np.zeros((len(units), 1))

    def _pipeline(self) -> BaseEstimator:
        if self.estimator is not None:
            estimator = clone(self.estimator)
        elif not (self.columns or self.image_size or self.features):
            estimator = DummyClassifier(strategy="prior")
        elif self.image_size:
            estimator = LinearSVM()
        else:
            estimator = LogisticRegression(class_weight="balanced", max_iter=1000)
        return make_pipeline(_encoder() if self.columns else StandardScaler(), estimator)


class LinearSVM(ClassifierMixin, BaseEstimator):
    """Linear support vector machine, one class against the rest, whose margins become probabilities by a fixed link.

    Platt scaling inside a cross-validation needs several subjects of every class, which a stage of two people does not
    have; the logistic function (softmax for more than two classes) of the margins keeps the ranks and needs none. The
    probabilities are valid but not calibrated.
    """

    def __init__(self, C: float = 1e-3) -> None:
        self.C = C

    def fit(self, X: np.ndarray, y: Sequence[int]) -> LinearSVM:
        """Fit on X of shape (n, n_features) and y of shape (n,)."""
        svm = SVC(kernel="linear", C=self.C, class_weight="balanced")
        self.svm_ = OneVsRestClassifier(svm).fit(X, y)
        self.classes_ = self.svm_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Array of shape (n, n_classes)."""
        margin = self.svm_.decision_function(X)
        if margin.ndim == 1:
            return np.stack([expit(-margin), expit(margin)], 1)
        return softmax(margin, axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Array of shape (n,): the most probable class."""
        return self.classes_[self.predict_proba(X).argmax(1)]


def by_unit(rows: list[dict], unit: str) -> dict[str, list[dict]]:
    """Rows grouped by unit, in sorted order of the units."""
    if not rows:
        raise ValueError("no rows: the datalist has an empty part")
    units: dict[str, list[dict]] = {}
    for row in rows:
        if unit not in row:
            raise ValueError(f"{row['image']}: no column {unit!r} in the datalist; prepare the study with this column")
        units.setdefault(str(row[unit]), []).append(row)
    return dict(sorted(units.items()))


def label_of(name: str, rows: list[dict]) -> int:
    """The one label of a unit."""
    labels = {row["label"] for row in rows}
    if len(labels) != 1:
        raise ValueError(f"{name} has the labels {sorted(labels)}: choose the unit that has one label")
    return labels.pop()


def _encoder() -> BaseEstimator:
    texts = make_column_selector(dtype_include=["object", "string"])
    numbers = make_column_selector(dtype_include="number")
    return make_column_transformer((OneHotEncoder(handle_unknown="ignore"), texts), (StandardScaler(), numbers))
