"""Gradient clipping before the optimizer's step."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

__all__ = ["GradientClipping"]


class GradientClipping:
    """Scale the gradients down to a total norm of at most ``max_norm`` (Pascanu et al. 2013).

    It acts at the optimizer's step, not at the end of the backward pass: there, accumulated gradients may lack some of their
    batches, and those of a mixed-precision training are still scaled.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)

    def begin(self, engine: Engine) -> None:
        engine.optimizer.register_step_pre_hook(self)  # MONAI gives a trainer its optimizer after its handlers

    def __call__(self, *_: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
