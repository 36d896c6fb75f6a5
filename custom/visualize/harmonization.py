"""Picture of features before and after harmonization over sites."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from .displays import COLOURS, new_figure

__all__ = ["pca_picture"]

MARKERS = "osD^vPX"


def pca_picture(
    before: np.ndarray,
    after: np.ndarray,
    sites: Sequence[str],
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """First two principal components, the same subjects coloured by site above and by diagnosis below.

    Each column has components of its own: on those of the left, a site effect that harmonization left in other directions
    would not be seen.

    Args:
        before: (n, F) features.
        after: (n, F) harmonized features.
        sites: (n,).
        labels: (n,) class indices; None: no second row.
        class_names: names in the order of the indices.
    """
    rows = [("site", [str(site) for site in sites])]
    if labels is not None:
        names = class_names or [str(c) for c in range(int(max(labels)) + 1)]
        rows.append(("diagnosis", [names[int(label)] for label in labels]))
    figure, axes = new_figure(2 * len(rows), width=4.4, height=3.8, columns=2)
    points = {"before": _components(before), "after": _components(after)}
    for i, (what, groups) in enumerate(rows):
        for ax, (when, (xy, share)) in zip(axes[2 * i :], points.items(), strict=False):
            _scatter(ax, xy, groups)
            ax.set(title=f"{what}, {when}", xlabel=f"PC 1 ({share[0]:.0%})", ylabel=f"PC 2 ({share[1]:.0%})")
        axes[2 * i + 1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6, frameon=False)
    figure.suptitle("Features before and after harmonization (components fitted to each column)", fontsize=11)
    return figure


def _components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pca = PCA(2, svd_solver="full")
    return pca.fit_transform(StandardScaler().fit_transform(features)), pca.explained_variance_ratio_


def _scatter(ax: Axes, xy: np.ndarray, groups: list[str]) -> None:
    names = np.array(groups)
    for k, name in enumerate(sorted(set(groups))):
        # seven colours by seven shapes: the sites of ABIDE stay apart
        colour, marker = COLOURS[k % 7], MARKERS[k // 7 % 7]
        x, y = xy[names == name].T
        ax.scatter(x, y, s=9, alpha=0.65, linewidths=0, label=name, color=colour, marker=marker)
