"""Decoding by a linear classifier on the bottleneck features of a trained diffusion network.

A probe belongs to the weights whose features it was fitted on: it stores their digest and refuses others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.preprocessing import StandardScaler
from torch import nn

from ..networks.gaussian_denoiser import james_stein, ledoit_wolf_weight
from ..networks.noise_level import NoiseLevels
from ..networks.weights_digest import weights_digest
from ..own_files import load_tensors
from ..paths import written_whole
from .features import BottleneckFeatures, bottleneck_features

__all__ = ["LinearProbeInferer", "ShrinkageLDA", "fit_probe"]

PARTS = {"weight", "bias", "mean", "scale", "class_names", "timesteps", "num_noises", "seed", "weights"}  # of a stored probe


class ShrinkageLDA(ClassifierMixin, BaseEstimator):
    """Linear discriminant analysis: means shrunken as James and Stein do, covariance within classes as Ledoit and Wolf do.

    Scikit-learn's shrinks a covariance for every class, of which a category with six blocks gives no estimate, and needs the
    matrix, which 50 000 features do not allow. This one pools the residuals and works with their products alone. The
    means, as those of the closed-form denoiser, are shrunken feature by feature. All classes are equally likely.
    """

    def fit(self, X: np.ndarray, y: Sequence[int]) -> ShrinkageLDA:
        """Fit on X of shape (n, n_features) and y of shape (n,).

        Raises:
            ValueError: no two samples of a class differ, so that nothing is known of the covariance.
        """
        X = np.asarray(X, dtype=np.float64)
        self.classes_, index = np.unique(y, return_inverse=True)
        means = np.stack([X[index == c].mean(0) for c in range(len(self.classes_))])
        residuals = X - means[index]
        centre = means.mean(0)
        errors = residuals.var(0) * len(X) / max(1, len(X) - len(means)) / np.bincount(index)[:, None]
        away = james_stein(torch.from_numpy(means - centre), torch.from_numpy(errors)).numpy()
        self.coef_ = _solved(residuals, away)
        self.intercept_ = -((centre + away / 2) * self.coef_).sum(1)
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the log-likelihoods up to a constant, (n, n_classes)."""
        return X @ self.coef_.T + self.intercept_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Array of shape (n, n_classes)."""
        from scipy.special import softmax

        return softmax(self.decision_function(X), axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Array of shape (n,): the most probable class."""
        return self.classes_[self.decision_function(X).argmax(1)]


def fit_probe(
    network: nn.Module,
    rows: Sequence[dict],
    class_names: Sequence[str],
    path: str | Path,
    levels: NoiseLevels,
    timesteps: Sequence[float] = (50,),
    estimator: BaseEstimator | None = None,
    device: torch.device | str = "cpu",
    num_noises: int = 1,
    seed: int = 0,
    batch_size: int = 16,
) -> None:
    """Fit a linear classifier on the features of the training rows and store it as plain tensors.

    Every frame of a window is a sample, since a covariance needs many; a window's logits are the mean over its frames.

    Args:
        network: with its trained weights.
        rows: of the training part; those with label -1 (rest) are left out.
        class_names: every class has rows.
        path: of the probe.
        levels: of the network's schedule.
        timesteps: of the features.
        estimator: scikit-learn classifier with ``coef_`` and ``intercept_``, on standardised features, one line per class;
            None is :class:`ShrinkageLDA`.
        device: of the network.
        num_noises: pairs of noise, as in :class:`.BottleneckFeatures`; ``seed`` and ``batch_size`` too.

    Raises:
        ValueError: a class has no rows, or the estimator has not one line per class.
    """
    rows = [row for row in rows if row["label"] != -1]
    labels = [int(row["label"]) for row in rows]
    if sorted(set(labels)) != list(range(len(class_names))):
        raise ValueError(f"the training rows have the labels {sorted(set(labels))}, the classes are {list(class_names)}.")
    extract = BottleneckFeatures(network, levels, timesteps, device, num_noises, seed, batch_size)
    scaler = StandardScaler()
    features = extract.of_frames(rows)
    X = scaler.fit_transform(features.reshape(-1, features.shape[2]).astype(np.float64))
    model = clone(estimator if estimator is not None else ShrinkageLDA()).fit(X, np.repeat(labels, features.shape[1]))
    if len(model.coef_) != len(class_names):
        raise ValueError(
            f"{model} has {len(model.coef_)} lines for {len(class_names)} classes: give one with a line per class."
        )
    lines = {"weight": model.coef_, "bias": model.intercept_, "mean": scaler.mean_, "scale": scaler.scale_}
    probe = {name: torch.as_tensor(values).float() for name, values in lines.items()}
    facts = {
        "class_names": list(class_names),
        "timesteps": [float(t) for t in timesteps],
        "num_noises": num_noises,
        "seed": seed,
    }
    with written_whole(path) as temporary:
        torch.save({**probe, **facts, "weights": weights_digest(network)}, temporary)


