from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, DistributedWeightedRandomSampler
from monai.engines import SupervisedTrainer
from torch.utils.data import WeightedRandomSampler

from custom.data.sampling import balanced_weights
from custom.handlers import EpochSeed, TrainingState

NAMES = ["early", "middle", "late"]
LABELS = [0] * 80 + [1] * 15 + [2] * 5
ROWS = [{"image": torch.full((3,), float(i)), "label": label} for i, label in enumerate(LABELS)]


def shares(drawn: list[int]) -> np.ndarray:
    return np.bincount([LABELS[i] for i in drawn], minlength=3) / len(drawn)


def test_the_weights_of_every_class_sum_to_one():
    weights = np.array(balanced_weights(ROWS, NAMES))
    np.testing.assert_allclose([weights[np.array(LABELS) == c].sum() for c in range(3)], 1)
    assert len(set(weights[:80])) == 1


def test_the_sampler_draws_every_class_equally_often():
    sampler = WeightedRandomSampler(balanced_weights(ROWS, NAMES), 3000, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(shares(list(sampler)), 1 / 3, atol=0.03)


def test_in_two_processes_too_and_every_process_draws_from_rows_of_its_own():
    weights, drawn = balanced_weights(ROWS, NAMES), []
    for rank in range(2):
        sampler = DistributedWeightedRandomSampler(ROWS, weights, num_samples_per_rank=50, num_replicas=2, rank=rank)
        rows = []
        for epoch in range(40):
            sampler.set_epoch(epoch)
            torch.manual_seed(2 * epoch + rank)
            rows.append(list(sampler))
        drawn.append(rows)
        np.testing.assert_allclose(shares(sum(rows, [])), 1 / 3, atol=0.05)
    assert not any(set(a) & set(b) for a, b in zip(*drawn, strict=True))
    assert drawn[0][0] != drawn[0][1]


@pytest.mark.parametrize(("rows", "absent"), [(ROWS[:95], "late"), (ROWS[:80], "middle, late"), ([], "early, middle, late")])
def test_a_class_without_rows_is_named(rows: list[dict], absent: str):
    with pytest.raises(ValueError, match=f"no training row of class {absent}: merge classes"):
        balanced_weights(rows, NAMES)


def train(folder: Path, epochs: int, resume: bool = False) -> torch.Tensor:
    torch.manual_seed(0)
    network, dataset = torch.nn.Linear(3, 3), Dataset(ROWS)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    sampler = WeightedRandomSampler(balanced_weights(ROWS, NAMES), len(ROWS))
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=20, sampler=sampler),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[
            EpochSeed(0, dataset),
            TrainingState(str(folder / "last.pt"), {"model": network}, evaluator, {"split": {"digest": {}}}, resume),
        ],
    ).run()
    return network.weight.detach().clone()


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(tmp_path: Path):
    uninterrupted = train(tmp_path / "a", 3)
    assert not torch.equal(train(tmp_path / "b", 2), uninterrupted)
    assert torch.equal(train(tmp_path / "b", 3, resume=True), uninterrupted)
