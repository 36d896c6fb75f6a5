"""DPM-Solver++ in MONAI's scheduler interface: few-step sampling of second order, which MONAI lacks.

Lu et al., *DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models*, 2022 (arXiv 2211.01095). With
x_t = a x_0 + s ε and λ = log(a/s), a step from λ_s to λ_t, h = λ_t - λ_s, takes the network's estimate D of x_0 to

    x_t = (s_t / s_s) x_s + a_t (1 - e^-h) D                                        the probability flow (eq. 9)
    x_t = (s_t / s_s) e^-h x_s + a_t (1 - e^-2h) D + s_t sqrt(1 - e^-2h) z          the reverse SDE (section 5)

Of first order D is the estimate at λ_s (with the flow DDIM, with the SDE DDIM at η = 1); of second order it is extrapolated to
the middle of the step from the two last estimates, at one evaluation per step all the same (2M, algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.schedulers import Scheduler

from ..networks.noise_level import NoiseLevels

__all__ = ["DPMSolverScheduler", "Generators", "draw_noise"]

Generators = torch.Generator | Sequence[torch.Generator] | None


class DPMSolverScheduler(Scheduler):
    """DPM-Solver++(2M) with steps of equal length in log SNR, which lie at timesteps that are no integers.

    n steps are n evaluations: the first at the last timestep of the schedule, the last at timestep 0, whose estimate of x_0 is
    the sample. ``sample`` of MONAI's inferers works as it is, save for its intermediates: it picks those by the remainder of
    the timestep; ``generate(film=...)`` has them.

    Args:
        num_train_timesteps: of the schedule the network was trained with.
        schedule: name of the schedule among MONAI's ``NoiseSchedules``.
        prediction_type: what the network returns, ``v_prediction`` or ``epsilon``.
        order: 1, or 2 which is far more accurate.
        stochastic: follow the reverse SDE instead of the probability flow: fresh noise in every step but the last.
        schedule_args: of the schedule, such as ``beta_start``.

    Raises:
        ValueError: for another order or prediction type, or a schedule that is not falling.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        prediction_type: str = "v_prediction",
        order: int = 2,
        stochastic: bool = False,
        **schedule_args: float,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        if order not in (1, 2):
            raise ValueError(f"order {order}: DPM-Solver++ is offered in order 1 and 2.")
        self.levels = NoiseLevels(self.alphas_cumprod, prediction_type)
        self.prediction_type, self.order, self.stochastic = prediction_type, order, stochastic
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set ``timesteps`` (n,), float32 and falling, and forget the estimates of an earlier sampling.

        Raises:
            ValueError: for less than one step.
        """
        if num_inference_steps < 1:
            raise ValueError(f"{num_inference_steps} steps: sampling takes at least one.")
        noisiest, cleanest = float(self.levels.log_snrs[-1]), float(self.levels.log_snrs[0])
        levels = torch.linspace(noisiest, cleanest, num_inference_steps)
        self.timesteps = self.levels.timestep_of(levels).to(device or "cpu")
        self.num_inference_steps = num_inference_steps
        self._last: tuple[int, float, torch.Tensor] | None = None  # the step before: its position, its λ, its estimate of x_0

    def step(
        self, model_output: torch.Tensor, timestep: float | torch.Tensor, sample: torch.Tensor, generator: Generators = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Go from one of ``timesteps`` to the next, or from the last to the sample.

        Args:
            model_output: of the network (B, …).
            timestep: the element of ``timesteps`` it was asked at; in order from a first one on, which need not be the first.
            sample: x_t, (B, …).
            generator: of the noise of a stochastic step: of the batch, or one for each sample.

        Returns:
            x at the next timestep and the estimate of x_0, both (B, …).

        Raises:
            ValueError: for a timestep that is not one of ``timesteps``.
        """
        position = self._position(timestep)
        start = self.timesteps[position : position + 1]
        data = self.levels.sample_and_noise(model_output.to(sample), sample, start)[0]
        level = float(self.levels.log_snr(start)) / 2
        before, self._last = self._last, (position, level, data)
        if position + 1 == len(self.timesteps):
            self._last = None
            return data, data
        target = float(self.levels.log_snr(self.timesteps[position + 1])) / 2
        estimate = data
        if self.order == 2 and before is not None and before[0] == position - 1:
            slope = (data - before[2]) / (level - before[1])
            estimate = data + 0.5 * (target - level) * slope
        return self._advance(sample, estimate, level, target, generator), data

    def _advance(
        self, sample: torch.Tensor, estimate: torch.Tensor, start: float, end: float, generator: Generators
    ) -> torch.Tensor:
        """Return the equations at the head of this file, λ in double precision."""
        (_, s_start), (a, s) = _signal_and_noise(start), _signal_and_noise(end)
        shrink = math.exp(start - end)
        if not self.stochastic:
            return s / s_start * sample + a * (1 - shrink) * estimate
        fresh = 1 - shrink**2
        noise = draw_noise(sample, generator)
        return s / s_start * shrink * sample + a * fresh * estimate + s * math.sqrt(fresh) * noise

    def _position(self, timestep: float | torch.Tensor) -> int:
        found = (self.timesteps == float(timestep)).nonzero()
        if len(found) != 1:
            raise ValueError(f"timestep {float(timestep)} is not one of the {len(self.timesteps)} that set_timesteps has set.")
        return int(found)


def _signal_and_noise(level: float) -> tuple[float, float]:
    """Return a and s at λ = log(a/s), with a² + s² = 1."""
    return 1 / math.sqrt(1 + math.exp(-2 * level)), 1 / math.sqrt(1 + math.exp(2 * level))


def draw_noise(like: torch.Tensor, generator: Generators = None) -> torch.Tensor:
    """Return standard normal noise of the shape, type and device of a batch, from one generator or from one per sample.

    A generator draws on its own device, so that the noise of a seed is the same wherever the batch lies.

    Raises:
        ValueError: for another number of generators than samples.
    """
    if generator is None:
        return torch.randn_like(like)
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
    if len(generator) != len(like):
        raise ValueError(f"{len(generator)} generators for {len(like)} samples: give one each.")
    return torch.stack([torch.randn(like.shape[1:], generator=g, device=g.device) for g in generator]).to(like)
