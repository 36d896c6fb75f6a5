from __future__ import annotations

import numpy as np

from custom.phantoms.artefacts import add_rician_noise, bias_field, smooth_field


def test_field_is_standardised_and_smooth():
    field = smooth_field(np.random.default_rng(0), (30, 36, 30))
    assert field.shape == (30, 36, 30)
    assert abs(field.mean()) < 1e-5
    assert abs(field.std() - 1) < 1e-5
    assert all(np.abs(step).max() < 1 for step in np.gradient(field))


def test_one_seed_gives_one_field_at_every_resolution():
    coarse = smooth_field(np.random.default_rng(3), (10, 10, 10))
    fine = smooth_field(np.random.default_rng(3), (30, 30, 30))
    np.testing.assert_allclose(fine[1::3, 1::3, 1::3], coarse, atol=0.05)


def test_bias_of_no_strength_is_one():
    np.testing.assert_array_equal(bias_field(np.random.default_rng(0), (5, 6, 7), strength=0.0), 1.0)


def test_rician_noise_of_nothing_is_rayleigh():
    noisy = add_rician_noise(np.random.default_rng(0), np.zeros((40, 40, 40), np.float32), sigma=2.0)
    assert abs(noisy.mean() - 2.0 * np.sqrt(np.pi / 2)) < 0.02


def test_rician_noise_of_sigma_zero_is_the_image():
    image = np.linspace(0, 1, 27, dtype=np.float32).reshape(3, 3, 3)
    np.testing.assert_array_equal(add_rician_noise(np.random.default_rng(0), image, sigma=0.0), image)
