from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.networks.schedulers import DDPMScheduler

from custom.handlers.diffusion_input import FixedLevels
from custom.handlers.noise_level_loss import NoiseLevelLoss

NUM_LEVELS, SHAPE = 4, (3, 2, 2, 1)


def validator() -> Engine:
    """Hands on predictions and targets as the batches have them."""
    engine = Engine(lambda engine, batch: {"pred": batch[0], "label": batch[1]})
    NoiseLevelLoss(FixedLevels(DDPMScheduler(1000), NUM_LEVELS)).attach(engine, "val_loss")
    return engine


def batches(*windows: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(2, w * NUM_LEVELS, *SHAPE, generator=generator)) for w in windows]


def expected(data: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """Errors (windows, levels)."""
    squares = np.concatenate([(p.numpy() - t.numpy()) ** 2 for p, t in data])
    return squares.reshape(-1, NUM_LEVELS, int(np.prod(SHAPE))).mean(2)


@pytest.mark.parametrize("windows", [(3,), (2, 2, 1), (1, 1, 1, 1)])
def test_the_loss_is_the_mean_error_whatever_the_batches(windows: tuple[int, ...]):
    data = batches(*windows)
    metrics = validator().run(data).metrics
    errors = expected(data)
    assert metrics["val_loss"] == pytest.approx(errors.mean(), rel=1e-6)
    for level, timestep in enumerate((125, 375, 625, 875)):
        assert metrics[f"val_loss_timestep_{timestep}"] == pytest.approx(errors[:, level].mean(), rel=1e-6)
    assert len(metrics) == 1 + NUM_LEVELS
    assert all(type(value) is float for value in metrics.values())


def test_every_epoch_begins_anew():
    engine = validator()
    engine.run(batches(3, seed=1))
    assert engine.run(batches(2)).metrics == validator().run(batches(2)).metrics


def test_timesteps_are_sorted_by_their_names():
    engine = Engine(lambda engine, batch: {"pred": batch[0], "label": batch[1]})
    NoiseLevelLoss(FixedLevels(DDPMScheduler(1000), 8)).attach(engine, "val_loss")
    names = [name for name in engine.run(batches(2)).metrics if "timestep" in name]
    assert names == sorted(names)
    assert names[0] == "val_loss_timestep_062"


def test_predictions_need_no_gradient():
    data = [(torch.zeros(NUM_LEVELS, *SHAPE, requires_grad=True), torch.ones(NUM_LEVELS, *SHAPE))]
    assert validator().run(data).metrics["val_loss"] == 1


def test_half_precision_is_summed_in_double():
    data = [(p.bfloat16(), t) for p, t in batches(3)]
    errors = expected([(p.float(), t) for p, t in data])
    assert validator().run(data).metrics["val_loss"] == pytest.approx(errors.mean(), rel=1e-6)


def test_no_window_has_no_loss():
    metric = NoiseLevelLoss(FixedLevels(DDPMScheduler(1000), NUM_LEVELS))
    with pytest.raises(NotComputableError, match="no window was validated"):
        metric.compute()
