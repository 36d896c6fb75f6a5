from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite import distributed as idist
from ignite.metrics import Loss
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler, from_engine

from custom.handlers.tracking import WandB


class Recorder(SimpleNamespace):
    """The few functions of the package that are called, noting what they are told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        super().__init__(
            init=lambda **options: self.calls.append(("init", options)),
            define_metric=lambda name, step_metric: self.calls.append(("define", (name, step_metric))),
            log=lambda values: self.calls.append(("log", values)),
            finish=lambda: self.calls.append(("finish", None)),
        )

    def told(self, name: str) -> list:
        return [value for call, value in self.calls if call == name]


def train(wandb: WandB, epochs: int = 2) -> None:
    """Two epochs of two iterations, each followed by a validation."""
    torch.manual_seed(0)
    network, cpu = torch.nn.Linear(3, 2), torch.device("cpu")
    data = [{"image": torch.ones(2, 3), "label": torch.tensor([0, 1])}] * 2
    metric = Loss(torch.nn.CrossEntropyLoss(), output_transform=stacked)
    evaluator = SupervisedEvaluator(cpu, data, network, key_val_metric={"val_loss": metric}, val_handlers=[wandb])
    SupervisedTrainer(
        device=cpu,
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[ValidationHandler(interval=1, validator=evaluator), wandb],
    ).run()


def stacked(output: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    predictions, labels = from_engine(["pred", "label"])(output)
    return torch.stack(predictions), torch.tensor(labels)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    package = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", package)  # type: ignore[arg-type]
    return package


def test_losses_and_metrics_are_logged_by_iteration_and_epoch(recorder: Recorder, tmp_path: Path):
    train(WandB("study", str(tmp_path / "eval"), config={"epochs": 2}))
    (options,) = recorder.told("init")
    assert options == {"project": "study", "dir": str(tmp_path / "eval"), "mode": "offline", "config": {"epochs": 2}}
    assert recorder.told("define") == [("train/*", "iteration"), ("validate/*", "epoch")]
    logged = recorder.told("log")
    assert [v["iteration"] for v in logged if "train/loss" in v] == [1, 2, 3, 4]
    assert [v["epoch"] for v in logged if "validate/val_loss" in v] == [1, 2]
    assert all(type(value) in (float, int) for values in logged for value in values.values())
    assert len(recorder.told("finish")) == 1
    assert recorder.calls[-1][0] == "finish"


def test_only_the_first_process_logs(recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = WandB("study", str(tmp_path))
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    train(wandb)
    assert recorder.calls == []


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match="Weights & Biases is not installed.*pip install wandb"):
        WandB("study", "eval")


def test_the_real_package_writes_a_run_offline(tmp_path: Path):
    pytest.importorskip("wandb", reason="Weights & Biases is no requirement")
    train(WandB("study", str(tmp_path)))
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = run.read_bytes()
    assert b"train/loss" in content
    assert b"validate/val_loss" in content
