"""Pictures of generated windows beside real ones, see :py:mod:`custom.metrics.generation`.

A map is shown as its middle axial slice, X to the right and Y upwards as in RAS. What is compared has one colour scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ..metrics.class_maps import class_mean_maps
from ..metrics.generation import comparable
from ..metrics.memorisation import Neighbours, nearest_neighbour_ratio
from ..metrics.window_set import GenerationData, read_generation
from ..metrics.window_statistics import WindowStatistics, correlation, window_statistics
from ..paths import written_whole
from .displays import COLOURS, new_figure

__all__ = [
    "agreement_figure",
    "class_map_figure",
    "connectivity_figure",
    "film_figure",
    "ratio_figure",
    "write_generation_pictures",
]

WIDEST = 8  # panels in a row of a film; longer films are thinned


def write_generation_pictures(samples_dir: str, datalist: dict, output_dir: str, frames: int, seed: int = 0) -> dict[str, str]:
    """Write the pictures of generated windows.

    Args:
        samples_dir: folder with ``samples.json``, see :py:func:`custom.metrics.window_set.read_samples`. Where it names a
            ``film``, ``{"z": path of a .npy file (N, steps, F, X, Y, Z), "titles": N names}``, that is shown too.
        datalist: with windows of runs in ``training`` and ``test``.
        output_dir: receives the files.
        frames: of a window.
        seed: as for :py:func:`custom.metrics.generation.evaluate_generation`.

    Returns:
        What is shown → file name. Class maps need a class that was generated and held out, the histogram two test windows.

    Raises:
        FileNotFoundError: if samples are missing.
        ValueError: as :py:func:`custom.metrics.window_set.read_generation`.
    """
    data = read_generation(samples_dir, datalist, frames)
    figures = _figures(data, seed)
    film = json.loads((Path(samples_dir) / "samples.json").read_text()).get("film")
    if film:
        figures["film"] = film_figure(np.load(Path(samples_dir) / film["z"]) * data.mask, film["titles"])
    names = {}
    for name, figure in figures.items():
        names[name] = f"generation_{name}.png"
        with written_whole(Path(output_dir) / names[name]) as temporary:
            figure.savefig(temporary, dpi=110)
    return names


def class_map_figure(real_maps: np.ndarray, fake_maps: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Mean maps of every class, real above generated; the title of a column tells the correlation of its maps in the brain.

    Args:
        real_maps: (C, X, Y, Z), 0 outside the brain.
        fake_maps: (C, X, Y, Z).
        class_names: of the C classes.

    Raises:
        ValueError: if there is not one real and one generated map of every class, on one grid.
    """
    if real_maps.shape != fake_maps.shape or real_maps.ndim != 4 or len(class_names) != len(real_maps):
        raise ValueError(
            f"real maps {real_maps.shape}, generated maps {fake_maps.shape} and {len(class_names)} names: one (X, Y, Z) each."
        )
    inside = (real_maps != 0).any(0)
    rows = {"real, held out": real_maps, "generated": fake_maps}
    found = [correlation(a[inside], b[inside]) for a, b in zip(real_maps, fake_maps, strict=True)]
    titles = [f"{n}\nr = {'undefined' if r is None else f'{r:.2f}'}" for n, r in zip(class_names, found, strict=True)]
    return _grid(rows, inside, titles, "class mean (z)")


