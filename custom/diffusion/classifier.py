"""Decoding by the diffusion model itself: the class under which a window is denoised best.

Li et al., *Your Diffusion Model is Secretly a Zero-Shot Classifier*, 2023 (arXiv 2303.16203); Clark and Jaini, *Text-to-Image
Diffusion Models are Zero-Shot Classifiers*, 2023. In λ = log(a²/s²) the log-likelihood is an integral of denoising errors,

    log p(x | c) = const - ½ ∫ E‖ε - ε̂_c(a x + s ε)‖² dλ

(Kingma et al., *Variational Diffusion Models*, 2021, section 5; for the exact denoiser an equality), and the constant does not
depend on the class. So the logits are the log-likelihoods less the largest, the classes being equally likely beforehand.

Only differences of classes count, and three things keep their variance low: all classes see the same noise; noise comes in
pairs ±ε, which cancels the product of noise and class mean; the λ are spread evenly, not drawn. Of a Gaussian with one
covariance for all classes a single pair has no variance left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from scipy.optimize import minimize_scalar
from torch.nn.functional import log_softmax, one_hot

from ..networks.noise_level import NoiseLevels

__all__ = ["DiffusionClassifierInferer", "fit_temperature"]

HOPELESS = 5.0
TEMPERATURES = (0.05, 1e5)


class DiffusionClassifierInferer(Inferer):
    """Logits (B, num_classes) of windows (B, F, X, Y, Z), for an engine that takes them for a classifier's.

    A draw is one pair ±ε at one λ, 2 evaluations of the network for every class. Draws come in passes: each of the
    ``num_noises`` passes goes once over ``num_levels`` λ that are evenly spread, and between those of the passes before. All
    windows meet the same noise, so a result depends neither on the batch nor on the order. Voxels that are 0 in all frames of
    a window are outside the brain and do not count.

    Args:
        levels: of the network's schedule.
        num_classes: labels 0 … num_classes - 1.
        log_snr_range: over which the errors are integrated; the schedule covers it. The log-likelihood needs nearly all of the
            schedule; its middle decides as well on real BOLD, and suffers less from errors of the network.
        num_levels: λ in one pass.
        num_noises: passes.
        temperature: by which the log-likelihoods are divided, :py:func:`fit_temperature`. Those of a window are sure beyond
            reason as a rule, since its frames repeat each other more than the network knows.
        rejection: a class is given up after a pass that finds it behind the best one by more than this many standard errors,
            and by more than 5 in the logits. It keeps its distance to the best class of that moment. The standard error
            is over the draws so far with their λ, so rather too large. None evaluates all classes to the end.
        batch_size: windows that the network is given at a time, at least 2.
        seed: of the noise.

    Attributes:
        evaluations: of the network, in windows, since the inferer was made.
        windows: that were decoded since.

    Raises:
        ValueError: for numbers out of range, or λ that the schedule does not reach.
    """

    def __init__(
        self,
        levels: NoiseLevels,
        num_classes: int,
        log_snr_range: tuple[float, float] = (-2.0, 2.0),
        num_levels: int = 4,
        num_noises: int = 2,
        temperature: float = 1.0,
        rejection: float | None = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(num_levels, num_noises, num_classes - 1, batch_size - 1) < 1:
            raise ValueError("decoding needs two classes, one level, one noise and batches of two windows at least.")
        if not temperature > 0 or (rejection is not None and not rejection > 0):
            raise ValueError(f"temperature and rejection are above 0; they are {temperature} and {rejection}.")
        _check_range(levels, log_snr_range)
        self.levels, self.num_classes, self.log_snr_range = levels, num_classes, tuple(log_snr_range)
        self.num_levels, self.num_noises, self.temperature = num_levels, num_noises, temperature
        self.rejection, self.batch_size, self.seed = rejection, batch_size, seed
        self.evaluations = self.windows = 0

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return logits (B, num_classes), float32, the largest of a window being 0.

        Args:
            inputs: windows (B, F, X, Y, Z).
            network: ``network(x, timesteps, class_labels)``, in evaluation mode.

        Raises:
            ValueError: the errors are not finite.
        """
        x0 = convert_to_tensor(inputs, track_meta=False)
        alive = torch.ones(len(x0), self.num_classes, dtype=torch.bool, device=x0.device)
        errors = torch.empty(0, *alive.shape, dtype=torch.float64, device=x0.device)  # of the draws so far
        for log_snrs, noise in self._passes(x0.shape[1:]):
            found = self._errors(x0, network, log_snrs, noise.to(x0), alive)
            if not found[:, alive].isfinite().all():
                raise ValueError("denoising errors are not finite: look for NaN in the windows or in the network's weights.")
            errors = torch.cat([errors, _kept_distance(found, errors, alive)])
            if self.rejection is not None and len(errors) > 1:  # one draw has no standard error
                alive = alive & ~self._hopeless(errors, alive)
        self.windows += len(x0)
        logits = -errors.mean(0) * self._nats
        return (logits - logits.amax(1, keepdim=True)).float()

    @property
    def _nats(self) -> float:
        """By which a mean error is multiplied for the (tempered) log-likelihood."""
        low, high = self.log_snr_range
        return 0.5 * (high - low) / self.temperature

    def _passes(self, shape: torch.Size) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield λ (L,) and noise (L, F, X, Y, Z) of every pass; together the λ are the middles of equal parts of the range."""
        low, high = self.log_snr_range
        generator = torch.Generator().manual_seed(self.seed)
        for place in _far_apart(self.num_noises):
            share = (torch.arange(self.num_levels) + (place + 0.5) / self.num_noises) / self.num_levels
            yield low + (high - low) * share, torch.randn(self.num_levels, *shape, generator=generator)

    def _errors(
        self,
        x0: torch.Tensor,
        network: Callable[..., torch.Tensor],
        log_snrs: torch.Tensor,
        noise: torch.Tensor,
        alive: torch.Tensor,
    ) -> torch.Tensor:
        """Return ‖ε - ε̂_c‖², mean of each pair (L, B, num_classes), float64; NaN of classes that were given up."""
        timesteps = self.levels.timestep_of(log_snrs).to(x0.device)
        inside = (x0 != 0).any(1, keepdim=True)
        errors = torch.full((len(log_snrs), *alive.shape), torch.nan, dtype=torch.float64, device=x0.device)
        draws = alive.expand(len(log_snrs), -1, -1).nonzero()
        for level, window, label in (some.T for some in draws.split(self.batch_size // 2)):
            # the second half of a batch has the opposite noise
            eps, t = torch.cat([noise[level], -noise[level]]), timesteps[level].repeat(2)
            x_t = self.levels.noisy(x0[window].repeat(2, 1, 1, 1, 1), eps, t)
            output = network(x_t, timesteps=t, class_labels=label.repeat(2))
            missed = (self.levels.sample_and_noise(output, x_t, t)[1] - eps) * inside[window].repeat(2, 1, 1, 1, 1)
            squares = missed.square().flatten(1).sum(1, dtype=torch.float64)
            errors[level, window, label] = squares.unflatten(0, (2, -1)).mean(0)
            self.evaluations += len(x_t)
        return errors

    def _hopeless(self, errors: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """Return which classes (B, num_classes) are too far behind the best of a window, by errors (draws, B, num_classes)."""
        best = errors.mean(0).argmin(1)
        behind = errors - errors.gather(2, best.expand(len(errors), -1)[..., None])
        gap, standard_error = behind.mean(0), behind.std(0) / len(behind) ** 0.5
        return alive & (gap > self.rejection * standard_error) & (gap * self._nats > HOPELESS)


def fit_temperature(logits: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor) -> float:
    """Return the temperature with the least log loss on the validation part (Guo et al. 2017, section 4.2).

    Labels are smoothed by one part in n + 1 (as Platt 1999 does): a run that is decoded without an error would else be trusted
    without limit. The result is clipped to 0.05 … 100000.

    Args:
        logits: (n, num_classes), found with temperature 1.
        labels: (n,), class indices.

    Raises:
        ValueError: there is no window, a logit is not finite, or a label is no class index.
    """
    scores, y = torch.as_tensor(logits).double(), torch.as_tensor(labels).long()
    if scores.ndim != 2 or len(y) == 0 or len(y) != len(scores) or not scores.isfinite().all():
        raise ValueError("a temperature is fitted to finite logits (n, num_classes) and labels (n,) of the validation part.")
    if y.min() < 0 or y.max() >= scores.shape[1]:
        raise ValueError(
            f"labels {sorted(set(y.tolist()))} do not fit {scores.shape[1]} classes: leave out windows without one."
        )
    smoothing = 1 / (len(y) + 1)
    wanted = one_hot(y, scores.shape[1]) * (1 - smoothing) + smoothing / scores.shape[1]

    def log_loss(log_temperature: float) -> float:
        return -float((wanted * log_softmax(scores / np.exp(log_temperature), 1)).sum(1).mean())

    found = minimize_scalar(log_loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def _check_range(levels: NoiseLevels, log_snr_range: tuple[float, float]) -> None:
    low, high = log_snr_range
    last, first = float(levels.log_snrs[-1]), float(levels.log_snrs[0])
    if not last <= low < high <= first:
        raise ValueError(f"log_snr_range is {low} … {high}; it rises and is within {last:.1f} … {first:.1f}, the schedule.")


def _far_apart(number: int) -> list[int]:
    """Return 0 … number - 1 in an order whose beginnings are spread out, that of their reversed bits."""
    bits = number.bit_length()
    return sorted(range(number), key=lambda place: f"{place:0{bits}b}"[::-1])


def _kept_distance(found: torch.Tensor, before: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """Give classes without an error that of the class leading so far, plus their mean distance to it.

    Errors of different draws must not be compared, the noise they share is much larger than what tells classes apart.
    """
    if len(before) == 0:
        return found
    mean = before.mean(0)
    leader = mean.argmin(1, keepdim=True)
    distance = mean - mean.gather(1, leader)
    return torch.where(alive, found, found.gather(2, leader.expand(len(found), -1, -1)) + distance)
