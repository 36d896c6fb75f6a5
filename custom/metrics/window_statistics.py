"""What windows of BOLD are like, whatever their class: mean, variance, autocorrelation, connectivity, spatial spectrum.

Two sets of windows are compared by these, never window by window: a generator owes the right distribution, not the same noise.
Every figure has a bias of its own (below), which is the same in two sets of the same size and length; only such sets are
comparable, see :py:func:`.generation.compare_generation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["WindowStatistics", "check_windows", "compare_statistics", "correlation", "window_statistics"]

MANY, SUBSET = 600, 500  # of more voxels than MANY, the connectivity is that of SUBSET
HIGH = 0.25  # cycles per voxel, half the Nyquist frequency


@dataclass(frozen=True)
class WindowStatistics:
    """Statistics of a set of windows over the V voxels of a mask.

    Args:
        mean: (V,) mean over windows and frames.
        variance: (V,) about that mean, over windows and frames.
        autocorrelation: (V,) lag-1 autocorrelation across the frames of a window, pooled over windows; ``None`` for windows of
            fewer than 3 frames, where it is -1/2 or undefined whatever the data. Each window's own mean is removed, which
            biases it downwards: by about 1/F for white noise of F frames, by more for slow noise.
        connectivity: (P, P) correlation of voxels over all frames, each window's own mean removed, so that it is of the
            fluctuations within windows and not of the classes' different means; of windows of one frame the grand mean is
            removed. P = V, or 500 voxels drawn with the seed where there are more than 600.
        high_frequency: share of the frames' spatial power beyond 0.25 cycles per voxel, half the Nyquist frequency.
        constant: number of voxels that never vary within a window; their autocorrelation and their correlations are 0.
    """

    mean: np.ndarray
    variance: np.ndarray
    autocorrelation: np.ndarray | None
    connectivity: np.ndarray
    high_frequency: float
    constant: int


def window_statistics(windows: np.ndarray, mask: np.ndarray, seed: int = 0) -> WindowStatistics:
    """Compute the statistics of windows.

    Args:
        windows: (N, F, X, Y, Z), z-scored, finite.
        mask: (X, Y, Z) bool, the brain.
        seed: of the voxels that the connectivity is of, where there are many; sets that are compared need the same.

    Raises:
        ValueError: naming what does not fit, see :py:func:`check_windows`.
    """
    check_windows(windows, mask)
    values = windows[:, :, mask].astype(np.float64)
    frames = values.reshape(-1, values.shape[-1])
    within = values - (values.mean(1, keepdims=True) if values.shape[1] > 1 else values.mean(0, keepdims=True))
    energy = (within**2).sum((0, 1))
    varying = energy > 1e-12 * (values**2).sum((0, 1))  # float32 noise about a large constant is no signal
    return WindowStatistics(
        mean=frames.mean(0),
        variance=frames.var(0),
        autocorrelation=_lag_one(within, energy, varying) if values.shape[1] > 2 else None,
        connectivity=_connectivity(within.reshape(frames.shape), varying, seed),
        high_frequency=_high_frequency(windows, mask),
        constant=int((~varying).sum()),
    )


def compare_statistics(a: WindowStatistics, b: WindowStatistics) -> dict[str, float | None]:
    """Compare statistics ``a`` of some windows with those of real ones, ``b``, of the same mask and seed.

    Returns:
        ``mean_correlation``, ``mean_rmse``: of the voxels' means. ``variance_ratio_median``, ``…_q25``, ``…_q75``: of a's
        variance to b's, over voxels. ``lag1_mean``, ``lag1_reference``: mean autocorrelation in a and b; ``lag1_correlation``:
        of its maps. ``fc_distance``: 1 - correlation of the upper triangles of the connectivity. ``high_frequency_ratio``: of
        a's share to b's. ``None`` where undefined: a map is constant, or windows have fewer than 3 frames.
    """
    alive = b.variance > 0
    ratio = a.variance[alive] / b.variance[alive]
    q25, median, q75 = np.percentile(ratio, [25, 50, 75]) if alive.any() else (None, None, None)
    pairs = np.triu_indices(len(a.connectivity), 1)
    similar = correlation(a.connectivity[pairs], b.connectivity[pairs])
    lag_a, lag_b = a.autocorrelation, b.autocorrelation
    return {
        "mean_correlation": correlation(a.mean, b.mean),
        "mean_rmse": float(np.sqrt(np.mean((a.mean - b.mean) ** 2))),
        "variance_ratio_median": _number(median),
        "variance_ratio_q25": _number(q25),
        "variance_ratio_q75": _number(q75),
        "lag1_mean": float(lag_a.mean()) if lag_a is not None else None,
        "lag1_reference": float(lag_b.mean()) if lag_b is not None else None,
        "lag1_correlation": None if lag_a is None or lag_b is None else correlation(lag_a, lag_b),
        "fc_distance": None if similar is None else 1 - similar,
        "high_frequency_ratio": a.high_frequency / b.high_frequency if b.high_frequency > 0 else None,
    }


def check_windows(windows: np.ndarray, mask: np.ndarray, name: str = "windows") -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: no window, another shape than (N, F, X, Y, Z), a mask of another grid or without voxels, NaN or infinite
            voxels. The message begins with ``name``.
    """
    if windows.ndim != 5 or 0 in windows.shape:
        raise ValueError(f"{name}: windows (N, F, X, Y, Z) are wanted, these have shape {windows.shape}.")
    if mask.dtype != bool or mask.shape != windows.shape[2:] or not mask.any():
        raise ValueError(
            f"{name}: a mask of {mask.dtype} {mask.shape} with {int((mask != 0).sum())} voxels does not fit windows of shape "
            f"{windows.shape}: give the brain of the prepared runs as booleans (X, Y, Z)."
        )
    bad = ~np.isfinite(windows).all((1, 2, 3, 4))
    if bad.any():
        raise ValueError(f"{name}: NaN or infinite voxels in {int(bad.sum())} windows, first in window {int(bad.argmax())}.")


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation of two vectors, ``None`` where one is constant or shorter than 2."""
    if len(a) < 2 or min(a.std(), b.std()) <= 1e-9 * max(np.abs(a).max(), np.abs(b).max()):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _lag_one(within: np.ndarray, energy: np.ndarray, varying: np.ndarray) -> np.ndarray:
    """(N, F, V) about the windows' means → (V,); a voxel's windows count by their energy."""
    product = (within[:, :-1] * within[:, 1:]).sum((0, 1))
    return np.divide(product, energy, out=np.zeros_like(energy), where=varying)


def _connectivity(series: np.ndarray, varying: np.ndarray, seed: int) -> np.ndarray:
    count = series.shape[1]
    if count > MANY:
        chosen = np.sort(np.random.default_rng(seed).choice(count, SUBSET, replace=False))
        series, varying = series[:, chosen], varying[chosen]
    found = np.eye(series.shape[1])
    if varying.sum() > 1:
        found[np.ix_(varying, varying)] = np.corrcoef(series[:, varying], rowvar=False)
    return found


def _high_frequency(windows: np.ndarray, mask: np.ndarray) -> float:
    """0 where there is no power at all."""
    axes = [np.fft.fftfreq(extent) for extent in mask.shape]
    beyond = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij"))) > HIGH
    high = total = 0.0
    for window in windows:  # one at a time: the transform of all would not fit into memory
        power = np.abs(np.fft.fftn(window * mask, axes=(1, 2, 3))) ** 2
        high, total = high + power[:, beyond].sum(), total + power.sum()
    return float(high / total) if total > 0 else 0.0
