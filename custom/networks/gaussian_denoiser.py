"""The best denoiser of BOLD if BOLD were Gaussian, in closed form: where a network with few samples starts from.

A window of class c is modelled as a class map m_c that holds in all frames, plus noise of one separable covariance: T_fg
between the frames f and g, S_vw between the voxels v and w, with S of low rank plus the same variance everywhere else. The
estimate of x_0 given x_t = a x_0 + s ε is then linear (Wiener filter; for diffusions Wang & Vastola, *The Unreasonable
Effectiveness of Gaussian Score Approximation for Diffusion Models*, TMLR 2024):

    E[x_0 | x_t, c] = m_c + a C (a² C + s² I)⁻¹ (x_t - a m_c),    C = T ⊗ S

Its denoising errors decide between classes as linear discriminant analysis with a shrunken covariance does. Class maps are
shrunken voxel by voxel (James & Stein), the covariance as Ledoit & Wolf have it.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import toeplitz
from torch import nn

from .noise_level import NoiseLevels

__all__ = ["GaussianDenoiser", "james_stein", "ledoit_wolf_weight"]


class GaussianDenoiser(nn.Module):
    """Closed-form denoiser with the network's signature; before :py:meth:`fit` it takes samples for white noise.

    Args:
        levels: of the noise, and what the output means.
        num_classes: C.
        spatial_size: (X, Y, Z) of the grid.
        max_frames: longest window.
        rank: of the covariance between voxels; no more than training frames are of use.
    """

    class_maps: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor
    rest_variance: torch.Tensor
    autocorrelation: torch.Tensor
    bases: torch.Tensor
    spreads: torch.Tensor
    mask: torch.Tensor

    def __init__(
        self, levels: NoiseLevels, num_classes: int, spatial_size: tuple[int, int, int], max_frames: int, rank: int = 128
    ) -> None:
        super().__init__()
        voxels = int(np.prod(spatial_size))
        self.levels, self.spatial_size, self.num_classes = levels, tuple(spatial_size), num_classes
        self.register_buffer("class_maps", torch.zeros(num_classes + 1, voxels))  # the last is that of no class
        self.register_buffer("components", torch.zeros(rank, voxels))
        self.register_buffer("variances", torch.ones(rank))
        self.register_buffer("rest_variance", torch.ones(()))
        self.register_buffer("autocorrelation", torch.eye(max_frames)[0])
        # of windows of F frames: row F - 1; found once, since an exported network cannot look for eigenvectors
        self.register_buffer("bases", torch.eye(max_frames).repeat(max_frames, 1, 1))
        self.register_buffer("spreads", torch.ones(max_frames, max_frames))
        self.register_buffer("mask", torch.ones(voxels))

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Noisy windows (B, F, X, Y, Z), timesteps (B,) or (1,), labels (B,), -1 for none → v or ε (B, F, X, Y, Z)."""
        timesteps = x.new_zeros(1) if timesteps is None else timesteps
        a, s = (level.reshape(-1, 1, 1).to(x) for level in self.levels.signal_and_noise(timesteps))
        centre = self._class_maps(class_labels)
        noisy = x.flatten(2) - a * centre
        basis, spread = self._frames(x.shape[1])  # in this basis frames are independent, with these variances
        rotated = basis @ noisy
        rest = _gain(self.rest_variance * spread[None, :, None], a, s)
        along = _gain(self.variances * spread[None, :, None], a, s)
        estimate = rest * rotated + ((along - rest) * (rotated @ self.components.T)) @ self.components
        x0 = centre + basis.T @ estimate * self.mask
        return self.levels.output_of(x0.reshape(x.shape), x, timesteps)

    def _class_maps(self, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the maps (B, 1, V) of labels, -1 being the last row; of no labels (1, 1, V)."""
        if labels is None:
            return self.class_maps[-1:, None]
        return self.class_maps[torch.where(labels < 0, self.num_classes, labels.long())][:, None]

    def _frames(self, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return eigenvectors (F, F), one a row, and eigenvalues (F,) of the covariance between frames."""
        return self.bases[frames - 1, :frames, :frames], self.spreads[frames - 1, :frames]

    @torch.no_grad()
    def fit(self, windows: torch.Tensor, labels: torch.Tensor) -> None:
        """Estimate class maps, covariances and mask from training windows.

        Args:
            windows: (N, F, X, Y, Z), z-scored over time, 0 outside the brain.
            labels: (N,), every class of the C at least twice.

        Raises:
            ValueError: if a class has fewer than two windows, or the windows are of another grid or longer than the longest.
        """
        self._check(windows, labels)
        series = windows.double().flatten(2)
        inside = (series != 0).any(1).any(0)
        self.mask.copy_(inside)
        maps = _means(series.mean(1), labels, self.num_classes)
        residuals = series - maps[labels][:, None]
        if not residuals.any():
            raise ValueError(
                "the training windows of a class are all the same, or 0 everywhere: nothing says how the signal varies."
            )
        counts = torch.bincount(labels, minlength=self.num_classes).double()[:, None]
        errors = residuals.mean(1).square().sum(0) / (len(series) - self.num_classes) / counts  # variance of a class's mean
        centre = maps.mean(0)
        self.class_maps[:-1] = (centre + james_stein(maps - centre, errors)).to(self.class_maps)
        self._fit_frames(_autocorrelation(residuals))
        self._fit_covariance(residuals.flatten(0, 1)[:, inside])

    def _check(self, windows: torch.Tensor, labels: torch.Tensor) -> None:
        found = torch.bincount(labels, minlength=self.num_classes)
        if len(found) > self.num_classes or (found < 2).any():
            raise ValueError(
                f"the training windows per class are {found.tolist()}: of each of the {self.num_classes} classes two are "
                "wanted, add runs or leave the class out."
            )
        if tuple(windows.shape[2:]) != self.spatial_size or windows.shape[1] > len(self.autocorrelation):
            raise ValueError(
                f"windows {tuple(windows.shape[1:])} do not fit the network's grid {self.spatial_size} and its at most "
                f"{len(self.autocorrelation)} frames: give --spatial_size and --frames of the prepared study."
            )

    def _fit_frames(self, autocorrelation: torch.Tensor) -> None:
        self.autocorrelation[: len(autocorrelation)] = autocorrelation.to(self.autocorrelation)
        for frames in range(1, len(self.autocorrelation) + 1):
            values, vectors = np.linalg.eigh(toeplitz(self.autocorrelation[:frames].double().cpu().numpy()))
            self.bases[frames - 1, :frames, :frames] = torch.from_numpy(vectors.T.copy()).to(self.bases)
            self.spreads[frames - 1, :frames] = torch.from_numpy(np.maximum(values, 1e-6)).to(self.spreads)

    def _fit_covariance(self, frames: torch.Tensor) -> None:
        """Low rank plus the same variance elsewhere of frames (n, V): Ledoit & Wolf's, cut off at the rank."""
        number, voxels = frames.shape
        weight = ledoit_wolf_weight(frames)
        _, singular, directions = torch.linalg.svd(frames, full_matrices=False)
        variances = singular.square() / number
        mean = float(variances.sum()) / voxels
        kept = min(len(self.variances), len(variances))
        left = float(variances[kept:].sum()) / max(1, voxels - kept)
        self.rest_variance.fill_(weight * mean + (1 - weight) * left)
        self.variances.fill_(float(self.rest_variance))
        self.variances[:kept] = (weight * mean + (1 - weight) * variances[:kept]).to(self.variances)
        self.components.zero_()
        inside = self.mask.bool()
        self.components[:kept, inside] = directions[:kept].to(self.components)


def _gain(variance: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return a * variance / (a.square() * variance + s.square())


def _means(frames: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    return torch.stack([frames[labels == c].mean(0) for c in range(num_classes)])


def _autocorrelation(residuals: torch.Tensor) -> torch.Tensor:
    """Return the correlation at lags 0 … F - 1 of (N, F, V), all voxels together; its Toeplitz matrix is positive definite."""
    frames = residuals.shape[1]
    products = [(residuals[:, : frames - lag] * residuals[:, lag:]).sum() for lag in range(frames)]
    return torch.stack(products) / products[0]


def james_stein(deviations: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """Shrink class maps voxel by voxel: positive-part James-Stein estimate (Efron & Morris, JASA 1973).

    Args:
        deviations: of the class means from their mean, (C, V); C - 1 of them are free.
        errors: their sampling variances (C, V).

    Returns:
        (C, V); 0 where a voxel's means differ no more than chance makes them differ.
    """
    free = len(deviations) - 1
    strength = (deviations.square() / errors.clamp(min=torch.finfo(errors.dtype).tiny)).sum(0)
    shrunken = deviations * (1 - max(0, free - 2) / strength.clamp(min=torch.finfo(errors.dtype).tiny)).clamp(min=0)
    return torch.where(strength > 0, shrunken, 0.0)


def ledoit_wolf_weight(frames: torch.Tensor) -> float:
    """Return the share of the identity in Ledoit & Wolf's covariance of frames (n, V) of mean 0 (JMVA 2004, eq. 14).

    scikit-learn's goes through a V × V matrix; this one through an n × n matrix, since voxels are many.
    """
    number, voxels = frames.shape
    gram = frames @ frames.T / number
    squared = float(gram.square().sum())  # ‖S‖²
    distance = squared - float(gram.trace()) ** 2 / voxels
    sampling = (float(gram.diagonal().square().sum()) - squared / number) if number > 1 else distance
    return min(1.0, max(0.0, sampling / distance)) if distance > 0 else 1.0
