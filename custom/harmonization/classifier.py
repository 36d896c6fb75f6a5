"""The deployed network: extractor → affine map of the site → linear head, in one module."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatch, default_prepare_batch
from torch import nn

from ..networks.weights_digest import weights_digest
from .affine import SiteAffine

__all__ = ["HarmonizedClassifier", "SiteInput"]


class HarmonizedClassifier(nn.Module):
    """A feature extractor whose features are harmonized before a linear head.

    The harmonizer belongs to the weights of the extractor that it was fitted on: loading others is an error.

    Args:
        extractor: with ``forward_features(image, mask)`` → (B, num_features) and ``states(image)`` → (B, frames,
            num_features), whose mean over the frames is the feature.
        num_features: of the extractor.
        num_classes: number of logits.
        sites: known before any state is loaded, with identity rows.
    """

    extractor: Any

    def __init__(self, extractor: nn.Module, num_features: int = 64, num_classes: int = 2, sites: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.extractor = extractor
        self.harmonizer = SiteAffine(num_features, sites)
        self.head = nn.Linear(num_features, num_classes)
        self.register_load_state_dict_post_hook(_check_extractor)

    def forward(self, image: torch.Tensor, site: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, X, Y, Z), (B,) rows of ``harmonizer.index``, (B, T) validity of the frames → logits (B, num_classes)."""
        return self.head(self.harmonizer(self.extractor.forward_features(image, mask), site))

    def evidence(self, image: torch.Tensor, site: torch.Tensor) -> torch.Tensor:
        """Return the logits of the frames that count (B, frames, num_classes).

        Map and head are affine, so the mean over the frames is :meth:`forward`.
        """
        states = self.extractor.states(image)
        frames = states.shape[1]
        harmonized = self.harmonizer(states.flatten(0, 1), site.repeat_interleave(frames))
        return self.head(harmonized).unflatten(0, (-1, frames))

    def check_extractor(self) -> None:
        """Raise ValueError if the harmonizer was fitted on another extractor's features; done whenever a state is loaded."""
        digest = self.harmonizer.feature_digest
        if digest and digest != weights_digest(self.extractor):
            raise ValueError(
                "the harmonizer was fitted on the features of another extractor than the one it is loaded with: run the stages "
                "of harmonization and head again."
            )


def _check_extractor(network: HarmonizedClassifier, _: Any) -> None:
    network.check_extractor()


class SiteInput(PrepareBatch):
    """Give the engine's network the row of each scan's site, and which frames are valid.

    Args:
        harmonizer: that knows the sites.
    """

    def __init__(self, harmonizer: SiteAffine) -> None:
        self.harmonizer = harmonizer

    def __call__(self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any) -> tuple:
        """Return image, label, no positional arguments, and ``site`` and ``mask`` for the network."""
        image, label = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        site = self.harmonizer.index(batchdata["site"]).to(device)
        return image, label, (), {"site": site, "mask": batchdata["frame_mask"].to(device)}
