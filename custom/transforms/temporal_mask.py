"""Masking in time: some consecutive frames of a window become 0 in training, so that no single frame decides."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

__all__ = ["RandFrameMaskd"]


class RandFrameMaskd(RandomizableTransform, MapTransform):
    """Set 1 … ``max_frames`` consecutive measured frames to 0, the time masking of Park et al. (2019, SpecAugment).

    0 is the mean of a voxel that was z-scored. ``frame_mask`` is not changed: the network is to bear missing frames, not to be
    told of them. At least one measured frame is left. ``masked`` tells the last ones drawn, as a slice.

    Args:
        keys: windows (F, X, Y, Z); ``frame_mask`` (F,) beside them tells which frames were measured, without it all were.
        prob: of masking a window.
        max_frames: most frames to mask.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5, max_frames: int = 2, allow_missing_keys: bool = False) -> None:
        if not 0 <= prob <= 1 or max_frames < 1:
            raise ValueError(f"prob is in [0, 1] and max_frames at least 1, not {prob} and {max_frames}.")
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.max_frames, self.masked = max_frames, slice(0)

    def randomize(self, data: int) -> None:
        """Draw what is masked of so many measured frames."""
        super().randomize(None)
        widest = min(self.max_frames, data - 1)
        if not self._do_transform or widest < 1:
            self.masked = slice(0)
            return
        width = int(self.R.randint(1, widest + 1))
        start = int(self.R.randint(data - width + 1))
        self.masked = slice(start, start + width)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        first = d[self.first_key(d)]
        self.randomize(int(torch.as_tensor(d.get("frame_mask", torch.ones(len(first)))).sum()))
        for key in self.key_iterator(d):
            d[key] = d[key].clone()
            d[key][self.masked] = 0
        return d
