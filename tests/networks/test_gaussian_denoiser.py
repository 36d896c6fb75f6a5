"""The closed form against the dense matrices that it avoids, and its estimates against scikit-learn's and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from scipy.linalg import toeplitz
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from custom.networks.gaussian_denoiser import GaussianDenoiser, james_stein, ledoit_wolf_weight
from custom.networks.noise_level import NoiseLevels

GRID, FRAMES, CLASSES, PER_CLASS = (3, 3, 2), 4, 4, 6
VOXELS = 18
BRAIN = np.arange(VOXELS) % 5 != 0  # 14 voxels
TIMESTEPS = torch.tensor([3, 400, 700.5, 930])
SQUARES = DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02).alphas_cumprod


def training_windows(per_class: int = PER_CLASS, frames: int = FRAMES, classes: int = CLASSES, seed: int = 0):
    """Autocorrelated, spatially mixed noise, and a class map of its own in half of the voxels; 0 outside the brain."""
    rng = np.random.default_rng(seed)
    labels = np.arange(classes * per_class) % classes
    noise = rng.normal(size=(len(labels), frames, VOXELS)) @ rng.normal(size=(VOXELS, VOXELS)) / 4
    for f in range(1, frames):
        noise[:, f] = 0.6 * noise[:, f - 1] + 0.8 * noise[:, f]
    maps = rng.normal(size=(classes, VOXELS)) * (np.arange(VOXELS) < 9) + 0.3
    windows = (noise + maps[labels][:, None]) * BRAIN
    return torch.from_numpy(windows).reshape(-1, frames, *GRID), torch.from_numpy(labels)


def build(prediction_type: str = "v_prediction", rank: int = 30, frames: int = FRAMES, classes: int = CLASSES):
    return GaussianDenoiser(NoiseLevels(SQUARES, prediction_type), classes, GRID, frames, rank).double()


def fitted(prediction_type: str = "v_prediction", rank: int = 30) -> GaussianDenoiser:
    network = build(prediction_type, rank)
    network.fit(*training_windows())
    return network


def noisy(frames: int = FRAMES, batch: int = 4, seed: int = 5) -> torch.Tensor:
    return torch.randn(batch, frames, *GRID, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def estimate(network: GaussianDenoiser, x: torch.Tensor, timesteps: torch.Tensor = TIMESTEPS, labels=None) -> torch.Tensor:
    return network.levels.sample_and_noise(network(x, timesteps, labels), x, timesteps)[0]


# ---- what the estimates ought to be, in numpy


def expected_maps(series: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class maps (C, V), shrunken towards their mean voxel by voxel."""
    means = np.stack([series[labels == c].mean((0, 1)) for c in range(CLASSES)])
    within = sum(((series[labels == c].mean(1) - means[c]) ** 2).sum(0) for c in range(CLASSES))
    error = within / (len(series) - CLASSES) / (len(series) // CLASSES)
    centre = means.mean(0)
    factor = np.zeros(VOXELS)
    for v in np.flatnonzero(BRAIN):
        factor[v] = max(0.0, 1 - (CLASSES - 3) / (((means[:, v] - centre[v]) ** 2).sum() / error[v]))
    return centre + factor * (means - centre)


def expected_covariances(series: np.ndarray, labels: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """T (F, F) and S (V, V) of the brain's voxels."""
    means = np.stack([series[labels == c].mean((0, 1)) for c in range(CLASSES)])
    residuals = (series - means[labels][:, None])[..., BRAIN]
    count = series.shape[1]
    lags = [sum((residuals[:, f] * residuals[:, f + lag]).sum() for f in range(count - lag)) for lag in range(count)]
    frames = residuals.reshape(-1, BRAIN.sum())
    weight = ledoit_wolf(frames, assume_centered=True)[1]
    values, vectors = np.linalg.eigh(frames.T @ frames / len(frames))
    values[:-rank] = values[:-rank].mean() if rank < len(values) else values[:-rank]
    cut = vectors * values @ vectors.T
    return toeplitz(lags) / lags[0], (1 - weight) * cut + weight * np.trace(cut) / len(cut) * np.eye(len(cut))


def expected_estimate(x: np.ndarray, timestep: float, centre: np.ndarray, covariances: tuple[np.ndarray, np.ndarray]):
    """m + a C (a² C + s² I)⁻¹ (x - a m) of one window (F, V), with C = T ⊗ S written out."""
    log_snr = np.interp(timestep, np.arange(1000), torch.logit(SQUARES.double()).numpy())
    a, s = np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))
    frames, (times, spaces) = len(x), covariances
    dense = np.kron(times[:frames, :frames], spaces)
    mean = np.tile(centre[BRAIN], frames)
    moved = mean + a * dense @ np.linalg.solve(a**2 * dense + s**2 * np.eye(len(dense)), x[:, BRAIN].ravel() - a * mean)
    estimate = np.zeros_like(x)
    estimate[:, BRAIN] = moved.reshape(frames, -1)
    return estimate


# ---- the estimate


