from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer

from custom.handlers.mixup import WindowInput, mix_windows
from custom.handlers.training_state import EpochSeed, TrainingState

FRAMES = 5


def items(number: int = 6) -> list[dict]:
    """Windows (5, 2, 2, 2) of which window i has 5 - i % 3 measured frames."""
    generator = torch.Generator().manual_seed(0)
    mask = [torch.arange(FRAMES) < FRAMES - i % 3 for i in range(number)]
    images = [torch.randn(FRAMES, 2, 2, 2, generator=generator) * m.reshape(-1, 1, 1, 1) for m in mask]
    return [
        {"image": MetaTensor(image, meta={"filename_or_obj": str(i)}), "frame_mask": m, "label": i % 3}
        for i, (image, m) in enumerate(zip(images, mask, strict=True))
    ]


def batch(number: int = 6) -> dict:
    return next(iter(DataLoader(Dataset(items(number)), batch_size=number)))


def test_without_mixing_the_network_is_given_the_batch_and_its_mask():
    for prepare in (WindowInput(), WindowInput(mixup=0.0), WindowInput(num_classes=3)):
        given = batch()
        image, label, args, more = prepare(given, torch.device("cpu"))
        assert torch.equal(image, given["image"])
        assert label.tolist() == [0, 1, 2, 0, 1, 2]
        assert args == ()
        assert torch.equal(more["mask"], given["frame_mask"])


def test_every_window_is_mixed_with_one_other_by_one_share_for_image_and_label():
    """With one-hot rows as images the share and the partner can be read from the result."""
    torch.manual_seed(0)
    size = 8
    image = torch.eye(size).reshape(size, size, 1, 1, 1)  # window i is 1 in frame i
    mixed, label, mask = mix_windows(image, torch.eye(size), torch.ones(size, size, dtype=torch.bool), alpha=0.4)
    assert torch.equal(mixed.reshape(size, size), label)
    assert bool(mask.all())
    share = label.diag()
    torch.testing.assert_close(label.sum(1), torch.ones(size))
    assert bool((label > 0).sum(1).le(2).all())
    # every window is the partner of exactly one, so that column j holds share j and what its partner's window leaves
    others = label - torch.diag(share)
    assert others.gt(0).sum(0).max() == 1
    torch.testing.assert_close(others.sum(1)[share < 1], (1 - share)[share < 1])


def test_the_shares_are_beta_distributed():
    torch.manual_seed(0)
    image = torch.eye(2).repeat(2000, 1).reshape(4000, 2, 1, 1, 1)
    label = torch.zeros(4000, 4000).fill_diagonal_(1.0)
    _, mixed, _ = mix_windows(image, label, torch.ones(4000, 2, dtype=torch.bool), alpha=0.4)
    share = mixed.diag().numpy()
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(0.25 / (2 * 0.4 + 1), abs=0.01)  # of Beta(0.4, 0.4)


def test_frames_that_one_of_the_two_lacks_are_zero_and_not_measured():
    torch.manual_seed(1)
    given = batch()
    partner_masks = set()
    for _ in range(20):
        image, label, _, more = WindowInput(0.4, 3)(given, torch.device("cpu"))
        mask = more["mask"]
        assert not bool((mask & ~given["frame_mask"]).any())
        assert torch.count_nonzero(image[~mask]) == 0
        assert bool(mask[:, 0].all())
        assert label.shape == (6, 3)
        torch.testing.assert_close(label.sum(1), torch.ones(6))
        partner_masks |= set(map(tuple, mask.tolist()))
    assert len(partner_masks) == 3
    assert not isinstance(image, MetaTensor)


def test_a_mixed_batch_is_what_its_parts_say():
    """Against a float64 reference computed from what was drawn."""
    given = batch()
    torch.manual_seed(3)
    image, label, _, more = WindowInput(0.4, 3)(given, torch.device("cpu"))
    torch.manual_seed(3)
    share = torch.distributions.Beta(0.4, 0.4).sample((6,)).double().numpy()
    partner = torch.randperm(6).numpy()
    x, m, y = (np.asarray(given[key]) for key in ("image", "frame_mask", "label"))
    both = m & m[partner]
    wide = share[:, None, None, None, None]
    expected = (wide * x + (1 - wide) * x[partner]) * both[:, :, None, None, None]
    np.testing.assert_allclose(image, expected, atol=1e-6)
    np.testing.assert_allclose(label, share[:, None] * np.eye(3)[y] + (1 - share[:, None]) * np.eye(3)[y[partner]], atol=1e-6)
    assert np.array_equal(more["mask"], both)


@pytest.mark.parametrize("bad", [{"mixup": -0.2, "num_classes": 2}, {"mixup": 0.2}, {"mixup": float("nan"), "num_classes": 2}])
def test_mixing_wants_a_positive_alpha_and_the_number_of_classes(bad: dict):
    with pytest.raises(ValueError, match="mixup is above 0 and wants num_classes"):
        WindowInput(**bad)


class Net(torch.nn.Linear):
    def forward(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        assert mask is not None
        return super().forward((image * mask[:, :, None, None, None]).flatten(1))


def train(folder: Path, epochs: int, resume: bool = False, mixup: float | None = 0.4) -> torch.Tensor:
    torch.manual_seed(0)
    network, dataset = Net(FRAMES * 8, 3), Dataset(items())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    objects = {"model": network, "optimizer": optimizer}
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=4, shuffle=True),
        network=network,
        optimizer=optimizer,
        prepare_batch=WindowInput(mixup, 3),
        loss_function=torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1),
        train_handlers=[
            EpochSeed(0, dataset),
            TrainingState(str(folder / "last.pt"), objects, evaluator, {"split": {"digest": {}}}, resume),
        ],
    ).run()
    return network.weight.detach().clone()


def test_training_with_mixing_resumes_bit_for_bit(tmp_path: Path):
    uninterrupted = train(tmp_path / "a", 4)
    assert not torch.equal(train(tmp_path / "b", 2), uninterrupted)
    assert torch.equal(train(tmp_path / "b", 4, resume=True), uninterrupted)
    assert not torch.equal(train(tmp_path / "c", 4, mixup=None), uninterrupted)
