from __future__ import annotations

import pytest
import torch
from diffusion.gaussian_problem import SCHEDULE, small_problem
from monai.engines import DiffusionPrepareBatch, SupervisedTrainer, VPredictionPrepareBatch
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from custom.diffusion.class_inferer import ClassDiffusionInferer, as_class_labels

LABELS = torch.tensor([0, 2, 1, 2])


def ddim(steps: int = 8) -> DDIMScheduler:
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
    scheduler.set_timesteps(steps)
    return scheduler


def noise() -> torch.Tensor:
    return torch.randn(4, 2, 3, 2, 1, generator=torch.Generator().manual_seed(1))


class Recorder(nn.Module):
    """Keeps what it was called with; its output has one parameter, to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []

    def forward(self, x: torch.Tensor, timesteps=None, class_labels=None) -> torch.Tensor:
        self.calls.append((x.detach(), timesteps, class_labels))
        return self.scale * x


def sampled(**options) -> torch.Tensor:
    network, scheduler = small_problem(3), ddim()
    return ClassDiffusionInferer(scheduler).sample(noise(), network, verbose=False, **options)


@pytest.mark.parametrize(
    "condition", [LABELS, LABELS[:, None], LABELS.float(), LABELS.float()[:, None]], ids=["int", "column", "float", "both"]
)
def test_training_passes_noisy_windows_timesteps_and_labels(condition: torch.Tensor) -> None:
    network, timesteps = Recorder(), torch.tensor([0, 10, 500, 999])
    inputs = torch.ones(4, 2, 3, 2, 1)
    ClassDiffusionInferer(ddim())(inputs, network, noise=noise(), timesteps=timesteps, condition=condition)
    x, given, labels = network.calls[0]
    squares = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[timesteps].reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(x, (squares.sqrt() + (1 - squares).sqrt() * noise()).float(), atol=1e-5, rtol=0)
    assert torch.equal(given, timesteps)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 2, 1, 2]


def test_training_without_labels_passes_none() -> None:
    network = Recorder()
    ClassDiffusionInferer(ddim())(noise(), network, noise=noise(), timesteps=torch.zeros(4).long())
    assert network.calls[0][2] is None


@pytest.mark.parametrize("velocity", [True, False])
def test_monais_trainer_trains_with_it(velocity: bool) -> None:
    scheduler, network = ddim(), Recorder()
    prepare = VPredictionPrepareBatch(scheduler, 1000, "label") if velocity else DiffusionPrepareBatch(1000, "label")
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": noise(), "label": LABELS}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.MSELoss(),
        inferer=ClassDiffusionInferer(scheduler),
        prepare_batch=prepare,
    )
    trainer.run()
    assert network.calls[0][2].tolist() == LABELS.tolist()
    assert network.scale.item() != 0


def test_sampling_without_guidance_is_the_conditional_network() -> None:
    network, scheduler, x = small_problem(3), ddim(), noise()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None], LABELS), t, x)[0]
    assert torch.equal(sampled(conditioning=LABELS), x)
    assert not torch.allclose(sampled(conditioning=LABELS.flip(0)), x)


def test_guidance_0_is_unconditional() -> None:
    torch.testing.assert_close(sampled(conditioning=LABELS, cfg=0.0), sampled(), atol=1e-6, rtol=0)


def test_guidance_1_is_conditional() -> None:
    torch.testing.assert_close(sampled(conditioning=LABELS, cfg=1.0), sampled(conditioning=LABELS), atol=1e-5, rtol=0)


def test_guidance_asks_without_class_then_with() -> None:
    network = Recorder()
    ClassDiffusionInferer(ddim(1)).sample(noise(), network, conditioning=LABELS[:, None], verbose=False, cfg=3.0)
    assert network.calls[0][2].tolist() == [-1, -1, -1, -1, 0, 2, 1, 2]


def test_guidance_moves_along_the_difference() -> None:
    network = small_problem(3)
    scheduler = ddim(1)  # its one step is linear in the network's output
    inferer = ClassDiffusionInferer(scheduler)
    of = {w: inferer.sample(noise(), network, conditioning=LABELS, verbose=False, cfg=w) for w in (0.0, 1.0, 2.5)}
    torch.testing.assert_close(of[2.5], of[0.0] + 2.5 * (of[1.0] - of[0.0]), atol=1e-3, rtol=1e-4)


def test_label_minus_1_is_no_class() -> None:
    assert torch.equal(sampled(conditioning=torch.full((4,), -1)), sampled())


def test_labels_must_be_one_each_and_whole() -> None:
    with pytest.raises(ValueError, match="3 class labels for 4 windows"):
        as_class_labels(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="whole numbers"):
        as_class_labels(torch.tensor([0.0, 1.5]), 2)
