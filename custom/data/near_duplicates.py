"""Groups of images that look the same, for collections whose files bear no subject.

Neighbouring slices and copies of one person's scan are nearly equal pictures: on two sides of a split they are a leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import radius_neighbors_graph

__all__ = ["near_duplicate_groups"]

HASH_SIDE = 16


def near_duplicate_groups(pictures: Sequence[Image.Image], max_distance: float = 0.1) -> list[int]:
    """Return a group number per picture; pictures chained by near-equal perceptual hashes share one.

    The hash is ImageHash's ``phash`` of 16×16 bits: the signs of the low frequencies of the picture, hence blind to
    brightness, contrast and compression.

    Args:
        pictures: grey or colour.
        max_distance: largest fraction of differing bits between near-duplicates. Axial slices of 132 different OASIS-1
            subjects at one position differ in 0.148 or more, neighbouring slices of one subject in 0.03-0.1.
    """
    bits = np.array([imagehash.phash(p.convert("L"), hash_size=HASH_SIDE).hash.ravel() for p in pictures])
    graph = radius_neighbors_graph(bits, max_distance, metric="hamming", include_self=True)
    return connected_components(graph, directed=False)[1].tolist()