@pytest.mark.parametrize("rank", [30, 14, 5])
@pytest.mark.parametrize("frames", [FRAMES, 2, 1])
def test_the_estimate_is_the_wiener_filter(rank: int, frames: int):
    """More ranks than voxels, as many, fewer; whole windows, shorter ones, single frames."""
    _check_estimates(*training_windows(), rank, noisy(frames))


@pytest.mark.parametrize("rank", [30, 3])
def test_so_it_is_with_fewer_training_frames_than_voxels(rank: int):
    _check_estimates(*training_windows(2, frames=1), rank, noisy(1))


def _check_estimates(windows: torch.Tensor, labels: torch.Tensor, rank: int, x: torch.Tensor) -> None:
    series, told = windows.flatten(2).numpy(), torch.tensor([2, 0, -1, 3])
    maps = np.vstack([expected_maps(series, labels.numpy()), np.zeros(VOXELS)])
    covariances = expected_covariances(series, labels.numpy(), rank)
    network = build(rank=rank)
    network.fit(windows, labels)
    found = estimate(network, x, labels=told).flatten(2)
    for i, label in enumerate(told):
        expected = expected_estimate(x[i].flatten(1).numpy(), float(TIMESTEPS[i]), maps[label], covariances)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4)


def test_before_it_is_fitted_samples_are_white_noise():
    a = build().levels.signal_and_noise(TIMESTEPS)[0].double()
    torch.testing.assert_close(estimate(build(), noisy()), a.reshape(-1, 1, 1, 1, 1) * noisy(), rtol=1e-5, atol=1e-6)


def test_outside_the_brain_there_is_nothing():
    found = estimate(fitted(), noisy(), labels=torch.arange(4)).flatten(2)
    torch.testing.assert_close(found[..., ~BRAIN], torch.zeros(4, FRAMES, 4).double(), rtol=0, atol=1e-6)
    assert (found[..., BRAIN].abs() > 1e-3).float().mean() > 0.9


def test_no_labels_are_labels_of_no_class():
    network = fitted()
    unknown = network(noisy(), TIMESTEPS, torch.full((4,), -1))
    torch.testing.assert_close(network(noisy(), TIMESTEPS), unknown, rtol=0, atol=0)
    assert not torch.allclose(unknown, network(noisy(), TIMESTEPS, torch.zeros(4).long()), atol=0.01)
    assert not network.class_maps[-1].any()  # z scores are 0 on average


