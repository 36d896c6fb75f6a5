"""Random transforms whose draws belong to the item, not to the process that happens to load it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Compose, RandomizableTrait, Transform
from monai.utils import ImageMetaKey
from numpy.random import RandomState
from torch.utils.data import get_worker_info

from .temporal_window import MappedBOLD

__all__ = ["SeededCompose"]


class SeededCompose(Compose):
    """``Compose`` that gives an item the same draws whatever the number of workers, their order and the items before it.

    MONAI seeds every worker: how many there are decides the augmentation. Here the seed of the dataset (of the epoch, see
    :py:class:`custom.handlers.EpochSeed`) and what names the item seed each call. An item drawn twice in an epoch by a sampler
    is augmented alike both times.

    An item is named by what it is after the deterministic transforms, which is what MONAI's ``CacheDataset`` keeps: a row of
    the datalist that is not in the cache holds more, and would else draw otherwise.
    """

    seed: int | None = None

    def set_random_state(self, seed: int | None = None, state: RandomState | None = None) -> SeededCompose:
        """Take the seed of the calls that follow; in a worker, whose seed MONAI would set here, nothing."""
        if get_worker_info() is None:
            self.seed = seed
        return self

    def __call__(self, input_: Mapping[str, Any], start: int = 0, end: int | None = None, **options: Any) -> Any:
        first = self.get_index_of_first(_is_random)
        if self.seed is None or first is None:
            return super().__call__(input_, start=start, end=end, **options)
        if start < first:
            input_ = super().__call__(input_, start=start, end=first if end is None else min(first, end), **options)
        if end is not None and end <= first:
            return input_
        super().set_random_state(seed=zlib.crc32(f"{self.seed} {_name(input_)}".encode()))
        return super().__call__(input_, start=max(start, first), end=end, **options)


def _is_random(transform: Any) -> bool:
    """As ``CacheDataset`` asks it: what comes before is applied once, and kept."""
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def _name(item: Mapping[str, Any]) -> str:
    """Return what tells an item from the others of its dataset, wherever that lies on disc."""
    parts: list[str] = []
    for key, value in item.items():
        if isinstance(value, MetaTensor | MappedBOLD):
            parts.append(Path(str(value.meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))).name)
        elif isinstance(value, str):
            parts.append(Path(value).name)
        elif isinstance(value, int | float):
            parts.append(f"{key}={value}")
    return " ".join(parts)
