"""The diffusion classifier against Gaussian classes, whose log-likelihoods have a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.networks.schedulers import DDPMScheduler
from scipy.stats import multivariate_normal
from torch import nn

from custom.diffusion.classifier import DiffusionClassifierInferer, fit_temperature
from custom.networks.noise_level import NoiseLevels

from .gaussian_problem import SCHEDULE, GaussianProblem, small_problem

CLASSES = 4
WHOLE = (-9.0, 9.0)  # nearly the schedule


@pytest.fixture(scope="module")
def problem() -> GaussianProblem:
    return small_problem(CLASSES, frames=2, grid=(3, 2, 1))


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.arange(24) % CLASSES


@pytest.fixture(scope="module")
def windows(problem: GaussianProblem, labels: torch.Tensor) -> torch.Tensor:
    return problem.draw(labels, seed=3)


def log_likelihoods(problem: GaussianProblem, windows: torch.Tensor) -> np.ndarray:
    """By scipy, (B, C), less the largest of each window."""
    covariance = (problem.axes * problem.variances) @ problem.axes.T
    means = problem.means.flatten(2).numpy()
    x = windows.flatten(2).numpy()
    frames = range(x.shape[1])
    found = np.array([[multivariate_normal(m[f], covariance).logpdf(x[:, f]) for f in frames] for m in means]).sum(1).T
    return found - found.max(1, keepdims=True)


class Unsure(nn.Module):
    """The exact network plus an error of its own for every class and input, so that noise no longer cancels in pairs."""

    def __init__(self, problem: GaussianProblem, size: float) -> None:
        super().__init__()
        self.problem, self.size = problem, size

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        phase = class_labels.reshape(-1, 1, 1, 1, 1) * 0.7
        return self.problem(x, timesteps, class_labels) + self.size * torch.sin(3 * x + phase)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_logits_are_the_exact_log_likelihoods(prediction_type: str, windows: torch.Tensor) -> None:
    network = small_problem(CLASSES, 2, (3, 2, 1), prediction_type)
    logits = DiffusionClassifierInferer(network.levels, CLASSES, WHOLE, num_levels=16, num_noises=1)(windows, network)
    exact = log_likelihoods(network, windows)
    assert np.abs(exact).max() > 20
    np.testing.assert_allclose(logits.numpy(), exact, rtol=0.02, atol=0.02)


def test_passes_refine_one_set_of_levels(problem: GaussianProblem, windows: torch.Tensor) -> None:
    """Exactly denoised pairs have no noise left, so 4 passes of 4 levels are the same 16 levels as one pass of 16."""
    several = DiffusionClassifierInferer(problem.levels, CLASSES, WHOLE, num_levels=4, num_noises=4)(windows, problem)
    one = DiffusionClassifierInferer(problem.levels, CLASSES, WHOLE, num_levels=16, num_noises=1, seed=1)(windows, problem)
    torch.testing.assert_close(several, one, rtol=1e-3, atol=1e-3)


def test_levels_are_spread_over_the_range(problem: GaussianProblem, windows: torch.Tensor) -> None:
    seen = []

    def network(x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        seen.extend(problem.levels.log_snr(timesteps).tolist())
        return problem(x, timesteps, class_labels)

    DiffusionClassifierInferer(problem.levels, CLASSES, (-2.0, 4.0), num_levels=3, num_noises=4)(windows[:1], network)
    assert np.unique(np.round(seen, 2)).tolist() == [-1.75 + 0.5 * k for k in range(12)]
    first_pass = np.unique(np.round(seen[: 3 * 2 * CLASSES], 2))
    assert first_pass.tolist() == [-1.75, 0.25, 2.25]


def test_common_noise_in_opposite_pairs_lowers_the_variance(problem: GaussianProblem, windows: torch.Tensor) -> None:
    """Against the same number of evaluations with noise of its own for every class, written out here."""
    network, levels, x = Unsure(problem, 0.05), problem.levels, windows[:4]
    grid = torch.linspace(-5.5, 5.5, 12)

    def unpaired(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(len(x), CLASSES)
        for timestep in levels.timestep_of(grid).repeat(2):
            for label in range(CLASSES):
                eps, t = torch.randn(x.shape, generator=generator), timestep.expand(len(x))
                x_t = levels.noisy(x, eps, t)
                output = network(x_t, t, torch.full((len(x),), label))
                total[:, label] -= (levels.sample_and_noise(output, x_t, t)[1] - eps).square().sum((1, 2, 3, 4)) / 4
        return total

    def paired(seed: int) -> torch.Tensor:
        inferer = DiffusionClassifierInferer(levels, CLASSES, (-6.0, 6.0), num_levels=12, num_noises=1, seed=seed)
        return inferer(x, network)

    spread = [torch.stack([draw(seed) for seed in range(12)]) for draw in (unpaired, paired)]
    variance = [(found[..., 1:] - found[..., :1]).var(0).mean() for found in spread]
    assert variance[1] < variance[0] / 100


def test_rejection_saves_evaluations_and_keeps_the_answer(problem: GaussianProblem) -> None:
    x = problem.draw(torch.arange(60) % CLASSES, seed=5)
    network, found, used = Unsure(problem, 0.1), [], []
    for rejection in (None, 2.0):
        inferer = DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0), 6, 8, rejection=rejection)
        found.append(inferer(x, network).argmax(1))
        used.append(inferer.evaluations)
    assert used[0] == 60 * CLASSES * 6 * 8 * 2
    assert used[1] < 0.6 * used[0]
    assert (found[0] == found[1]).sum() >= 59


def test_rejected_class_keeps_its_distance(windows: torch.Tensor) -> None:
    """A class's own error is always the same; the one that all share, at right angles, changes from draw to draw."""
    levels = NoiseLevels(DDPMScheduler(**SCHEDULE).alphas_cumprod, "epsilon")
    signs = torch.tensor([1.0, -1.0]).repeat(6).reshape(2, 3, 2, 1)

    def network(x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        own = torch.tensor([0.0, 1.0, 2.0, 9.0])[class_labels].reshape(-1, 1, 1, 1, 1)
        a, s = (v.reshape(-1, 1, 1, 1, 1) for v in levels.signal_and_noise(timesteps))
        return (x - a * windows[:1]) / s + own + levels.log_snr(timesteps).reshape(-1, 1, 1, 1, 1) * signs

    inferer = DiffusionClassifierInferer(levels, CLASSES, (-6.0, 6.0), 3, 4, rejection=1.0)
    logits = inferer(windows[:1], network)
    expected = -0.5 * 12 * 12 * torch.tensor([[0.0, 1.0, 4.0, 81.0]])  # range, voxels × frames
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-2)
    assert inferer.evaluations == 3 * 2 * (CLASSES + 3)  # after the first pass one class is left


