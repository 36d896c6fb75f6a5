"""Training in bfloat16, on a GPU."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events

__all__ = ["BFloat16"]


class BFloat16:
    """Train in bfloat16 where torch's autocast holds it safe; weights, gradients and optimizer stay float32.

    bfloat16 has the exponents of float32, so the loss is not scaled: the trainer's GradScaler is replaced by one that does
    nothing, gradient clipping sees the gradients as they are, and there is no scale to be saved for a resumed run.

    On a CPU it is refused: torch 2.13 computes wrong weight gradients of bfloat16 convolutions there for small feature maps.
    """

    def attach(self, engine: Engine) -> None:
        """Switch the trainer to bfloat16.

        Raises:
            ValueError: if the trainer's device is no GPU.
        """
        device = engine.state.device
        if device.type != "cuda":
            raise ValueError(
                f"training in bfloat16 on '{device}' is refused: torch's gradients of bfloat16 convolutions are wrong there. "
                "Train on a GPU, or without this overlay."
            )
        engine.amp, engine.amp_kwargs = True, {"dtype": torch.bfloat16}
        engine.add_event_handler(Events.STARTED, _do_not_scale)


def _do_not_scale(engine: Engine) -> None:
    engine.scaler = torch.amp.GradScaler("cuda", enabled=False)  # MONAI makes a new one whenever a trainer runs