class LinearProbeInferer(Inferer):
    """Logits (B, num_classes) of windows (B, F, X, Y, Z) by a stored probe, for an engine that takes them for a classifier's.

    Args:
        path: of the probe that :func:`fit_probe` stored; it is read at the first window.
        levels: of the network's schedule.
        class_names: of the study, which have to be the probe's; None asks nothing.
        temperature: by which the logits are divided, :py:func:`.fit_temperature`.
    """

    def __init__(
        self, path: str | Path, levels: NoiseLevels, class_names: Sequence[str] | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"a temperature is above 0, not {temperature}.")
        self.path, self.levels, self.class_names, self.temperature = Path(path), levels, class_names, temperature
        self.probe: dict[str, Any] = {}

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return logits (B, num_classes), float32, of a network in evaluation mode.

        Raises:
            FileNotFoundError: there is no probe.
            ValueError: the file is none, it belongs to other weights or classes, or the windows are of another grid.
        """
        x = convert_to_tensor(inputs, track_meta=False)
        probe = self._read(network)
        features = bottleneck_features(network, x, self.levels, probe["timesteps"], probe["num_noises"], probe["seed"])
        if features.shape[1] != len(probe["mean"]):
            raise ValueError(f"{self.path}: fitted on {len(probe['mean'])} features, these windows have {features.shape[1]}.")
        weight, bias, mean, scale = (probe[name].to(features) for name in ("weight", "bias", "mean", "scale"))
        return ((features - mean) / scale @ weight.T + bias) / self.temperature

    def _read(self, network: nn.Module) -> dict[str, Any]:
        if self.probe:
            return self.probe
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such probe, fit it to the trained network first.")
        probe = load_tensors(self.path, "fit the probe again.")
        if PARTS - probe.keys():
            raise ValueError(f"{self.path} is no linear probe: fit it again.")
        digest, names = probe["weights"], probe["class_names"]
        if digest != weights_digest(network):
            raise ValueError(f"{self.path}: fitted on the features of other weights than the network has now: fit it again.")
        if self.class_names is not None and list(self.class_names) != names:
            raise ValueError(f"{self.path}: fitted for the classes {names}, not {list(self.class_names)}: fit it again.")
        self.probe = probe
        return probe


def _solved(residuals: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows Σ⁻¹ (k, d) for Σ = (1 - δ) RᵀR / n + δ m I of residuals R (n, d), m the mean variance, by Woodbury."""
    n, d = residuals.shape
    products = residuals @ residuals.T / n
    weight = ledoit_wolf_weight(torch.from_numpy(residuals))
    floor = weight * np.trace(products) / d
    if not floor > 0:
        raise ValueError("no two samples of a class differ: a covariance needs several windows of every class.")
    inner = np.linalg.solve((1 - weight) * products + floor * np.eye(n), residuals @ rows.T)
    return (rows - (1 - weight) / n * (residuals.T @ inner).T) / floor
