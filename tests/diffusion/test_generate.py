from __future__ import annotations

import math

import pytest
import torch
from diffusion.gaussian_problem import SCHEDULE, GaussianProblem, small_problem
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, Scheduler
from torch import nn

from custom.diffusion.dpm_solver import DPMSolverScheduler
from custom.diffusion.generate import generate

PREDICTION = {"prediction_type": "v_prediction", "clip_sample": False}
SHORT = {"num_train_timesteps": 40, "beta_start": 2e-3, "beta_end": 0.3}  # a schedule that DDPM goes through quickly


class EtaDDIM(DDIMScheduler):
    """MONAI's DDIM with η = 1, which its ``sample`` has no way to ask for."""

    def step(self, model_output, timestep, sample, generator=None):
        return super().step(model_output, timestep, sample, 1.0, generator)


def scheduler(kind: str) -> Scheduler:
    if kind == "DDPM":
        return DDPMScheduler(**SHORT, **PREDICTION)
    if kind.startswith("DPM"):
        made = DPMSolverScheduler(**SCHEDULE, stochastic=kind == "DPM-Solver++ SDE")
    else:
        made = {"DDIM": DDIMScheduler, "DDIM eta 1": EtaDDIM}[kind](**SCHEDULE, **PREDICTION)
    made.set_timesteps(8)
    return made


