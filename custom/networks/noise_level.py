"""Noise levels of a diffusion: how much signal and noise a timestep has, and what a network's output says about both.

A noisy sample is x_t = a x_0 + s ε with a² + s² = 1 (Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, eq. 4).
Timesteps between the trained ones are interpolated in log SNR, λ = log(a²/s²), which is nearly linear from one to the next.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["PREDICTION_TYPES", "NoiseLevels"]

PREDICTION_TYPES = ("v_prediction", "epsilon")


class NoiseLevels(nn.Module):
    """The schedule of a diffusion and the meaning of its network's output.

    Args:
        alphas_cumprod: a² of every timestep (T,), falling, such as ``scheduler.alphas_cumprod``.
        prediction_type: ``v_prediction`` (v = a ε - s x_0; Salimans & Ho, *Progressive Distillation*, 2022) or ``epsilon``.

    Raises:
        ValueError: for another prediction type, or a² that are not falling within (0, 1).
    """

    log_snrs: torch.Tensor

    def __init__(self, alphas_cumprod: torch.Tensor, prediction_type: str = "v_prediction") -> None:
        super().__init__()
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type '{prediction_type}' is not one of {', '.join(PREDICTION_TYPES)}.")
        squares = torch.as_tensor(alphas_cumprod).double()
        if not (squares.diff() < 0).all() or squares[0] >= 1 or squares[-1] <= 0:
            raise ValueError("the alphas_cumprod of a schedule fall from below 1 to above 0.")
        self.prediction_type = prediction_type
        self.register_buffer("log_snrs", torch.logit(squares).float())

    def log_snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return λ of timesteps in [0, T - 1], of the same shape; those between two trained ones are interpolated."""
        last = len(self.log_snrs) - 1
        position = timesteps.to(self.log_snrs)
        position = torch.where(position < 0, 0.0, torch.where(position > last, last, position))  # clamp exports wrongly
        below = torch.where(position < last, position, last - 1).long()
        return torch.lerp(self.log_snrs[below], self.log_snrs[below + 1], position - below)

    def timestep_of(self, log_snr: torch.Tensor) -> torch.Tensor:
        """Return the timestep, not an integer as a rule, that has a given λ; beyond the schedule its first or last one."""
        rising = self.log_snrs.flip(0).contiguous()
        wanted = log_snr.to(rising).clamp(rising[0], rising[-1])
        above = torch.searchsorted(rising, wanted).clamp(1, len(rising) - 1)
        share = (wanted - rising[above - 1]) / (rising[above] - rising[above - 1])
        return len(rising) - 1 - (above - 1 + share)

    def signal_and_noise(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a and s of timesteps, of the same shape."""
        level = self.log_snr(timesteps)
        return level.sigmoid().sqrt(), (-level).sigmoid().sqrt()

    def noisy(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return x_t (B, …) of samples and noise (B, …) at timesteps (B,) or (1,)."""
        a, s = self._levels(timesteps, x0)
        return a * x0 + s * noise

    def sample_and_noise(
        self, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the estimates of x_0 and ε (B, …) that a network's output (B, …) for x_t (B, …) amounts to."""
        a, s = self._levels(timesteps, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - s * output) / a, output
        return a * x_t - s * output, a * output + s * x_t

    def output_of(self, x0: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the output (B, …) by which a network says that x_t (B, …) comes from x_0 (B, …)."""
        a, s = self._levels(timesteps, x_t)
        return (x_t - a * x0) / s if self.prediction_type == "epsilon" else (a * x_t - x0) / s

    def _levels(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        across = (-1, *[1] * (like.ndim - 1))
        a, s = self.signal_and_noise(timesteps)
        return a.reshape(across).to(like), s.reshape(across).to(like)
