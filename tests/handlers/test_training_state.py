from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.transforms import RandGaussianNoised
from trust.faults import in_child

from custom.folder_lock import FolderLock
from custom.handlers import EpochSeed, TrainingState

CPU = torch.device("cpu")


class Killed(Exception):
    """What stands for a kill -9 in mid-epoch."""


def evaluator_engine() -> Engine:
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    return evaluator


def train(
    folder: Path, epochs: int, resume: bool = False, digest: str = "a", width: int = 4, kill_at: int | None = None
) -> tuple[SupervisedTrainer, dict[str, torch.Tensor]]:
    """Train a small network, with dropout, noise and shuffling, that a resumed run must repeat."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    items = [{"image": torch.full((3,), float(i)), "label": i % 2} for i in range(6)]
    dataset = Dataset(items, RandGaussianNoised("image", prob=1.0))
    evaluator = evaluator_engine()
    objects = {"model": network, "optimizer": optimizer, "lr_scheduler": scheduler}
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[
            EpochSeed(0, dataset),
            LrScheduleHandler(scheduler, print_lr=False),
            TrainingState(str(folder / "last.pt"), objects, evaluator, {"split": {"digest": {"training": digest}}}, resume),
        ],
    )

    @trainer.on(Events.ITERATION_COMPLETED)
    def kill() -> None:
        if trainer.state.iteration == kill_at:
            raise Killed

    trainer.run()
    return trainer, {**network.state_dict(), "learning rate": torch.tensor(scheduler.get_last_lr())}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path):
    _, uninterrupted = train(tmp_path / "a", epochs=4)
    _, half = train(tmp_path / "b", epochs=2)
    assert not torch.equal(half["0.weight"], uninterrupted["0.weight"])
    trainer, resumed = train(tmp_path / "b", epochs=4, resume=True)
    assert (trainer.state.epoch, trainer.state.iteration) == (4, 12)
    assert_equal(resumed, uninterrupted)


def test_a_run_killed_in_mid_epoch_repeats_that_epoch(tmp_path: Path):
    _, uninterrupted = train(tmp_path / "a", epochs=3)
    with pytest.raises(Killed):
        train(tmp_path / "b", epochs=3, kill_at=8)
    assert torch.load(tmp_path / "b" / "last.pt", weights_only=True)["trainer"] == {"epoch": 2, "iteration": 6}
    _, resumed = train(tmp_path / "b", epochs=3, resume=True)
    assert_equal(resumed, uninterrupted)


def test_without_resume_the_state_is_not_read(tmp_path: Path):
    _, first = train(tmp_path, epochs=1)
    trainer, again = train(tmp_path, epochs=1)
    assert trainer.state.epoch == 1
    assert_equal(again, first)


def test_the_state_loads_as_tensors_and_plain_values(tmp_path: Path):
    train(tmp_path, epochs=1)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(state) == {"model", "optimizer", "lr_scheduler", "digest", "trainer", "evaluator"}
    assert state["digest"] == {"training": "a"}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_nothing_to_resume_is_said_and_training_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        trainer, _ = train(tmp_path, epochs=1, resume=True)
    assert trainer.state.epoch == 1
    assert f"Nothing to resume: {tmp_path / 'last.pt'} does not exist" in caplog.text


def test_another_split_is_refused(tmp_path: Path):
    train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"last\.pt was trained on another split, or other labels: give its datalist"):
        train(tmp_path, epochs=2, resume=True, digest="b")


def test_another_network_is_refused(tmp_path: Path):
    train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"last\.pt does not fit this configuration's model: (?s:.*)size mismatch"):
        train(tmp_path, epochs=2, resume=True, width=5)


def test_the_best_metric_is_kept(tmp_path: Path):
    """Whatever kind of number the metric is, a state loads with ``weights_only=True``."""
    network = torch.nn.Linear(1, 1)
    datalist = {"split": {"digest": {}}}
    evaluator, trainer = evaluator_engine(), Engine(lambda engine, batch: None)
    trainer.state.device = CPU
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = np.float64(0.75), 3
    TrainingState(str(tmp_path / "last.pt"), {"model": network}, evaluator, datalist).save(trainer)
    fresh = evaluator_engine()
    TrainingState(str(tmp_path / "last.pt"), {"model": network}, fresh, datalist, resume=True).load(trainer)
    assert (fresh.state.best_metric, fresh.state.best_metric_epoch) == (0.75, 3)


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    train(tmp_path, epochs=1)
    assert not (tmp_path / "last.pt").exists()


def draw(seed: int, epoch: int) -> tuple[float, float, float]:
    """Return what torch, NumPy and a random transform draw in an epoch."""
    dataset = Dataset([{"image": torch.zeros(1)}], RandGaussianNoised("image", prob=1.0))
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = epoch
    EpochSeed(seed, dataset)(engine)
    return torch.rand(1).item(), float(np.random.rand()), dataset[0]["image"].item()


def test_an_epoch_draws_the_same_again_and_every_other_epoch_something_else():
    draws = [draw(0, 1), draw(0, 2), draw(1, 1)]
    assert draw(0, 1) == draws[0]
    assert all(len(set(values)) == 3 for values in zip(*draws, strict=True))


def test_two_processes_augment_an_item_alike_and_drop_out_differently(monkeypatch: pytest.MonkeyPatch):
    """As one process would; :py:class:`custom.transforms.SeededCompose` tells the items apart."""
    *dropped, augmented = draw(0, 1)
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    *others, again = draw(0, 1)
    assert again == augmented
    assert not set(others) & set(dropped)


def test_a_new_training_leaves_nothing_of_an_older_one_to_resume(tmp_path: Path):
    """Killed in its first epoch, it begins again; it does not go on with the older one's weights."""
    train(tmp_path, epochs=2)
    with pytest.raises(Killed):
        train(tmp_path, epochs=3, kill_at=2)
    assert not (tmp_path / "last.pt").exists()
    trainer, resumed = train(tmp_path, epochs=3, resume=True)
    assert trainer.state.iteration == 9
    _, uninterrupted = train(tmp_path / "other", epochs=3)
    assert_equal(resumed, uninterrupted)


def test_a_training_that_is_refused_leaves_the_older_state(tmp_path: Path):
    train(tmp_path, epochs=1)
    state = (tmp_path / "last.pt").read_bytes()
    with FolderLock(tmp_path):
        outcome = in_child(lambda: train(tmp_path, epochs=1), tmp_path / "log")
    assert "FolderInUse" in outcome.error
    assert (tmp_path / "last.pt").read_bytes() == state


def test_a_later_round_of_a_federation_keeps_the_state(tmp_path: Path):
    """Its engine starts anew for every round, at the epoch that it has come to."""
    trainer, _ = train(tmp_path, epochs=1)
    state = (tmp_path / "last.pt").read_bytes()
    trainer.state.max_epochs = 2
    trainer.add_event_handler(Events.EPOCH_STARTED, trainer.terminate)
    kept = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: kept.append((tmp_path / "last.pt").read_bytes()))
    trainer.run()
    assert kept == [state]
