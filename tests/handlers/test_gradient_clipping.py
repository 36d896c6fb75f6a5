from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer

from custom.handlers import GradientClipping


def step(loss_scale: float, max_norm: float | None, batches: int = 1) -> torch.Tensor:
    """Return what one step of plain gradient descent at rate 1 does to the weights; the batches accumulate."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[
            {"image": torch.tensor([[1.0, 2.0, 3.0]]) * (-1) ** i, "label": torch.tensor([[0.0]])} for i in range(batches)
        ],
        accumulation_steps=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, label: loss_scale * prediction.sum(),
        train_handlers=[] if max_norm is None else [GradientClipping(network, max_norm)],
        decollate=False,
    )
    trainer.run()
    return torch.cat([p.detach().flatten() for p in network.parameters()]) - before


def test_a_large_gradient_is_scaled_down_and_keeps_its_direction():
    free, clipped = step(100.0, None), step(100.0, 1.0)
    assert free.norm() == pytest.approx(100 * 15**0.5, rel=1e-4)
    assert clipped.norm() == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(clipped, free / free.norm(), rtol=1e-4, atol=1e-5)


def test_a_small_gradient_is_left_alone():
    torch.testing.assert_close(step(0.1, 1.0), step(0.1, None), rtol=0, atol=0)


def test_what_is_clipped_is_the_accumulated_gradient_and_not_that_of_every_batch():
    """Of 1 and -1 times a row nothing but the bias accumulates, however large either of them is."""
    accumulated = step(100.0, 150.0, batches=2)
    torch.testing.assert_close(accumulated, torch.tensor([0.0, 0.0, 0.0, -100.0]), rtol=0, atol=1e-3)
