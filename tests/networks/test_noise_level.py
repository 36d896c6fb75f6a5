from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from custom.networks.noise_level import PREDICTION_TYPES, NoiseLevels

STEPS = 1000
TIMESTEPS = torch.tensor([0, 1, 250, 998, 999])


def scheduler() -> DDPMScheduler:
    return DDPMScheduler(STEPS, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, clip_sample=False)


def levels(prediction_type: str = "v_prediction") -> NoiseLevels:
    return NoiseLevels(scheduler().alphas_cumprod, prediction_type)


def draw(batch: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 4, 2, 1, generator=generator), torch.randn(batch, 3, 4, 2, 1, generator=generator)


def trained_log_snrs() -> np.ndarray:
    """From β in double precision, without MONAI."""
    squares = np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS))
    return np.log(squares / (1 - squares))


def test_at_integer_timesteps_samples_are_as_noisy_as_monais():
    x0, noise = draw()
    expected = scheduler().add_noise(x0, noise, TIMESTEPS)
    torch.testing.assert_close(levels().noisy(x0, noise, TIMESTEPS), expected, rtol=1e-5, atol=1e-5)


def test_the_output_of_v_is_monais_velocity():
    x0, noise = draw()
    x_t, velocity = scheduler().add_noise(x0, noise, TIMESTEPS), scheduler().get_velocity(x0, noise, TIMESTEPS)
    sample, found = levels().sample_and_noise(velocity, x_t, TIMESTEPS)
    torch.testing.assert_close(sample, x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, noise, rtol=1e-4, atol=1e-5)
    # at the first timestep an error of x_t is a hundredfold one of ε
    torch.testing.assert_close(levels().output_of(x0, x_t, TIMESTEPS), velocity, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("timesteps", [[0.0, 0.5, 333.25, 998.9, 999.0], [417.6]])
def test_an_output_says_the_sample_it_was_made_from(prediction_type: str, timesteps: list[float]):
    x0, noise = (values.double() for values in draw())
    at, known = torch.tensor(timesteps), levels(prediction_type)
    x_t = known.noisy(x0, noise, at)
    output = known.output_of(x0, x_t, at)
    for found, wanted in zip(known.sample_and_noise(output, x_t, at), (x0, noise), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_the_output_of_epsilon_is_the_noise():
    x0, noise = (values.double() for values in draw())
    known = levels("epsilon")
    torch.testing.assert_close(known.output_of(x0, known.noisy(x0, noise, TIMESTEPS), TIMESTEPS), noise)
    assert known.sample_and_noise(noise, x0, TIMESTEPS)[1] is noise


def test_one_timestep_holds_for_the_whole_batch():
    x0, noise = draw()
    torch.testing.assert_close(
        levels().noisy(x0, noise, torch.tensor([40])), levels().noisy(x0, noise, torch.full((5,), 40)), rtol=0, atol=0
    )


def test_between_timesteps_the_log_snr_is_interpolated():
    at = np.random.default_rng(0).uniform(0, STEPS - 1, (20, 2))
    expected = np.interp(at, np.arange(STEPS), trained_log_snrs())
    found = levels().log_snr(torch.from_numpy(at))
    assert found.shape == (20, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    a, s = levels().signal_and_noise(torch.from_numpy(at))
    np.testing.assert_allclose(a, np.sqrt(1 / (1 + np.exp(-expected))), rtol=1e-4)
    np.testing.assert_allclose(s, np.sqrt(1 / (1 + np.exp(expected))), rtol=1e-4)


def test_a_timestep_is_found_by_its_log_snr():
    at = np.random.default_rng(1).uniform(0, STEPS - 1, 50)
    wanted = np.interp(at, np.arange(STEPS), trained_log_snrs())
    np.testing.assert_allclose(levels().timestep_of(torch.from_numpy(wanted)), at, atol=0.01)
    whole = torch.arange(STEPS)
    torch.testing.assert_close(levels().timestep_of(levels().log_snr(whole)), whole.float(), rtol=0, atol=1e-3)


def test_beyond_the_schedule_its_ends_are_meant():
    known = levels()
    assert known.timestep_of(torch.tensor([50.0, -50.0])).tolist() == [0, STEPS - 1]
    torch.testing.assert_close(known.log_snr(torch.tensor([-3, STEPS + 3])), known.log_snrs[[0, -1]], rtol=0, atol=0)


def test_another_meaning_of_the_output_is_refused():
    with pytest.raises(ValueError, match="prediction_type 'sample' is not one of v_prediction, epsilon"):
        levels("sample")


@pytest.mark.parametrize("squares", [[0.1, 0.5, 0.9], [0.9, 0.9, 0.1], [1.0, 0.5], [0.5, 0.0], [0.9, float("nan"), 0.1]])
def test_what_is_no_schedule_is_refused(squares: list[float]):
    with pytest.raises(ValueError, match="fall from below 1 to above 0"):
        NoiseLevels(torch.tensor(squares))
