from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusion.gaussian_problem import SCHEDULE, GaussianProblem, small_problem
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler

from custom.diffusion.dpm_solver import DPMSolverScheduler, draw_noise

SQUARES = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def solver(steps: int, **options) -> DPMSolverScheduler:
    scheduler = DPMSolverScheduler(**SCHEDULE, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def noise(problem: GaussianProblem, count: int = 16) -> torch.Tensor:
    return torch.randn(count, *problem.window_shape, generator=torch.Generator().manual_seed(3))


def run(problem: GaussianProblem, scheduler, x: torch.Tensor, generator=None) -> torch.Tensor:
    options = {} if generator is None else {"generator": generator}
    for t in scheduler.timesteps:
        x = scheduler.step(problem(x, t[None]), t, x, **options)[0]
    return x


def exact(problem: GaussianProblem, start: torch.Tensor) -> torch.Tensor:
    """Where the flow takes the noise, and the estimate there: what infinitely many steps return."""
    return problem.denoised(problem.flow(start, 999.0, 0.0), torch.zeros(1))


def error(problem: GaussianProblem, scheduler) -> float:
    wanted = exact(problem, noise(problem))
    return float((run(problem, scheduler, noise(problem)) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_timesteps_are_equally_far_apart_in_log_snr(steps: int) -> None:
    timesteps = solver(steps).timesteps
    assert timesteps.dtype == torch.float32
    assert (timesteps[0], timesteps[-1]) == (999, 0)
    at = np.interp(timesteps.double().numpy(), np.arange(1000), np.log(SQUARES / (1 - SQUARES)))
    wanted = np.linspace(math.log(SQUARES[-1] / (1 - SQUARES[-1])), math.log(SQUARES[0] / (1 - SQUARES[0])), steps)
    np.testing.assert_allclose(at, wanted, atol=5e-4)  # MONAI multiplies in float32


@pytest.mark.parametrize(("order", "slope"), [(1, 1.0), (2, 2.0)])
def test_order_of_convergence(order: int, slope: float) -> None:
    problem = small_problem(grid=(4, 3, 1))
    steps = np.array([10, 20, 40, 80])
    errors = [error(problem, solver(int(n), order=order)) for n in steps]
    measured = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert measured == pytest.approx(slope, abs=0.35)
    assert -np.log2(errors[3] / errors[2]) == pytest.approx(slope, abs=0.15)


def test_20_steps_beat_ddim_at_20_and_at_50() -> None:
    problem = small_problem(grid=(4, 3, 1))
    ours = error(problem, solver(20))
    assert ours < 0.015
    for steps, times in ((20, 4), (50, 2)):
        ddim = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
        ddim.set_timesteps(steps)
        assert error(problem, ddim) > times * ours


def test_of_first_order_it_is_ddim() -> None:
    problem = small_problem()
    ours, ddim = solver(3, order=1), DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
    ddim.set_timesteps(50)  # its steps are 20 timesteps long
    ours.timesteps = torch.tensor([600.0, 580.0, 0.0])
    x = noise(problem)
    output = problem(x, torch.tensor([600]))
    for got, wanted in zip(ours.step(output, 600.0, x), ddim.step(output, 600, x), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_of_first_order_and_stochastic_it_is_ddim_at_eta_1() -> None:
    problem = small_problem()
    ours = solver(3, order=1, stochastic=True)
    ddim = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
    ddim.set_timesteps(50)
    ours.timesteps = torch.tensor([600.0, 580.0, 0.0])
    x = noise(problem)
    output = problem(x, torch.tensor([600]))
    got = ours.step(output, 600.0, x, torch.Generator().manual_seed(7))[0]
    wanted = ddim.step(output, 600, x, eta=1.0, generator=torch.Generator().manual_seed(7))[0]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_the_stochastic_solver_samples_the_distribution() -> None:
    problem, count = small_problem(frames=1), 6000
    samples = run(problem, solver(50, stochastic=True), noise(problem, count), torch.Generator().manual_seed(5))
    samples = samples.flatten(1).double()
    along = (samples - problem.means.flatten()) @ problem.axes  # independent, of known variance
    assert (along.mean(0).abs() < 4 * (problem.variances / count).sqrt()).all()
    ratios = torch.cov((along / problem.variances.sqrt()).T)
    assert ratios.diagonal().sub(1).abs().max() < 4 * math.sqrt(2 / count)
    assert (ratios - ratios.diagonal().diag()).abs().max() < 4.5 / math.sqrt(count)


def test_the_flow_samples_the_distribution() -> None:
    problem, count = small_problem(frames=1), 6000
    along = (run(problem, solver(20), noise(problem, count)).flatten(1).double() - problem.means.flatten()) @ problem.axes
    ratios = along.var(0) / problem.variances
    assert ratios.sub(1).abs().max() < 0.03 + 4 * math.sqrt(2 / count)


@pytest.mark.parametrize("stochastic", [False, True])
def test_epsilon_and_velocity_agree(stochastic: bool) -> None:
    results = []
    for kind in ("v_prediction", "epsilon"):
        problem = small_problem(prediction_type=kind)
        generator = torch.Generator().manual_seed(5)
        scheduler = solver(20, prediction_type=kind, stochastic=stochastic)
        results.append(run(problem, scheduler, noise(problem), generator))
    torch.testing.assert_close(*results, atol=2e-4, rtol=0)


def test_monais_inferer_samples_with_it() -> None:
    problem, asked = small_problem(), []

    def network(x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        asked.append(float(timesteps))
        return problem(x, timesteps)

    scheduler = solver(12)
    got = DiffusionInferer(scheduler).sample(noise(problem), network, verbose=False)
    assert torch.equal(got, run(problem, solver(12), noise(problem)))
    assert asked == scheduler.timesteps.tolist()
    assert any(t % 1 for t in asked)


def test_the_last_step_returns_the_estimate() -> None:
    problem, scheduler = small_problem(), solver(5)
    x = problem.flow(noise(problem), 999.0, 0.0)
    moved, estimate = scheduler.step(problem(x, torch.zeros(1)), scheduler.timesteps[-1], x)
    assert torch.equal(moved, estimate)
    torch.testing.assert_close(estimate, problem.denoised(x, torch.zeros(1)), atol=1e-5, rtol=0)


def test_an_earlier_sampling_leaves_no_trace() -> None:
    problem, scheduler = small_problem(), solver(10)
    wanted = run(problem, solver(10), noise(problem))
    run(problem, scheduler, noise(problem) + 1)
    assert torch.equal(run(problem, scheduler, noise(problem)), wanted)
    for t in scheduler.timesteps[:4]:  # one that was broken off
        scheduler.step(torch.ones_like(wanted), t, torch.ones_like(wanted))
    assert torch.equal(run(problem, scheduler, noise(problem)), wanted)


def test_set_timesteps_forgets_the_last_estimate() -> None:
    problem, scheduler, x = small_problem(), solver(10), noise(small_problem())
    second = scheduler.timesteps[1]
    fresh = solver(10).step(problem(x, second[None]), second, x)[0]
    scheduler.step(problem(x, scheduler.timesteps[:1]), scheduler.timesteps[0], x)
    scheduler.set_timesteps(10)
    assert torch.equal(scheduler.step(problem(x, second[None]), second, x)[0], fresh)


def test_sampling_may_start_in_the_middle() -> None:
    problem, scheduler = small_problem(), solver(80)
    scheduler.timesteps = scheduler.timesteps[30:]
    start = float(scheduler.timesteps[0])
    x = problem.flow(noise(problem), 999.0, start)
    torch.testing.assert_close(run(problem, scheduler, x), exact(problem, noise(problem)), atol=5e-3, rtol=0)


def test_noise_of_several_generators_is_that_of_each() -> None:
    like = torch.empty(3, 2, 3, 2, 1)
    drawn = draw_noise(like, [torch.Generator().manual_seed(s) for s in (4, 5, 4)])
    assert torch.equal(drawn[1], torch.randn(2, 3, 2, 1, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="2 generators for 3 samples"):
        draw_noise(like, [torch.Generator()] * 2)


def test_noise_without_a_generator_follows_torchs_seed() -> None:
    torch.manual_seed(0)
    drawn = draw_noise(torch.empty(2, 3))
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.randn(2, 3))


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="order 3"):
        solver(5, order=3)
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        solver(5, prediction_type="sample")
    with pytest.raises(ValueError, match="0 steps"):
        solver(0)
    with pytest.raises(ValueError, match="timestep 17.0 is not one of the 5"):
        solver(5).step(torch.zeros(1), 17, torch.zeros(1))
