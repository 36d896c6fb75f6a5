"""How well anomaly scores find what is planted in held-out windows, beside classical residuals; ``anomalies.json``.

Normal windows of the test part against copies of them with one anomaly each (:py:mod:`custom.phantoms.anomalies`). Intervals
are over blocks (or runs): a window and its copies are drawn together. A score that was tuned may have seen ``TUNING_KINDS``,
planted in training or validation runs; the figure that counts is that of the other kinds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from ..paths import written_whole
from ..phantoms.anomalies import KINDS, LABEL_KINDS, LOCAL_KINDS, SIZES, TEST_KINDS, TUNING_KINDS, plant
from ..transforms.temporal_window import map_bold, temporal_window
from ..transforms.window_rows import last_start, signal_mask
from .bootstrap import percentile_interval, resample

__all__ = ["Mahalanobis", "MeanSquare", "PCAResidual", "evaluate_anomalies"]

Scored = tuple[np.ndarray, np.ndarray | None]
POOLS = {
    "tuning kinds": TUNING_KINDS,
    "test kinds": TEST_KINDS,
    "test kinds of signal": tuple(kind for kind in TEST_KINDS if kind not in LABEL_KINDS),
    "all kinds": KINDS,
}


class ScoreFunction(Protocol):
    """Windows (N, F, X, Y, Z), labels (N,) and masks (N, X, Y, Z) to scores (N,), high where odd, and maps like the windows."""

    def __call__(self, windows: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> Scored: ...


class MeanSquare:
    """Mean square of the z-scored signal: the plainest score of all."""

    def __call__(self, windows: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> Scored:
        return _mean_square(windows, masks)


class PCAResidual:
    """Mean square of what the principal components of the training frames leave of each frame.

    Args:
        rows: of the training part; all frames of their runs are used, rest included.
        variance: share of the training frames' variance that the components explain, which is what chooses their number.

    Raises:
        ValueError: if the runs have no voxel that varies.
    """

    def __init__(self, rows: Sequence[dict], variance: float = 0.9) -> None:
        runs = [map_bold(path) for path in dict.fromkeys(row["image"] for row in rows)]
        frames = torch.cat([run.frames(0, run.shape[0]).as_tensor() for run in runs])
        self.inside = (frames != 0).any(0)
        if not self.inside.any():
            raise ValueError(f"{len(runs)} training runs are 0 everywhere: prepare the study again.")
        self.pca = PCA(variance, svd_solver="full").fit(frames[:, self.inside].numpy())

    def residual(self, windows: torch.Tensor) -> torch.Tensor:
        """Return what the components leave of windows (B, F, X, Y, Z); 0 where the training runs are."""
        frames = windows[:, :, self.inside].flatten(0, 1).numpy()
        left = torch.zeros_like(windows)
        rest = frames - self.pca.inverse_transform(self.pca.transform(frames))
        left[:, :, self.inside] = torch.from_numpy(rest).to(left).unflatten(0, windows.shape[:2])
        return left

    def __call__(self, windows: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> Scored:
        return _mean_square(self.residual(windows), masks)


class Mahalanobis:
    """Distance of a window's frames from the training frames, by probabilistic PCA (Tipping & Bishop 1999, eq. 6).

    The components of :class:`PCAResidual` have a variance each, all other directions the mean of theirs.

    Args:
        components: fitted.
    """

    def __init__(self, components: PCAResidual) -> None:
        self.components = components

    def __call__(self, windows: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> Scored:
        pca = self.components.pca
        frames = windows[:, :, self.components.inside].flatten(0, 1).numpy()
        along = (pca.transform(frames) ** 2 / pca.explained_variance_).sum(1)
        rest = ((frames - pca.inverse_transform(pca.transform(frames))) ** 2).sum(1) / pca.noise_variance_
        return (along + rest).reshape(len(windows), -1).mean(1), None


def _mean_square(residual: torch.Tensor, masks: torch.Tensor) -> Scored:
    squares = residual**2 * masks[:, None]
    voxels = masks.flatten(1).sum(1) * residual.shape[1]
    return (squares.flatten(1).sum(1) / voxels).numpy(), squares.numpy()


def evaluate_anomalies(
    scorers: Mapping[str, ScoreFunction],
    rows_train: Sequence[dict],
    rows_val: Sequence[dict],
    rows_test: Sequence[dict],
    output_dir: str | Path,
    frames: int,
    copies: int = 3,
    clusters: str = "block",
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> dict:
    """Plant anomalies in the test windows and judge scores by them.

    Args:
        scorers: name -> score function; the first one is compared with every other. PCA residual, Mahalanobis distance and
            mean square are added.
        rows_train: of the training part: the baselines are fitted on them.
        rows_val: of the validation part: the 95 % quantile of a score over them is the threshold that is judged, coarsely
            where there are fewer than twenty.
        rows_test: of the test part; a window of another class is taken from them.
        output_dir: gets ``anomalies.json``, and ``anomaly_examples.npz`` for pictures.
        frames: length of a window.
        copies: anomalies of each kind and size per window.
        clusters: column of what is drawn as a whole in a resample: ``block``, or ``scan`` where there are many runs.
        seed: of the anomalies and of the resamples.
        n_bootstrap: resamples.

    Returns:
        What ``anomalies.json`` holds: per score AUC by kind and size, means over kinds, false alarms, detection rates; per
        score with a map the AUC of voxels of ``LOCAL_KINDS``; the first score minus each other on the same resamples.

    Raises:
        ValueError: if a score is NaN, a test window has no window of another class beside it, or a brain is no larger
            than an anomaly.
    """
    components = PCAResidual(rows_train)
    judged = {**scorers, "PCA residual": components, "Mahalanobis": Mahalanobis(components), "mean square": MeanSquare()}
    test = _Windows(rows_test, frames)
    normal = {name: _scores(name, score, *test.tensors)[0] for name, score in judged.items()}
    weights = np.vstack(
        [np.ones(len(rows_test)), resample(len(rows_test), [r[clusters] for r in rows_test], n_bootstrap, seed)]
    )
    known = len({row[clusters] for row in rows_test}) > 1
    validation = _Windows(rows_val, frames).tensors
    limits = {name: float(np.quantile(_scores(name, score, *validation)[0], 0.95)) for name, score in judged.items()}

    planted, places, examples = _plant_and_score(judged, test, copies, seed)
    samples = {name: {key: _auc(normal[name], found, weights) for key, found in planted[name].items()} for name in judged}
    first = next(iter(judged))
    results = {
        "windows": len(rows_test),
        "copies": copies,
        "clusters": clusters,
        "sizes": SIZES,
        "tuning_kinds": TUNING_KINDS,
        "test_kinds": TEST_KINDS,
        "pca_components": int(components.pca.n_components_),
        "auc": {name: _nested(found, lambda s: _interval(s, known)) for name, found in samples.items()},
        "pooled_auc": {name: _nested_pools(found, known) for name, found in samples.items()},
        "difference": {other: _differences(samples[first], samples[other], known) for other in judged if other != first},
        "localisation_auc": {name: _nested(found, lambda v: _located(v, weights, known)) for name, found in places.items()},
        "false_alarms": {name: float((normal[name] > limits[name]).mean()) for name in judged},
        "detected": {name: _nested(found, partial(_share_above, limits[name])) for name, found in planted.items()},
    }
    return _write(Path(output_dir), results, examples)


class _Windows:
    """Windows of rows with labels and the masks of their runs, in memory."""

    def __init__(self, rows: Sequence[dict], frames: int) -> None:
        found, masks = [], {}
        for row in rows:
            run = map_bold(row["image"])
            found.append(temporal_window(run, frames, last_start(row, run, frames))[0].as_tensor())
            if row["image"] not in masks:
                masks[row["image"]] = signal_mask(run)
        self.windows, self.labels = torch.stack(found), torch.tensor([row["label"] for row in rows])
        self.masks = torch.stack([masks[row["image"]] for row in rows])
        self.subjects = np.array([str(row["subject"]) for row in rows])

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.windows, self.labels, self.masks

    def planted(self, kind: str, size: str, seeds: Sequence[int]) -> tuple[torch.Tensor, np.ndarray]:
        """Copies (N, F, X, Y, Z) with an anomaly each, and where it is."""
        pairs = []
        for i, window in enumerate(self.windows):
            rng = np.random.default_rng([*seeds, i])
            others = self._others(i) if kind == "wrong_category" else ()
            pairs.append(plant(window.numpy(), kind, size, rng, self.masks[i].numpy(), others))
        return torch.from_numpy(np.stack([p[0] for p in pairs])), np.stack([p[1] for p in pairs])

    def _others(self, i: int) -> list[np.ndarray]:
        """Windows of the same subject (voxels of two subjects do not fit each other) and of another class."""
        other = (self.labels != self.labels[i]).numpy() & (self.subjects == self.subjects[i])
        if not other.any():
            raise ValueError(f"subject {self.subjects[i]} has test windows of one class only: no window of another to plant.")
        return [self.windows[j].numpy() for j in np.flatnonzero(other)]


Key = tuple[str, str]


def _plant_and_score(
    judged: Mapping[str, ScoreFunction], test: _Windows, copies: int, seed: int
) -> tuple[dict[str, dict[Key, np.ndarray]], dict[str, dict[Key, np.ndarray]], dict[str, np.ndarray]]:
    """Scores (copies, N) and AUCs of voxels (copies, N), by score and (kind, size); and pictures' arrays of one window each."""
    planted: dict[str, dict[Key, np.ndarray]] = {name: {} for name in judged}
    places: dict[str, dict[Key, np.ndarray]] = {}
    examples: dict[str, np.ndarray] = {}
    for k, (kind, size) in enumerate((name, size) for name in KINDS for size in SIZES[name]):
        for copy in range(copies):
            windows, truth = test.planted(kind, size, [seed, k, copy])
            pictured = kind in LOCAL_KINDS and size == "medium" and copy == 0
            if pictured:
                examples |= {f"{kind}/window": windows[0].numpy(), f"{kind}/truth": truth[0]}
            for name, score in judged.items():
                scores, maps = _scores(name, score, windows, test.labels, test.masks)
                planted[name].setdefault((kind, size), np.empty((copies, len(windows))))[copy] = scores
                if maps is None or kind not in LOCAL_KINDS:
                    continue
                located = places.setdefault(name, {}).setdefault((kind, size), np.empty((copies, len(windows))))
                located[copy] = [_voxel_auc(t, m, i.numpy()) for t, m, i in zip(truth, maps, test.masks, strict=True)]
                if pictured:
                    examples[f"{kind}/map/{name}"] = maps[0]
    return planted, places, examples


