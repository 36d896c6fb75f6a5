"""Pictures of a predictions table: one matplotlib figure per function, without pyplot's global state.

A predictions table has one line per subject: ``label``, ``predicted``, ``p_<class>`` ...; ``fold`` for pooled folds.
Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay, auc, roc_curve

from ..metrics.aggregate import probabilities
from ..metrics.evaluation import NETWORK

__all__ = [
    "COLOURS",
    "calibration_curve",
    "confusion_matrix",
    "new_figure",
    "precision_recall_curves",
    "probability_strips",
    "roc_curves",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def new_figure(
    panels: int = 1, width: float = 4.6, height: float = 4.2, columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, at most ``columns`` in a row; width and height of a panel in inches."""
    across = min(panels, columns or panels)
    rows = -(-panels // across)
    figure = Figure(figsize=(width * across, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, across, i + 1) for i in range(panels)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def confusion_matrix(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Counts of subjects, coloured by the share of the true class."""
    side = max(4.2, 0.9 * len(class_names) + 1.5)
    figure, (ax,) = new_figure(width=side + 0.4, height=side)
    options = {"labels": range(len(class_names)), "display_labels": class_names, "colorbar": False, "ax": ax}
    display = ConfusionMatrixDisplay.from_predictions(table["label"], table["predicted"], cmap="Blues", **options)
    counts = display.confusion_matrix
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    display.im_.set(array=share, clim=(0, 1))
    for (i, j), text in np.ndenumerate(display.text_):
        text.set(color="white" if share[i, j] > 0.5 else "black", fontsize=12)
        text.set_text(f"{counts[i, j]}\n{share[i, j]:.0%}" if totals[i, 0] else f"{counts[i, j]}")
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class", title="Confusion matrix (number, share of true class)")
    ax.title.set_fontsize(10)
    return figure


def roc_curves(tables: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> Figure:
    """Receiver operating characteristic; with folds, the mean of their curves and the network's folds thinly behind it.

    Args:
        tables: model -> predictions table, first that of ``"network"``. Two classes: one curve per model; a baseline
            that says the same of everyone has none. More classes: one curve per class of the network, against the rest.
        class_names: names in the order of the indices.
    """
    figure, (ax,) = new_figure(width=5, height=4.8)
    for k, (name, table, positive) in enumerate(_curves(tables, class_names)):
        score = probabilities(table)[:, positive]
        folds = table["fold"] if "fold" in table else pd.Series(0, index=table.index)
        curves = [
            roc_curve(table["label"][folds == f] == positive, score[folds == f], drop_intermediate=False)[:2]
            for f in sorted(folds.unique())
            if (table["label"][folds == f] == positive).nunique() == 2
        ]
        if not curves:
            continue
        if k == 0 and len(curves) > 1:
            for x, y in curves:
                ax.plot(x, y, color=COLOURS[0], alpha=0.25, linewidth=1)
        x, y, area = _mean_curve(curves)
        style = {"color": COLOURS[k % 7], "linestyle": STYLES[k % 7], "linewidth": 2.2 if k == 0 else 1.4}
        RocCurveDisplay(fpr=x, tpr=y, roc_auc=area, name=name).plot(ax=ax, curve_kwargs=style)
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    ax.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curves", aspect="equal")
    _legend(ax, "lower right")
    return figure


def precision_recall_curves(tables: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> Figure:
    """Precision against recall; the arguments are those of :func:`roc_curves`, folds are pooled."""
    figure, (ax,) = new_figure(width=5, height=4.8)
    for k, (name, table, positive) in enumerate(_curves(tables, class_names)):
        truth = table["label"] == positive
        if truth.any():
            style = {"color": COLOURS[k % 7], "linestyle": STYLES[k % 7], "linewidth": 2.2 if k == 0 else 1.4}
            PrecisionRecallDisplay.from_predictions(
                truth, probabilities(table)[:, positive], name=name, ax=ax, curve_kwargs=style
            )
    ax.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(-0.02, 1.02), ylim=(0, 1.05))
    _legend(ax, "lower left")
    return figure


def calibration_curve(table: pd.DataFrame, class_names: Sequence[str], n_bins: int = 5) -> Figure:
    """Reliability diagram (quantile bins, so that every point stands for as many subjects) above a histogram."""
    figure = Figure(figsize=(5, 4.8), layout="constrained")
    ax, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    p = probabilities(table)
    for k, positive in enumerate([1] if len(class_names) == 2 else range(len(class_names))):
        truth = (table["label"] == positive).to_numpy()
        if 0 < truth.sum() < len(truth):
            CalibrationDisplay.from_predictions(
                truth, p[:, positive], n_bins=n_bins, strategy="quantile", ax=ax, name=class_names[positive],
                color=COLOURS[k % 7], marker="osD^vPX"[k % 7], ref_line=k == 0,
            )  # fmt: skip
        below.hist(p[:, positive], bins=20, range=(0, 1), color=COLOURS[k % 7], histtype="step", linewidth=1.5)
    for axes in (ax, below):
        axes.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="", ylabel="observed share", title="Calibration", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    below.set(xlabel="predicted probability of the class", ylabel="number")
    _legend(ax, "upper left")
    return figure


def probability_strips(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Every subject as a point: the probability of a class, by true class, with the median."""
    shown = [1] if len(class_names) == 2 else list(range(len(class_names)))
    figure, axes = new_figure(len(shown), width=4.6 if len(shown) == 1 else 3.2, height=4)
    p, rng = probabilities(table), np.random.default_rng(0)
    for ax, positive in zip(axes, shown, strict=True):
        for c in range(len(class_names)):
            values = p[(table["label"] == c).to_numpy(), positive]
            if len(values):
                ax.scatter(c + rng.uniform(-0.22, 0.22, len(values)), values, s=16, alpha=0.65, color=COLOURS[c % 7])
                ax.hlines(np.median(values), c - 0.32, c + 0.32, color="black", linewidth=1.8)
        if len(class_names) == 2:
            ax.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        ax.set_xticks(range(len(class_names)), class_names, rotation=0 if len(class_names) < 3 else 30)
        ax.set(xlabel="true class", ylabel=f"probability of {class_names[positive]}", ylim=(-0.03, 1.03))
        ax.yaxis.set_major_formatter(FormatStrFormatter("%.1f"))
    figure.suptitle("Probabilities", fontsize=11)
    return figure


def _curves(tables: Mapping[str, pd.DataFrame], class_names: Sequence[str]) -> list[tuple[str, pd.DataFrame, int]]:
    """Name, table and positive class of each curve; a constant prediction has none but the diagonal."""
    if len(class_names) == 2:
        return [(name, t, 1) for name, t in tables.items() if name == NETWORK or not _constant(t)]
    return [(name, tables[NETWORK], c) for c, name in enumerate(class_names)]


def _constant(table: pd.DataFrame) -> bool:
    folds = [part for _, part in table.groupby("fold")] if "fold" in table else [table]
    return all(np.ptp(probabilities(part), axis=0).max() == 0 for part in folds)


def _mean_curve(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, float]:
    area = float(np.mean([auc(x, y) for x, y in curves]))
    if len(curves) == 1:
        return *curves[0], area
    grid = np.linspace(0, 1, 1001)
    mean = np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)
    return np.r_[0, grid], np.r_[0, mean], area


def _legend(ax: Axes, place: Literal["upper left", "lower left", "lower right"]) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc=place, fontsize=8, frameon=False)
