"""MONAI's diffusion inferer for networks that take a class: what it passes on as ``context`` arrives as ``class_labels``.

Guidance is MONAI's ``cfg``: the output is that without a class plus ``cfg`` times the difference that the class makes, so
that 0 is unconditional, 1 conditional, and more than 1 moves on along that difference (Ho & Salimans, *Classifier-free
diffusion guidance*, 2022, eq. 6 with w = cfg - 1). Its ``cfg_fill_value`` of -1 is our label for "no class".
"""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import DiffusionInferer
from torch import nn

__all__ = ["ClassDiffusionInferer", "as_class_labels"]


class ClassDiffusionInferer(DiffusionInferer):
    """MONAI's ``DiffusionInferer`` around ``network(x, timesteps=, class_labels=)``.

    Training calls it with ``condition=labels`` (``DiffusionPrepareBatch(condition_name="label")``), sampling with
    ``conditioning=labels``, each (B,) or (B, 1), whole numbers of any type, -1 = no class; None = no class for all.
    """

    def __call__(self, inputs: torch.Tensor, diffusion_model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().__call__(inputs, _ClassNetwork(diffusion_model), *args, **kwargs)

    def sample(
        self, input_noise: torch.Tensor, diffusion_model: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        return super().sample(input_noise, _ClassNetwork(diffusion_model), *args, **kwargs)


class _ClassNetwork:
    """A network whose ``context`` are class labels. No ``nn.Module``: it must not register the network a second time."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        labels = None if context is None else as_class_labels(context, len(x))
        return self.network(x, timesteps=timesteps, class_labels=labels)


def as_class_labels(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Return labels (B,) or (B, 1) of any type as (B,) int64.

    Raises:
        ValueError: if there are not ``count`` of them, or some are no whole numbers.
    """
    flat = labels.reshape(-1)
    if len(flat) != count:
        raise ValueError(f"{len(flat)} class labels for {count} windows: give one each.")
    whole = flat.long()
    if flat.is_floating_point() and not torch.equal(whole.to(flat), flat):
        raise ValueError(f"class labels are whole numbers, these are {flat.tolist()}.")
    return whole