def _scores(name: str, score: ScoreFunction, *tensors: torch.Tensor) -> Scored:
    scores, maps = score(*tensors)
    if not np.isfinite(scores).all():
        raise ValueError(f"score '{name}' is NaN or infinite for {int((~np.isfinite(scores)).sum())} windows.")
    return np.asarray(scores, dtype=float), maps


def _voxel_auc(truth: np.ndarray, values: np.ndarray, inside: np.ndarray) -> float:
    """AUC of a map over the voxels and frames of the brain."""
    here = truth[:, inside].ravel()
    if here.all():
        raise ValueError(f"a planted anomaly fills a brain of {inside.sum()} voxels: such a grid is too small to locate one.")
    return float(roc_auc_score(here, values[:, inside].ravel()))


def _auc(normal: np.ndarray, planted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC of scores (N,) against (copies, N), of all weightings (n, N); (n,), NaN where only one window is drawn.

    A window is not compared with its own copies: in a resample, where windows repeat, such pairs would be more of all pairs.
    """
    wins = ((planted[:, None] > normal[:, None]) + 0.5 * (planted[:, None] == normal[:, None])).mean(0)
    others = 1.0 - np.eye(len(normal))
    pairs = np.einsum("ni,nj,ij->n", weights, weights, others)
    right = np.einsum("ni,nj,ij->n", weights, weights, wins * others)
    return np.divide(right, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _interval(samples: np.ndarray, known: bool) -> dict[str, float]:
    """Interval of a figure (1 + n,) whose first value is that of no resample; of a single cluster there is none."""
    resampled = samples[1:][np.isfinite(samples[1:])]
    return percentile_interval(float(samples[0]), resampled if known and len(resampled) else np.full(1, np.nan))


def _share_above(limit: float, scores: np.ndarray) -> float:
    return float((scores > limit).mean())


def _located(values: np.ndarray, weights: np.ndarray, known: bool) -> dict[str, float]:
    per_window = values.mean(0)
    return _interval(weights @ per_window / weights.sum(1), known)


def _nested(found: Mapping[Key, Any], make: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
    """{(kind, size): x} to {kind: {size: make(x)}}."""
    nested: dict[str, dict[str, Any]] = {}
    for (kind, size), x in found.items():
        nested.setdefault(kind, {})[size] = make(x)
    return nested


def _pooled(found: Mapping[Key, np.ndarray], kinds: Sequence[str]) -> np.ndarray:
    return np.mean([s for (kind, _), s in found.items() if kind in kinds], axis=0)


def _nested_pools(found: Mapping[Key, np.ndarray], known: bool) -> dict[str, dict[str, float]]:
    return {pool: _interval(_pooled(found, kinds), known) for pool, kinds in POOLS.items()}


def _differences(a: Mapping[Key, np.ndarray], b: Mapping[Key, np.ndarray], known: bool) -> dict[str, dict[str, float]]:
    return {pool: _interval(_pooled(a, kinds) - _pooled(b, kinds), known) for pool, kinds in POOLS.items()}


def _write(folder: Path, results: dict, examples: dict[str, np.ndarray]) -> dict:
    clean = _nan_to_null(results)
    with written_whole(folder / "anomalies.json") as temporary:
        temporary.write_text(json.dumps(clean, indent=1, allow_nan=False))
    with written_whole(folder / "anomaly_examples.npz") as temporary:
        np.savez_compressed(temporary, **examples)
    return clean


def _nan_to_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nan_to_null(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