@pytest.mark.filterwarnings("error")
def test_no_class_is_given_up_after_a_single_draw(problem: GaussianProblem, windows: torch.Tensor) -> None:
    inferer = DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0), 1, 2, rejection=0.01)
    inferer(windows, problem)
    assert inferer.evaluations == len(windows) * CLASSES * 4


@pytest.mark.parametrize("rejection", [None, 2.0])
def test_result_depends_neither_on_batch_nor_on_order(
    problem: GaussianProblem, windows: torch.Tensor, rejection: float | None
) -> None:
    network = Unsure(problem, 0.1)

    def decoded(x: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
        inferer = DiffusionClassifierInferer(
            problem.levels, CLASSES, (-6.0, 6.0), 3, 3, rejection=rejection, batch_size=batch_size
        )
        return inferer(x, network)

    together = decoded(windows)
    alone = torch.cat([decoded(window[None], batch_size=5) for window in windows])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(decoded(windows.flip(0)).flip(0), together, rtol=1e-4, atol=1e-3)


def test_a_seed_tells_the_noise(problem: GaussianProblem, windows: torch.Tensor) -> None:
    first, again, other = (
        DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0), seed=seed)(windows, Unsure(problem, 0.2))
        for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_temperature_divides_the_logits(problem: GaussianProblem, windows: torch.Tensor) -> None:
    plain, mild = (
        DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0), temperature=t)(windows, problem) for t in (1.0, 8.0)
    )
    torch.testing.assert_close(mild, plain / 8)
    assert (plain.amax(1) == 0).all()


