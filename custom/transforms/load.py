"""Load a scan by the reader that is named, or fail."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import LoadImaged

__all__ = ["LoadScand"]


class LoadScand(LoadImaged):
    """MONAI's ``LoadImaged`` without its second choice.

    When the named reader fails, MONAI quietly tries the others. ITK takes the front of an Analyze head for its back, and makes
    zeros of an empty ``.img``: a damaged file would come back as a healthy-looking one. Here the reader's own error is raised.
    """

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        return super().__call__(data, reader=reader or self._loader.readers[-1])  # the last one is the one that was named
