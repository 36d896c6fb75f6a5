"""A diffusion whose every answer is known: Gaussian windows per class, the exact network, the exact way from noise to sample.

Frames are independent, with one spatial covariance Σ = U diag(k) Uᵀ. Of a class with mean m the noisy windows are Gaussian with
mean a m and covariance a² Σ + s² I, so that E[x_0 | x_t] = m + U diag(a k / (a² k + s²)) Uᵀ (x_t - a m), and along the
probability flow Uᵀ (x_t - a m) / sqrt(a² k + s²) stays what it is.
"""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from custom.networks.noise_level import NoiseLevels

SCHEDULE = {"num_train_timesteps": 1000, "schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02}


class GaussianProblem(nn.Module):
    """The exact network of class-conditional Gaussian windows; without a class that of their mixture in equal parts.

    Args:
        means: of the classes, (C, F, X, Y, Z).
        covariance: of a frame's voxels, (V, V) with V = X Y Z.
        alphas_cumprod: of the schedule; None = that of the project.
        prediction_type: what the network returns, ``v_prediction`` or ``epsilon``.
    """

    def __init__(
        self,
        means: torch.Tensor,
        covariance: torch.Tensor,
        alphas_cumprod: torch.Tensor | None = None,
        prediction_type: str = "v_prediction",
    ) -> None:
        super().__init__()
        squares = DDPMScheduler(**SCHEDULE).alphas_cumprod if alphas_cumprod is None else alphas_cumprod
        self.levels = NoiseLevels(squares, prediction_type)
        self.num_classes, self.window_shape = len(means), tuple(means.shape[1:])
        values, vectors = torch.linalg.eigh(covariance.double())
        self.register_buffer("means", means.double())
        self.register_buffer("variances", values)
        self.register_buffer("axes", vectors)
        self.evaluations = 0  # windows the network was asked about

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        timesteps = torch.zeros(1) if timesteps is None else timesteps
        self.evaluations += len(x)
        return self.levels.output_of(self.denoised(x, timesteps, class_labels), x, timesteps)

    def denoised(self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return E[x_0 | x_t, class], (B, F, X, Y, Z)."""
        shares = self.class_shares(x, timesteps, class_labels)
        a, s = self._levels(timesteps, len(x))
        gain = a * self.variances / (a**2 * self.variances + s**2)
        estimates = self._voxels(self.means) + self._back(gain * self._along_axes(x, timesteps))  # (B, C, F, V)
        return torch.einsum("bc,bcfv->bfv", shares, estimates).reshape(x.shape).to(x)

    def class_shares(self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return p(class | x_t), (B, C); a given class has all of it."""
        posterior = self.log_density(x, timesteps).softmax(1)
        if class_labels is None:
            return posterior
        given = nn.functional.one_hot(class_labels.clamp(min=0), self.num_classes).to(posterior)
        return torch.where((class_labels < 0)[:, None], posterior, given)

    def log_density(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return log p(x_t | class) of every class, (B, C)."""
        a, s = self._levels(timesteps, len(x))
        variance = a**2 * self.variances + s**2
        terms = self._along_axes(x, timesteps) ** 2 / variance + (2 * torch.pi * variance).log()
        return -0.5 * terms.sum((-1, -2))

    def flow(self, x: torch.Tensor, start: float, end: float | None, label: int = 0) -> torch.Tensor:
        """Return where the probability flow of a class takes x_start (B, …); ``end`` None = free of noise."""
        moved = self._along_axes(x, torch.tensor([start]))[:, label]
        a, s = self._levels(torch.tensor([start]), 1)
        b, r = (torch.ones(1), torch.zeros(1)) if end is None else self._levels(torch.tensor([end]), 1)
        ratio = ((b**2 * self.variances + r**2) / (a**2 * self.variances + s**2)).sqrt().reshape(-1)
        mean = b.reshape(()) * self._voxels(self.means)[label]
        return (mean + self._back(ratio * moved)).reshape(x.shape).to(x)

    def draw(self, class_labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Return windows of classes (B,), (B, F, X, Y, Z) float32."""
        noise = torch.randn(len(class_labels), *self.window_shape, generator=torch.Generator().manual_seed(seed)).double()
        deviation = self._back(self.variances.sqrt() * self._voxels(noise))
        return (self.means[class_labels] + deviation.reshape(noise.shape)).float()

    def _along_axes(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return Uᵀ (x_t - a m) for every class, (B, C, F, V)."""
        a, _ = self._levels(timesteps, len(x))
        return (self._voxels(x.double())[:, None] - a * self._voxels(self.means)) @ self.axes

    def _back(self, coordinates: torch.Tensor) -> torch.Tensor:
        return coordinates @ self.axes.T

    def _voxels(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.flatten(2)  # (…, F, V)

    def _levels(self, timesteps: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        a, s = self.levels.signal_and_noise(timesteps.reshape(-1))
        return a.double().expand(count).reshape(-1, 1, 1, 1), s.double().expand(count).reshape(-1, 1, 1, 1)


def small_problem(
    classes: int = 1,
    frames: int = 2,
    grid: tuple[int, int, int] = (3, 2, 1),
    prediction_type: str = "v_prediction",
    seed: int = 0,
) -> GaussianProblem:
    """Return a problem with neighbours that correlate and class means about one standard deviation apart."""
    where = torch.cartesian_prod(*(torch.arange(n) for n in grid)).double()
    covariance = 0.5 * torch.exp(-torch.cdist(where, where) / 1.5)
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, frames, *grid, generator=generator)
    return GaussianProblem(means, covariance, prediction_type=prediction_type)
