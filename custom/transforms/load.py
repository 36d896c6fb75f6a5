"""Load a scan by the reader that is named, or fail."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
from monai.data import ImageReader, NibabelReader, PILReader
from monai.transforms import LoadImaged
from PIL import Image

from ..claimed_size import refuse_claims
from ..errors import reading
from ..inflate import compare_checksums

__all__ = ["LoadScand"]


class LoadScand(LoadImaged):
    """MONAI's ``LoadImaged`` without its second choice.

    When the named reader fails, MONAI quietly tries the others. ITK takes the front of an Analyze head for its back, and makes
    zeros of an empty ``.img``: a damaged file would come back as a healthy-looking one. Here a file that the named reader does
    not read is a :py:class:`BadScan`, and so is one whose header claims more than it holds, whose checksum is another, or
    whose voxels are no real numbers.
    """

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        reader = reader or self._loader.readers[-1]  # the last one is the one that was named
        paths = [data[key] for key in self.key_iterator(dict(data))]
        for path in paths:
            with reading(path):
                _refuse_damaged(path, reader)
        with reading(", ".join(map(str, paths))):
            return super().__call__(data, reader=reader)


def _refuse_damaged(path: str | Path, reader: ImageReader) -> None:
    if isinstance(reader, NibabelReader):
        image = nib.load(path)
        refuse_claims(image, path)
        compare_checksums(image)
    elif isinstance(reader, PILReader):
        with Image.open(path) as picture:
            picture.verify()  # compares the checksums of a PNG, which loading it does not
