"""Batches of windows for a diffusion: random noise levels in training, fixed ones in validation."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import DiffusionPrepareBatch
from monai.networks.schedulers import DDPMScheduler

from ..data.other_windows import NO_CLASS
from ..networks.noise_level import PREDICTION_TYPES
from ..transforms.bold_item import plain_tensor

__all__ = ["DiffusionInput", "FixedLevels"]


class DiffusionInput(DiffusionPrepareBatch):
    """MONAI's preparation of a diffusion's batch, with the target of the scheduler's prediction type.

    The draws come from torch's generator, so that a resumed run repeats them.

    Args:
        scheduler: with ``prediction_type`` v_prediction or epsilon.
        class_dropout: share of the windows whose class the network is not told, for guidance.
        single_frames: share of the batches whose windows are taken apart into windows of one frame, from which a network
            learns to decode a single volume.

    Raises:
        ValueError: for a scheduler of another prediction type.
    """

    def __init__(self, scheduler: DDPMScheduler, class_dropout: float = 0.0, single_frames: float = 0.0) -> None:
        super().__init__(scheduler.num_train_timesteps, condition_name="label")
        if scheduler.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type '{scheduler.prediction_type}' of the scheduler is not one of {', '.join(PREDICTION_TYPES)}."
            )
        self.scheduler, self.class_dropout, self.single_frames = scheduler, class_dropout, single_frames

    def get_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return v or ε."""
        if self.scheduler.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(images, noise, timesteps)
        return noise

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Return windows (B, F, X, Y, Z), target, no further arguments, and noise, timesteps and labels for the inferer.

        Raises:
            ValueError: if a window reaches beyond its run; names its block.
        """
        whole = batchdata["frame_mask"].all(1)
        if not whole.all():
            raise ValueError(
                f"{batchdata['block'][int((~whole).nonzero()[0])]}: its window of {len(batchdata['frame_mask'][0])} frames is "
                "longer than what its run has measured of it: give --frames of the shortest block."
            )
        images, labels = plain_tensor(batchdata["image"]), batchdata["label"].long()
        if self.single_frames and float(torch.rand(())) < self.single_frames:
            labels = labels.repeat_interleave(images.shape[1])
            images = images.flatten(0, 1)[:, None]
        if self.class_dropout:
            labels = torch.where(torch.rand(len(labels)) < self.class_dropout, NO_CLASS, labels)
        return super().__call__({"image": images, "label": labels}, device, non_blocking, **kwargs)


class FixedLevels(DiffusionInput):
    """Every window at the same noise levels and with the same noise, in every epoch: losses that can be compared.

    Args:
        scheduler: as in training.
        num_levels: L timesteps, evenly spread.
        seed: of the noise.
    """

    def __init__(self, scheduler: DDPMScheduler, num_levels: int = 8, seed: int = 0) -> None:
        super().__init__(scheduler)
        self.num_levels, self.seed = num_levels, seed

    @property
    def timesteps(self) -> torch.Tensor:
        """The middles (L,) of L equal parts of the schedule."""
        return ((torch.arange(self.num_levels) + 0.5) / self.num_levels * self.num_train_timesteps).long()

    def get_timesteps(self, images: torch.Tensor) -> torch.Tensor:
        return self.timesteps.repeat(len(images) // self.num_levels)

    def get_noise(self, images: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.num_levels, *images.shape[1:], generator=generator).to(images)
        return noise.repeat(len(images) // self.num_levels, *[1] * (images.ndim - 1))

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Return as :py:class:`DiffusionInput` (B · L, F, X, Y, Z), the levels of a window one after the other."""
        repeated = {key: batchdata[key].repeat_interleave(self.num_levels, 0) for key in ("image", "label", "frame_mask")}
        blocks = [block for block in batchdata["block"] for _ in range(self.num_levels)]
        return super().__call__({**repeated, "block": blocks}, device, non_blocking, **kwargs)
