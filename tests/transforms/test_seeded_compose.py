from __future__ import annotations

import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, set_rnd
from monai.transforms import MapTransform, RandGaussianNoised, SelectItemsd

from custom.transforms import SeededCompose

ITEMS = [{"image": torch.zeros(1, 3), "subject": f"sub-{i:02d}"} for i in range(8)]


def noise(num_workers: int, seed: int = 5, items: list[dict] = ITEMS) -> torch.Tensor:
    """One epoch, an item per batch."""
    transform = SeededCompose([RandGaussianNoised("image", prob=1.0, std=1.0)])
    dataset = CacheDataset(items, transform, progress=False)
    loader = DataLoader(dataset, batch_size=1, num_workers=num_workers)
    set_rnd(dataset, seed)
    return torch.cat([batch["image"] for batch in loader])


def test_draws_do_not_depend_on_the_number_of_workers() -> None:
    alone = noise(0)
    assert torch.equal(alone, noise(1))
    assert torch.equal(alone, noise(3))


def test_draws_do_not_depend_on_the_other_items() -> None:
    assert torch.equal(noise(0)[5:], noise(0, items=ITEMS[5:]))


def test_every_item_and_every_epoch_draws_anew() -> None:
    alone = noise(0)
    assert len(torch.unique(alone, dim=0)) == len(ITEMS)
    assert not torch.isclose(alone, noise(0, seed=6)).any()


def test_the_folder_does_not_count() -> None:
    here, there = ([{"image": torch.zeros(1, 3), "source": f"{folder}/scan.nii"}] for folder in ("/here", "/there"))
    assert torch.equal(noise(0, items=here), noise(0, items=there))


class Named(MapTransform):
    """Stand for a reader: a file's name becomes an image that knows it."""

    def __call__(self, data: dict) -> dict:
        return {**data, "image": MetaTensor(torch.zeros(1, 3), meta={"filename_or_obj": data["image"]})}


def cached_noise(cache_num: int, num_workers: int = 0) -> torch.Tensor:
    rows = [
        {"image": f"/data/{i}.nii", "subject": f"s{i}", "scan": f"s{i}_1", "age": 60 + i, "label": i % 2, "slice": i}
        for i in range(6)
    ]
    steps = [SelectItemsd(["image", "label"]), Named("image"), RandGaussianNoised("image", prob=1.0, std=1.0)]
    dataset = CacheDataset(rows, SeededCompose(steps), cache_num=cache_num, progress=False)
    loader = DataLoader(dataset, batch_size=1, num_workers=num_workers)
    set_rnd(dataset, 5)  # which MONAI's loader has seeded too
    return torch.cat([batch["image"].as_tensor() for batch in loader])


def test_draws_do_not_depend_on_what_is_cached() -> None:
    """A row that is read anew holds what the cached item has lost: subject, scan, age."""
    alone = cached_noise(6)
    assert len(torch.unique(alone, dim=0)) == 6
    assert torch.equal(cached_noise(2), alone)
    assert torch.equal(cached_noise(0), alone)
    assert torch.equal(cached_noise(2, num_workers=2), alone)


def test_a_part_of_the_transforms_is_that_part() -> None:
    """As MONAI asks for it; all parts together are the whole."""
    transform = SeededCompose([Named("image"), RandGaussianNoised("image", prob=1.0, std=1.0), Named("image")])
    transform.set_random_state(3)
    row = {"image": "/data/a.nii"}
    assert transform(row, end=0) == row
    half = transform(row, end=1)["image"]
    assert half.meta["filename_or_obj"] == "/data/a.nii"
    assert not half.any()
    noisy = transform(row, end=2)["image"]
    assert noisy.any()
    assert torch.equal(transform({"image": half}, start=1, end=2)["image"], noisy)
