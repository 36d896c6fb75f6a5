from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from custom.data.near_duplicates import near_duplicate_groups

SIDE = 96


def picture(seed: int) -> Image.Image:
    """Return a smooth grey picture, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


CHANGES = {
    "copied": lambda image: image.copy(),
    "darker": lambda image: image.point(lambda v: 0.6 * v),
    "in colour": lambda image: image.convert("RGB"),
    "compressed": compressed,
    "smaller": lambda image: image.resize((SIDE * 2 // 3, SIDE * 2 // 3)),
    "noisy": lambda image: Image.fromarray(
        np.uint8(np.clip(np.asarray(image) + np.random.default_rng(0).normal(0, 3, (SIDE, SIDE)), 0, 255))
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_shares_the_group_of_its_original(change):
    first, stranger, copy = near_duplicate_groups([picture(1), picture(2), change(picture(1))])
    assert copy == first != stranger


def test_strangers_have_groups_of_their_own():
    assert len(set(near_duplicate_groups([picture(seed) for seed in range(30)]))) == 30


def test_a_chain_is_one_group():
    """Neighbouring slices: each is like the next, the first is not like the last."""
    start, end = (np.asarray(picture(seed), dtype=float) for seed in (1, 2))
    chain = [Image.fromarray(np.uint8((1 - t) * start + t * end)) for t in np.linspace(0, 1, 40)]
    assert len(set(near_duplicate_groups([chain[0], chain[-1]]))) == 2
    assert len(set(near_duplicate_groups(chain))) == 1


def test_a_wider_distance_joins_more():
    pictures = [picture(seed) for seed in range(8)]
    assert len(set(near_duplicate_groups(pictures, max_distance=1.0))) == 1


def test_the_groups_do_not_depend_on_the_order():
    pictures = [picture(seed) for seed in (1, 2, 1, 3, 2)]
    groups = near_duplicate_groups(pictures)
    turned = near_duplicate_groups(pictures[::-1])[::-1]
    assert [[a == b for b in groups] for a in groups] == [[a == b for b in turned] for a in turned]
