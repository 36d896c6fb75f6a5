"""Generation as an engine, which is what MONAI's tools expect of a bundle's inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, State
from monai.inferers import DiffusionInferer

from ..networks.residual_denoiser import ResidualDenoiser
from .write_samples import write_samples

__all__ = ["SamplingEvaluator"]


class SamplingEvaluator(Engine):
    """Write the samples that a dataset asks for, :py:func:`.write_samples`, after the handlers have loaded the weights.

    Args:
        device: to compute on.
        dataset: an item per class, ``{"class": name}``.
        network: that generates.
        inferer: whose scheduler samples.
        val_handlers: of the engine, such as the one that loads the weights.
        **options: further arguments of :py:func:`.write_samples`.
    """

    def __init__(
        self,
        device: torch.device,
        dataset: Sequence[Mapping[str, str]],
        network: ResidualDenoiser,
        inferer: DiffusionInferer,
        val_handlers: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        super().__init__(
            lambda engine, classes: write_samples(network, inferer.scheduler, classes=classes, device=device, **options)
        )
        self.dataset = dataset
        self.state.device = device
        for handler in val_handlers:
            handler.attach(self)

    def run(self) -> State:
        """Generate; ``state.output`` is what ``samples.json`` holds."""
        classes = [self.dataset[i]["class"] for i in range(len(self.dataset))]
        return super().run([classes], max_epochs=1)
