"""Gradient clipping between backward pass and optimizer step."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents

__all__ = ["GradientClipping"]


class GradientClipping:
    """Scale the gradients down to a total norm of at most ``max_norm`` (Pascanu et al. 2013)."""

    def __init__(self, network: torch.nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