def test_voxels_outside_the_brain_do_not_count(problem: GaussianProblem, windows: torch.Tensor) -> None:
    x = windows[:3].clone()
    x[:, :, 0] = 0

    def decoded(size: float) -> torch.Tensor:
        def network(x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
            output = problem(x, timesteps, class_labels)
            output[:, :, 0] += size * class_labels.reshape(-1, 1, 1, 1)  # the class shows where nothing was measured
            return output

        return DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0))(x, network)

    torch.testing.assert_close(decoded(10.0), decoded(0.0))


def test_engine_takes_it_for_a_classifier(problem: GaussianProblem, windows: torch.Tensor, labels: torch.Tensor) -> None:
    loader = [{"image": windows[k : k + 8], "label": labels[k : k + 8]} for k in (0, 8, 16)]
    inferer = DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0))
    found: list[torch.Tensor] = []
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader, problem, inferer=inferer, decollate=False)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.output["pred"]))
    evaluator.run()
    exact = log_likelihoods(problem, windows).argmax(1)
    assert np.array_equal(torch.cat(found).argmax(1).numpy(), exact)
    assert (inferer.windows, inferer.evaluations) == (24, 24 * CLASSES * 4 * 2 * 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_levels": 0}, "at least"),
        ({"num_classes": 1}, "at least"),
        ({"batch_size": 1}, "at least"),
        ({"temperature": 0.0}, "above 0"),
        ({"rejection": -1.0}, "above 0"),
        ({"log_snr_range": (4.0, -6.0)}, "schedule"),
        ({"log_snr_range": (-6.0, 12.0)}, "schedule"),
    ],
)
def test_numbers_out_of_range(problem: GaussianProblem, change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiffusionClassifierInferer(**{"levels": problem.levels, "num_classes": CLASSES, **change})


def test_nan_does_not_travel_on(problem: GaussianProblem, windows: torch.Tensor) -> None:
    broken = windows.clone()
    broken[3, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        DiffusionClassifierInferer(problem.levels, CLASSES, (-6.0, 6.0))(broken, problem)


def test_temperature_of_logits_that_are_too_sure() -> None:
    """Labels are drawn from a softmax; its logits, 7 times as large, want 7."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 5)) * 2
    chosen = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    assert fit_temperature(scores * 7, chosen) == pytest.approx(7, rel=0.08)


def test_temperature_of_a_run_without_an_error() -> None:
    """8 windows decoded with margins of 50: the best smoothed fit gives each 1 - 1/9 + 1/9/8."""
    logits = np.where(np.eye(8) == 1, 0.0, -50.0)
    p = np.exp(logits / fit_temperature(logits, np.arange(8)))
    assert (p[0] / p[0].sum())[0] == pytest.approx(1 - 1 / 9 + 1 / 72, abs=1e-3)


def test_temperature_is_clipped() -> None:
    logits = np.where(np.eye(4) == 1, 0.0, 1e9)  # always wrong, by far
    assert fit_temperature(logits, np.arange(4)) == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 3)), []), (np.full((2, 3), np.nan), [0, 1]), (np.zeros((2, 3)), [0, -1]), (np.zeros((2, 3)), [0])],
)
def test_temperature_of_unfit_input(logits: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"label"):
        fit_temperature(logits, torch.tensor(labels))