def test_every_window_of_a_batch_stands_alone():
    network, x, told = fitted(), noisy(), torch.tensor([2, 0, -1, 3])
    together = network(x, TIMESTEPS, told)
    alone = [network(x[i : i + 1], TIMESTEPS[i : i + 1], told[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_no_timestep_is_the_first_and_one_holds_for_all():
    network, x = fitted(), noisy()
    torch.testing.assert_close(network(x), network(x, torch.zeros(4)), rtol=0, atol=0)
    torch.testing.assert_close(network(x, torch.tensor([400])), network(x, torch.full((4,), 400)), rtol=0, atol=0)


def test_v_and_epsilon_say_the_same_sample():
    told = torch.tensor([1, 2, -1, 0])
    found = estimate(fitted("epsilon"), noisy(), labels=told)
    torch.testing.assert_close(found, estimate(fitted(), noisy(), labels=told), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fitted("epsilon")(noisy(), TIMESTEPS), fitted()(noisy(), TIMESTEPS), atol=0.1)


def test_it_is_as_good_in_single_precision():
    found = fitted().float()(noisy().float(), TIMESTEPS, torch.arange(4))
    torch.testing.assert_close(found.double(), fitted()(noisy(), TIMESTEPS, torch.arange(4)), rtol=1e-3, atol=1e-3)


def test_denoising_errors_decide_as_linear_discriminant_analysis():
    """½ ∫ (error of c - error of 0) dSNR = log p(x|0) - log p(x|c); noise of both signs cancels what is linear in it."""
    windows, labels = training_windows(20, frames=1, classes=3)  # of three classes, means are not shrunken
    network = build(frames=1, classes=3)
    network.fit(windows, labels)
    tested, _ = training_windows(4, frames=1, classes=3, seed=9)
    found = torch.stack([_snr_weighted_error(network, tested, c) for c in range(3)], 1)
    frames = windows.reshape(len(windows), -1).numpy()[:, BRAIN]
    lda = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Pooled(frames, labels.numpy())).fit(frames, labels)
    expected = lda.predict_log_proba(tested.reshape(len(tested), -1).numpy()[:, BRAIN])
    np.testing.assert_allclose(found[:, :1] - found, expected - expected[:, :1], rtol=0.01, atol=0.02)
    assert np.ptp(expected - expected[:, :1]) > 3


class _Pooled:
    """Hands scikit-learn Ledoit & Wolf's covariance within all classes in place of one of every class."""

    def __init__(self, frames: np.ndarray, labels: np.ndarray) -> None:
        means = np.stack([frames[labels == c].mean(0) for c in range(labels.max() + 1)])
        self.covariance_ = ledoit_wolf(frames - means[labels], assume_centered=True)[0]

    def fit(self, _: np.ndarray) -> _Pooled:
        return self


def _snr_weighted_error(network: GaussianDenoiser, x0: torch.Tensor, label: int) -> torch.Tensor:
    log_snrs = torch.linspace(9.2, -10.1, 300).double()
    noise = noisy(1, batch=1)
    errors = []
    for timestep in network.levels.timestep_of(log_snrs)[:, None]:
        both = [network.levels.noisy(x0, sign * noise, timestep) for sign in (1, -1)]
        found = [estimate(network, x, timestep, torch.full((len(x0),), label)) for x in both]
        errors.append(sum((f - x0).square().flatten(1).sum(1) for f in found) / 2)
    return torch.trapezoid(torch.stack(errors) * log_snrs.exp()[:, None], -log_snrs, dim=0) / 2


# ---- its parts


def test_the_weight_is_scikit_learns():
    rng = np.random.default_rng(0)
    for shape in [(40, 6), (6, 40), (9, 9), (2, 5)]:
        frames = rng.normal(size=shape) * np.arange(1, shape[1] + 1)
        found = ledoit_wolf_weight(torch.from_numpy(frames))
        assert found == pytest.approx(ledoit_wolf(frames, assume_centered=True)[1], rel=1e-9)
    assert 0 < found < 1


@pytest.mark.parametrize("frames", [torch.zeros(4, 3), torch.tensor([[1.0, 2.0, 3.0]])])
def test_what_says_nothing_of_a_covariance_leaves_the_identity(frames: torch.Tensor):
    assert ledoit_wolf_weight(frames) == 1


def test_james_and_stein_by_hand():
    deviations = torch.tensor([[2.0, 1, 0, 1, 3], [-2, -1, 0, 1, -3], [0, 0, 0, -2, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    errors = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 0.5, 0], [1, 1, 1, 2, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    # five classes have four free deviations, so that 1 - 2 / strength is left; strengths are 8, 2, 0, 1 + 2 + 2 and infinite
    expected = deviations * torch.tensor([0.75, 0, 0, 0.6, 1])
    torch.testing.assert_close(james_stein(deviations, errors), expected)


def test_the_differences_of_three_classes_are_not_shrunken():
    deviations = torch.tensor([[0.1], [0.1], [-0.2]])
    torch.testing.assert_close(james_stein(deviations, torch.ones(3, 1)), deviations)


def test_voxels_outside_the_brain_have_no_map():
    found = james_stein(torch.zeros(5, 2), torch.zeros(5, 2))
    assert torch.equal(found, torch.zeros(5, 2))


# ---- fitting


@pytest.mark.parametrize("labels", [[0, 1, 2] * 2 + [3], [0, 1, 2] * 2, [0, 1, 2, 3, 4] * 2])
def test_a_class_without_two_windows_is_refused(labels: list[int]):
    counts = np.bincount(labels, minlength=CLASSES).tolist()
    with pytest.raises(ValueError, match=rf"per class are \[{', '.join(map(str, counts))}\]: of each of the 4 classes two"):
        build().fit(noisy(batch=len(labels)), torch.tensor(labels))


def test_windows_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3, 2, 3\) do not fit the network's grid \(3, 3, 2\).*--spatial_size"):
        build().fit(noisy(batch=8).transpose(-1, -2), torch.arange(8) % 4)


def test_longer_windows_are_refused_and_shorter_ones_fit():
    labels = torch.arange(8) % 4
    with pytest.raises(ValueError, match="at most 4 frames: give --spatial_size and --frames"):
        build().fit(noisy(5, batch=8), labels)
    network = build()
    network.fit(noisy(2, batch=8), labels)
    assert network(noisy(), TIMESTEPS).isfinite().all()


def test_what_was_fitted_is_part_of_the_weights():
    network = build()
    network.load_state_dict(fitted().state_dict())
    told = torch.tensor([2, 0, -1, 3])
    for frames in (1, FRAMES):
        x = noisy(frames)
        torch.testing.assert_close(network(x, TIMESTEPS, told), fitted()(x, TIMESTEPS, told), rtol=0, atol=0)
    assert not list(network.parameters())


def test_a_second_fit_forgets_the_first():
    network = build(rank=40)
    network.fit(*training_windows(seed=8))
    network.fit(*training_windows())
    for name, value in fitted(rank=40).state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)


def test_a_traced_network_answers_other_windows():
    network = fitted()
    traced = torch.jit.trace(network, (noisy(seed=6), TIMESTEPS, torch.zeros(4).long()))
    told = torch.tensor([2, 0, -1, 3])
    torch.testing.assert_close(traced(noisy(), TIMESTEPS.flip(0), told), network(noisy(), TIMESTEPS.flip(0), told))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_network_on_a_gpu_is_fitted_to_windows_in_memory():
    network = build().cuda()
    network.fit(*training_windows())
    found = network(noisy().cuda(), TIMESTEPS.cuda(), torch.arange(4).cuda()).cpu()
    torch.testing.assert_close(found, fitted()(noisy(), TIMESTEPS, torch.arange(4)))


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_windows_that_do_not_vary_are_refused(value: float):
    with pytest.raises(ValueError, match="nothing says how the signal varies"):
        build().fit(torch.full_like(noisy(batch=8), value), torch.arange(8) % 4)
