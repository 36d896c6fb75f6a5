from __future__ import annotations

import torch
from monai.data import CacheDataset, DataLoader, set_rnd
from monai.transforms import RandGaussianNoised

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
