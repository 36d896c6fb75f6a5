"""What configurations take from MONAI and torch to train with: accumulated gradients, warm-up and cosine, smoothed labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule

from custom.handlers import EpochSeed, TrainingState

IMAGES = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 2


def batches(rows: int, size: int) -> list[dict]:
    return [{"image": IMAGES[i : i + size], "label": LABELS[i : i + size]} for i in range(0, rows, size)]


def trainer(data: list[dict], lr: float = 0.5, epochs: int = 1, **more: object) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=torch.nn.CrossEntropyLoss(),
        decollate=False,
        **more,
    )


def weights(engine: SupervisedTrainer) -> torch.Tensor:
    engine.run()
    return engine.network.weight.detach().clone()


@pytest.mark.parametrize("number", [2, 3, 6])
def test_micro_batches_step_as_the_batch_they_make_up(number: int):
    whole = weights(trainer(batches(12, 6), epochs=2))
    parts = weights(trainer(batches(12, 6 // number), epochs=2, accumulation_steps=number))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    assert not torch.allclose(weights(trainer(batches(12, 6 // number), epochs=2)), whole, atol=1e-3)


def test_an_incomplete_group_steps_at_the_end_of_the_epoch_and_every_row_counts_the_same():
    """Five micro-batches in groups of three: two steps, the second one with 2/3 of a whole group's weight."""
    engine, steps = trainer(batches(10, 2), accumulation_steps=3), []
    engine.optimizer.register_step_post_hook(lambda *_: steps.append(engine.state.iteration))
    after = weights(engine)
    assert steps == [3, 5]
    first = trainer(batches(6, 6))
    middle = weights(first)
    network = torch.nn.Linear(3, 2)
    network.load_state_dict(first.network.state_dict())
    (torch.nn.functional.cross_entropy(network(IMAGES[6:10]), LABELS[6:10]) * 2 / 3).backward()
    torch.testing.assert_close(after, middle - 0.5 * network.weight.grad, rtol=0, atol=1e-6)


def rates(folder: Path, epochs: int, resume: bool = False) -> list[float]:
    """Train with warm-up over 10 of 60 iterations and cosine decay, and return the learning rate of every iteration."""
    data = batches(12, 2)
    engine = trainer(data, lr=0.2, epochs=epochs)
    schedule = WarmupCosineSchedule(engine.optimizer, warmup_steps=10, t_total=60, warmup_multiplier=0.1, end_lr=1e-4)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    objects = {"model": engine.network, "optimizer": engine.optimizer, "lr_scheduler": schedule}
    found: list[float] = []
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: found.append(engine.optimizer.param_groups[0]["lr"]))
    for handler in (
        EpochSeed(0, data),
        LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
        TrainingState(str(folder / "last.pt"), objects, evaluator, {"split": {"digest": {}}}, resume),
    ):
        handler.attach(engine)
    engine.run()
    return found


def test_the_rate_warms_up_reaches_its_peak_and_decays_as_a_cosine(tmp_path: Path):
    found = rates(tmp_path, 10)
    expected = [0.1 + 0.9 * i / 10 if i < 10 else 0.5 * (1 + math.cos(math.pi * (i - 10) / 50)) for i in range(60)]
    np.testing.assert_allclose(found, np.maximum(0.2 * np.array(expected), 1e-4), rtol=1e-9)
    assert max(found) == found[10] == pytest.approx(0.2)
    assert found[-1] < 0.01 * 0.2


def test_a_resumed_run_goes_on_with_the_rate_of_an_uninterrupted_one(tmp_path: Path):
    uninterrupted = rates(tmp_path / "a", 4)
    first = rates(tmp_path / "b", 1)  # within the warm-up
    assert first + rates(tmp_path / "b", 4, resume=True) == uninterrupted


def test_smoothed_labels_are_the_mixture_that_they_say():
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hot = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1]), 3).double()
    expected = -((0.9 * hot + 0.1 / 3) * logits.log_softmax(1)).sum(1).mean()
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    torch.testing.assert_close(loss(logits, hot.argmax(1)), expected)
    torch.testing.assert_close(loss(logits, hot), expected)  # as mixup gives them
