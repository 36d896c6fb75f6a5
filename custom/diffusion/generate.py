"""Samples of a diffusion, each from its own seed: the same whatever the batch it is drawn in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from monai.networks.schedulers import DDPMScheduler, Scheduler
from monai.networks.utils import eval_mode
from torch import nn

from .class_inferer import ClassDiffusionInferer, as_class_labels
from .dpm_solver import DPMSolverScheduler, draw_noise

__all__ = ["generate"]


def generate(
    network: nn.Module,
    scheduler: Scheduler,
    window_shape: Sequence[int],
    class_labels: Sequence[int] | torch.Tensor,
    seeds: Sequence[int],
    guidance: float | None = None,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
    film: int = 0,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Draw windows through MONAI's ``DiffusionInferer.sample``.

    Args:
        network: ``network(x, timesteps, class_labels)`` on ``device``, whose ``num_classes`` says which labels there are.
        scheduler: MONAI's or ours, after its ``set_timesteps``; it is left as it is.
        window_shape: of one sample, (F, X, Y, Z).
        class_labels: of the samples (N,); -1 = of no class.
        seeds: of the samples (N,); the start of a sample and the noise that a stochastic scheduler adds come from it alone.
        guidance: MONAI's ``cfg``, at two evaluations per step; None = the conditional network as it is.
        batch_size: samples at a time.
        device: where to sample.
        film: number of pictures of a film strip, from the noise to the sample in equal numbers of steps; 0 = no film.

    Returns:
        The samples (N, F, X, Y, Z) float32 on the CPU; with a film also that, (N, film, F, X, Y, Z).

    Raises:
        ValueError: for another number of seeds than labels, a label the network does not have, a film of less than two
            pictures or more than there are, MONAI's DDPM with fewer steps than it was trained with, which diverges, or a
            network that makes samples which are not finite (naming their seeds).
    """
    labels = as_class_labels(torch.as_tensor(class_labels), len(class_labels))
    _check(network, scheduler, labels, seeds, film)
    drawn, films = [], []
    with eval_mode(network):
        for first in range(0, len(labels), batch_size):
            part = slice(first, first + batch_size)
            steps = _SeededSteps(scheduler, window_shape, seeds[part], film)
            sample = ClassDiffusionInferer(scheduler).sample(
                steps.start.to(device), network, steps, conditioning=labels[part].to(device), verbose=False, cfg=guidance
            )
            drawn.append(cast(torch.Tensor, sample).cpu())
            films.append(torch.stack(steps.pictures, 1) if film else torch.empty(0))
    samples = torch.cat(drawn)
    broken = [seed for seed, sample in zip(seeds, samples, strict=True) if not sample.isfinite().all()]
    if broken:
        raise ValueError(
            f"samples of seeds {broken} are not finite: the network or its weights are broken, or guidance is too strong."
        )
    return (samples, torch.cat(films)) if film else samples


def _check(network: nn.Module, scheduler: Scheduler, labels: torch.Tensor, seeds: Sequence[int], film: int) -> None:
    if len(seeds) != len(labels) or not len(labels):
        raise ValueError(f"{len(seeds)} seeds for {len(labels)} class labels: give one each, and at least one.")
    classes, steps = int(network.num_classes), len(scheduler.timesteps)  # type: ignore[arg-type]
    strange = sorted({label for label in labels.tolist() if not -1 <= label < classes})
    if strange:
        raise ValueError(f"class labels {strange}: the network knows 0 to {classes - 1}, and -1 for no class.")
    if film and not 2 <= film <= steps + 1:
        raise ValueError(
            f"a film of {film} pictures: {steps} steps have 2 to {steps + 1}, the noise and the sample among them."
        )
    if isinstance(scheduler, DDPMScheduler) and steps < scheduler.num_train_timesteps:
        raise ValueError(
            f"MONAI's DDPMScheduler diverges at {steps} of {scheduler.num_train_timesteps} steps: it removes one training "
            "step's noise each. Take DPMSolverScheduler for fewer steps."
        )


class _SeededSteps:
    """What ``sample`` needs of a scheduler, with a generator per sample and a look at every step."""

    def __init__(self, scheduler: Scheduler, window_shape: Sequence[int], seeds: Sequence[int], film: int) -> None:
        self.scheduler = copy.deepcopy(scheduler)  # it has a state: the solver's last estimate, the device of its tables
        self.scheduler.alphas_cumprod = scheduler.alphas_cumprod.cpu()
        self.timesteps = scheduler.timesteps.cpu()
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.start = draw_noise(torch.empty(len(seeds), *window_shape), self.generators)
        self.shown = set(torch.linspace(0, len(self.timesteps), film).round().int().tolist())
        self.pictures = [self.start] if film else []
        self.done = 0

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.scheduler, DPMSolverScheduler):
            moved, data = self.scheduler.step(model_output, timestep, sample, self.generators)
        else:
            moved, data = self._one_by_one(model_output, timestep, sample)
        self.done += 1
        if self.done in self.shown:
            self.pictures.append(moved.cpu())
        return moved, data

    def _one_by_one(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Step MONAI's schedulers sample by sample on the CPU: they take one generator, on the device of the sample."""
        rows = zip(model_output.to(sample).cpu().split(1), sample.cpu().split(1), self.generators, strict=True)
        moved, data = zip(*(self.scheduler.step(out, timestep, x, generator=g) for out, x, g in rows), strict=True)
        return torch.cat(moved).to(sample), torch.cat(data).to(sample)