def film_figure(film: np.ndarray, titles: Sequence[str]) -> Figure:
    """Denoising from left to right, a sample per row: the middle frame of the window at up to eight steps.

    Args:
        film: (N, steps, F, X, Y, Z), 0 outside the brain in the last step.
        titles: of the N samples.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if film.ndim != 6 or len(titles) != len(film) or 0 in film.shape:
        raise ValueError(f"a film of shape {film.shape} for {len(titles)} titles: (N, steps, F, X, Y, Z) is wanted.")
    steps = np.unique(np.linspace(0, film.shape[1] - 1, min(WIDEST, film.shape[1])).round().astype(int))
    shown = film[:, steps, film.shape[2] // 2]
    inside = (shown[:, -1] != 0).any(0)
    return _grid(dict(zip(titles, shown, strict=True)), inside, [f"step {s + 1} of {film.shape[1]}" for s in steps], "z")


def connectivity_figure(matrices: Mapping[str, np.ndarray]) -> Figure:
    """Functional connectivity side by side, voxels in the order of an average-linkage tree of the first matrix.

    Args:
        matrices: title → (P, P) correlations of the same voxels; the title of the others tells how their upper triangle
            correlates with the first.
    """
    first = next(iter(matrices.values()))
    order = _order(first)
    pairs = np.triu_indices(len(first), 1)
    figure, axes = new_figure(len(matrices), width=3.6, height=3.9)
    limit = max(float(np.percentile(np.abs(first[pairs]), 99)), 1e-3) if len(first) > 1 else 1.0
    image: Any = None
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=True):
        image = ax.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        r = None if matrix is first else correlation(matrix[pairs], first[pairs])
        ax.set_title(title if r is None else f"{title}\nr = {r:.2f}", fontsize=10)
        ax.set(xticks=[], yticks=[], xlabel=f"{len(first)} voxels")
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.75)
    return figure


def agreement_figure(real: WindowStatistics, fake: WindowStatistics, ceiling: WindowStatistics) -> Figure:
    """Every voxel as a point: variance, and lag-1 autocorrelation if defined, of generated and of training windows over real.

    Args:
        real: of the test runs.
        fake: of generated windows.
        ceiling: of as many training windows.
    """
    pairs = [("variance", real.variance, fake.variance, ceiling.variance)]
    if real.autocorrelation is not None and fake.autocorrelation is not None and ceiling.autocorrelation is not None:
        pairs.append(("lag-1 autocorrelation", real.autocorrelation, fake.autocorrelation, ceiling.autocorrelation))
    figure, axes = new_figure(len(pairs))
    for ax, (name, x, generated, training) in zip(axes, pairs, strict=True):
        for label, y, colour in (("training runs", training, "grey"), ("generated", generated, COLOURS[0])):
            r = correlation(x, y)
            text = label if r is None else f"{label} (r = {r:.2f})"
            ax.scatter(x, y, s=9, alpha=0.45, color=colour, label=text, linewidths=0)
        both = np.concatenate([x, generated, training])
        ends = np.percentile(both, [0, 100])
        ax.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
        ax.set_ylim(top=ends[1] + 0.2 * (ends[1] - ends[0]))  # room for the legend
        ax.set(xlabel="real, held out", ylabel="generated, or training runs", title=f"{name} of the voxels")
        ax.title.set_fontsize(10)
        ax.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def ratio_figure(neighbours: Neighbours) -> Figure:
    """Histogram of the nearest training over the nearest held-out distance, of samples and of held-out windows."""
    figure, (ax,) = new_figure(width=5.4, height=3.6)
    generated, real = neighbours.full_ratio, neighbours.reference_full_ratio
    low, high = np.percentile(np.concatenate([generated, real]), [0, 100])
    bins = np.linspace(low - 0.02, high + 0.02, 26).tolist()
    ax.hist(real, bins, weights=np.full(len(real), 1 / len(real)), color="grey", alpha=0.6, label="held-out runs")
    weights = np.full(len(generated), 1 / len(generated))
    ax.hist(generated, bins, weights=weights, histtype="step", color=COLOURS[0], linewidth=1.8, label="generated")
    ax.axvline(real.min(), color=COLOURS[1], linewidth=1, linestyle="--", label="lowest of held-out runs")
    ax.set(
        xlabel="nearest training / nearest held-out distance", ylabel="share", title=f"Nearest neighbours: {neighbours.verdict}"
    )
    ax.title.set_fontsize(10)
    ax.legend(fontsize=8, frameon=False)
    return figure


def _figures(data: GenerationData, seed: int) -> dict[str, Figure]:
    fake, train, test = (window_statistics(s.values, data.mask, seed) for s in comparable(data, seed))
    figures = {
        "connectivity": connectivity_figure(
            {"real, held out": test.connectivity, "generated": fake.connectivity, "training runs": train.connectivity}
        ),
        "agreement": agreement_figure(test, fake, train),
    }
    if data.classes:
        real_maps, fake_maps = (class_mean_maps(s.values, s.labels, data.classes) * data.mask for s in (data.test, data.fake))
        figures["class_maps"] = class_map_figure(real_maps, fake_maps, [data.class_names[c] for c in data.classes])
    if len(data.test) > 1:
        sets = (data.fake.values, data.train.values, data.test.values)
        figures["neighbours"] = ratio_figure(nearest_neighbour_ratio(*sets, data.mask, "frame", seed=seed))
    return figures


def _grid(rows: Mapping[str, np.ndarray], inside: np.ndarray, titles: Sequence[str], label: str) -> Figure:
    """Panels of maps (columns, X, Y, Z), a row each, on one symmetric scale, with its bar."""
    z = inside.shape[-1] // 2
    values = np.concatenate([maps[:, inside].ravel() for maps in rows.values()]) if inside.any() else np.zeros(1)
    limit = max(float(np.percentile(np.abs(values), 99)), 1e-6)
    height = 1.5 * inside.shape[1] / inside.shape[0]
    figure, axes = new_figure(len(rows) * len(titles), width=1.5, height=max(height, 0.7) + 0.25, columns=len(titles))
    image: Any = None
    for r, (name, maps) in enumerate(rows.items()):
        for c, title in enumerate(titles):
            ax = axes[r * len(titles) + c]
            image = _panel(ax, np.where(inside, maps[c], np.nan)[..., z], limit)
            if r == 0:
                ax.set_title(title, fontsize=9)
            if c == 0:
                ax.set_ylabel(name, fontsize=8)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8 if len(rows) < 4 else 0.4, aspect=15)
    return figure


def _panel(ax: Axes, values: np.ndarray, limit: float) -> AxesImage:
    ax.set(xticks=[], yticks=[], facecolor="0.9")
    ax.spines[:].set_visible(False)
    return ax.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")


def _order(matrix: np.ndarray) -> np.ndarray:
    if len(matrix) < 3:
        return np.arange(len(matrix))
    distance = (1 - matrix).clip(min=0)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average"))