class Mixing(nn.Module):
    """A convolution over space: a real network's kernels, which may differ by the batch in the last bits."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.drop = nn.Conv3d(2, 2, 3, padding=1), nn.Dropout(0.5)
        self.classes = nn.Embedding(4, 2)

    def forward(self, x: torch.Tensor, timesteps=None, class_labels=None) -> torch.Tensor:
        shift = self.classes(class_labels % 4)[:, :, None, None, None]
        return self.drop(torch.tanh(self.mix(x) + shift + 1e-3 * timesteps.reshape(-1, 1, 1, 1, 1)))


KINDS = ["DDPM", "DDIM", "DDIM eta 1", "DPM-Solver++", "DPM-Solver++ SDE"]
SEEDS, LABELS = [11, 12, 13, 11, 2**40], [0, 1, 2, 0, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_depends_on_its_seed_and_label_alone(kind: str) -> None:
    network, shape = Mixing(), (2, 3, 4, 2)
    whole = generate(network, scheduler(kind), shape, LABELS, SEEDS, batch_size=5)
    assert whole.shape == (5, *shape)
    for size in (1, 2, 3):
        torch.testing.assert_close(
            generate(network, scheduler(kind), shape, LABELS, SEEDS, batch_size=size), whole, atol=1e-5, rtol=0
        )
    backwards = generate(network, scheduler(kind), shape, LABELS[::-1], SEEDS[::-1], batch_size=3)
    torch.testing.assert_close(backwards.flip(0), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[0], whole[3], atol=1e-5, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_at_one_batch_size_the_same_bits(kind: str) -> None:
    made = scheduler(kind)
    first, again = (generate(Mixing(), made, (2, 3, 4, 2), LABELS, SEEDS, batch_size=2) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM eta 1", "DPM-Solver++ SDE"])
def test_a_stochastic_sampler_draws_on_after_the_start(kind: str) -> None:
    """The noise of its steps is not the start once more, which a generator made anew for the steps would draw."""
    drawn: list[torch.Tensor] = []

    class Spy(nn.Module):
        num_classes = 1

        def forward(self, x: torch.Tensor, timesteps=None, class_labels=None) -> torch.Tensor:
            drawn.append(x.clone())
            return torch.zeros_like(x)

    generate(Spy(), scheduler(kind), (2, 8, 8, 8), [0], [5])
    start, after = drawn[0].flatten(), drawn[1].flatten()
    fresh = after - (after @ start) / (start @ start) * start
    assert fresh.norm() / after.norm() > 0.1
    assert torch.equal(drawn[0][0], torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(5)))


def test_ddpm_samples_the_distribution() -> None:
    short, count = DDPMScheduler(num_train_timesteps=100, beta_start=1e-3, beta_end=0.2, **PREDICTION), 150
    problem = small_problem(frames=1)
    network = GaussianProblem(problem.means, (problem.axes * problem.variances) @ problem.axes.T, short.alphas_cumprod)
    samples = generate(network, short, problem.window_shape, [0] * count, range(count), batch_size=count).flatten(1).double()
    along = (samples - problem.means.flatten()) @ problem.axes / problem.variances.sqrt()
    assert (along.mean(0).abs() < 4 / math.sqrt(count)).all()
    assert along.var(0).sub(1).abs().max() < 4 * math.sqrt(2 / count)


def test_with_the_solver_every_class_comes_from_its_own_gaussian() -> None:
    problem, made = small_problem(3), scheduler("DPM-Solver++")
    made.set_timesteps(20)
    labels = torch.arange(3).repeat(500)
    samples = generate(problem, made, problem.window_shape, labels, range(1500), batch_size=1500)
    for label in range(3):
        off = (samples[labels == label].double().mean(0) - problem.means[label]).abs().max()
        assert off < 4 * math.sqrt(0.5 / 500)


def test_guidance_0_and_1() -> None:
    problem = small_problem(3)
    labels, none = [0, 1, 2], [-1, -1, -1]

    def drawn(wanted: list[int], guidance: float | None) -> torch.Tensor:
        return generate(problem, scheduler("DPM-Solver++"), problem.window_shape, wanted, [1, 2, 3], guidance)

    torch.testing.assert_close(drawn(labels, 0.0), drawn(none, None), atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn(labels, 1.0), drawn(labels, None), atol=1e-5, rtol=0)
    assert (drawn(labels, 1.0) - drawn(labels, 0.0)).abs().max() > 0.1
    assert (drawn(labels, 2.0) - drawn(labels, 1.0)).abs().max() > 0.1


def test_evaluations_are_the_steps_and_twice_with_guidance() -> None:
    problem = small_problem(3)
    generate(problem, scheduler("DPM-Solver++"), problem.window_shape, [0, 1], [0, 1])
    assert problem.evaluations == 2 * 8
    generate(problem, scheduler("DPM-Solver++"), problem.window_shape, [0, 1], [0, 1], guidance=2.0)
    assert problem.evaluations == 2 * 8 + 2 * 2 * 8


@pytest.mark.parametrize("kind", KINDS)
def test_film_runs_from_noise_to_sample(kind: str) -> None:
    problem, made = small_problem(), scheduler(kind)
    samples, film = generate(problem, made, problem.window_shape, [0] * 3, [1, 2, 3], batch_size=2, film=4)
    assert film.shape == (3, 4, *problem.window_shape)
    assert torch.equal(film[:, -1], samples)
    for strip, seed in zip(film, (1, 2, 3), strict=True):
        assert torch.equal(strip[0], torch.randn(problem.window_shape, generator=torch.Generator().manual_seed(seed)))
    whole = generate(problem, made, problem.window_shape, [0] * 3, [1, 2, 3], film=len(made.timesteps) + 1)[1]
    assert whole.shape[1] == len(made.timesteps) + 1
    torch.testing.assert_close(whole[:, round(len(made.timesteps) / 3)], film[:, 1], atol=1e-5, rtol=0)


def test_network_is_evaluated_and_goes_on_training() -> None:
    network = Mixing().train()
    first, again = (generate(network, scheduler("DDIM"), (2, 3, 4, 2), [0], [1]) for _ in range(2))
    assert torch.equal(first, again)  # no dropout
    assert not first.requires_grad
    assert network.training


def test_the_scheduler_is_left_as_it_is() -> None:
    """Even in the middle of a sampling of its owner's, whose last estimate it holds."""
    problem, x = small_problem(), torch.ones(1, 2, 3, 2, 1)

    def second_step(between) -> torch.Tensor:
        made = scheduler("DPM-Solver++")
        first, second = made.timesteps[:2]
        moved = made.step(problem(x, first[None]), first, x)[0]
        between(made)
        return made.step(problem(moved, second[None]), second, moved)[0]

    disturbed = second_step(lambda made: generate(problem, made, (2, 3, 2, 1), [0], [1]))
    assert torch.equal(disturbed, second_step(lambda made: None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 2 class labels"),
        ({"seeds": [], "class_labels": []}, "at least one"),
        ({"class_labels": [0, 3]}, r"class labels \[3\]: the network knows 0 to 2"),
        ({"class_labels": [-2, 1]}, r"class labels \[-2\]"),
        ({"class_labels": [0.5, 1]}, "whole numbers"),
        ({"film": 1}, "film of 1 pictures"),
        ({"film": 10}, "8 steps have 2 to 9"),
    ],
)
def test_errors_name_what_is_wrong(changes: dict, message: str) -> None:
    options = {"class_labels": [0, 1], "seeds": [1, 2]} | changes
    with pytest.raises(ValueError, match=message):
        generate(small_problem(3), scheduler("DDIM"), (2, 3, 2, 1), **options)


def test_few_steps_of_ddpm_are_refused() -> None:
    made = DDPMScheduler(**SCHEDULE, **PREDICTION)
    made.set_timesteps(50)
    with pytest.raises(ValueError, match="DDPMScheduler diverges at 50 of 1000"):
        generate(small_problem(), made, (2, 3, 2, 1), [0], [1])


def test_samples_that_are_not_finite_name_their_seeds() -> None:
    class Broken(nn.Module):
        num_classes = 2

        def forward(self, x: torch.Tensor, timesteps=None, class_labels=None) -> torch.Tensor:
            return torch.where(class_labels.reshape(-1, 1, 1, 1, 1) == 1, torch.inf, 0 * x)

    with pytest.raises(ValueError, match=r"seeds \[8\] are not finite"):
        generate(Broken(), scheduler("DPM-Solver++"), (2, 3, 2, 1), [0, 1], [7, 8])
