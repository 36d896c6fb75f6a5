"""Load a scan by the reader that is named, or fail."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
from monai.data import NibabelReader
from monai.transforms import LoadImaged

from .claimed_size import refuse_claims
from .inflate import compare_checksums

__all__ = ["LoadScand"]


class LoadScand(LoadImaged):
    """MONAI's ``LoadImaged`` without its second choice.

    When the named reader fails, MONAI quietly tries the others. ITK takes the front of an Analyze head for its back, and makes
    zeros of an empty ``.img``: a damaged file would come back as a healthy-looking one. Here the reader's own error is raised,
    and for nibabel's a :py:class:`BadScan` where a header claims more than its file holds.
    """

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        reader = reader or self._loader.readers[-1]  # the last one is the one that was named
        if isinstance(reader, NibabelReader):
            for key in self.key_iterator(data):
                image = nib.load(data[key])
                refuse_claims(image, data[key])
                compare_checksums(image)
        return super().__call__(data, reader=reader)
