"""Batches of windows for a network that takes a frame mask; in training, mixed ones."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatchExtraInput

from ..transforms.bold_item import plain_tensor

__all__ = ["WindowInput", "mix_windows"]


class WindowInput(PrepareBatchExtraInput):
    """Give ``frame_mask`` to the network as ``mask``, and for training mix the windows of a batch, :py:func:`mix_windows`.

    The draws come from torch's generator, so that a resumed run repeats them, and processes with seeds of their own draw their
    own (:py:class:`.EpochSeed`). ``monai.transforms.MixUp`` mixes neither class indices nor masks nor an incomplete batch.

    Args:
        mixup: alpha of the Beta distribution of the shares, 0.1 - 0.4 as a rule; None or 0 mixes nothing, as for an evaluator.
        num_classes: of the labels, which mixing needs.

    Raises:
        ValueError: for a negative ``mixup``, or one without ``num_classes``.
    """

    def __init__(self, mixup: float | None = None, num_classes: int | None = None) -> None:
        super().__init__({"mask": "frame_mask"})
        if mixup and (not mixup > 0 or num_classes is None):
            raise ValueError(f"mixup is above 0 and wants num_classes; they are {mixup} and {num_classes}.")
        self.mixup, self.num_classes = mixup, num_classes

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict[str, torch.Tensor]]:
        """Return image (B, F, X, Y, Z), label, no further arguments, and the mask (B, F) as ``mask``.

        Labels are class indices (B,), of a mixed batch probabilities (B, num_classes): PyTorch's CrossEntropyLoss takes both.
        """
        image, label, args, more = super().__call__(batchdata, device, non_blocking, **kwargs)
        if self.mixup and self.num_classes:
            probabilities = torch.nn.functional.one_hot(label.long(), self.num_classes).to(image.dtype)
            # of two scans there is no one file name and affine: a plain tensor
            image, label, more["mask"] = mix_windows(plain_tensor(image), probabilities, more["mask"], self.mixup)
        return image, label, args, more


def mix_windows(
    image: torch.Tensor, label: torch.Tensor, mask: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix every window with another one of the batch: share · a + (1 - share) · b (Zhang et al. 2018, eq. 1).

    Args:
        image: (B, F, X, Y, Z), frames that were not measured are 0.
        label: probabilities (B, num_classes).
        mask: (B, F), True where a frame was measured.
        alpha: every share is drawn from Beta(alpha, alpha).

    Returns:
        Image and label, mixed, and the mask of the frames that were measured in both; the others are 0.
    """
    share = torch.distributions.Beta(alpha, alpha).sample((len(image),)).to(image)
    partner = torch.randperm(len(image)).to(image.device)
    both = mask & mask[partner]
    mixed = _mixed(image, partner, share) * _across(both, image)
    return mixed, _mixed(label, partner, share), both


def _mixed(values: torch.Tensor, partner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return torch.lerp(values[partner], values, _across(share, values))


def _across(factors: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return factors (B, …) with as many dimensions as the values they multiply."""
    return factors.reshape(*factors.shape, *[1] * (values.ndim - factors.ndim))
