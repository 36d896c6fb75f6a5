"""What a scanner adds to a picture: smooth fields, receive bias and Rician noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["add_rician_noise", "bias_field", "smooth_field"]


def smooth_field(rng: np.random.Generator, shape: Sequence[int], order: int = 4) -> np.ndarray:
    """Draw a random field of low spatial frequency, zero mean, unit standard deviation.

    Args:
        rng: source of the cosine coefficients.
        shape: voxels per axis (3 of them).
        order: cosines per axis; the shortest wave spans ``2 / (order - 1)`` of the field of view.

    Returns:
        float32 array of ``shape``. The same coefficients are drawn at every resolution, so one seed gives one field.
    """
    coefficients = rng.normal(size=(order,) * 3)
    coefficients[0, 0, 0] = 0.0
    bases = [np.cos(np.pi * np.outer(np.arange(order), (np.arange(n) + 0.5) / n)) for n in shape]
    field = np.einsum("abc,ax,by,cz->xyz", coefficients, *bases, optimize=True)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def bias_field(rng: np.random.Generator, shape: Sequence[int], strength: float = 0.06) -> np.ndarray:
    """Draw a multiplicative intensity inhomogeneity, ``exp(strength * field)``; float32 of ``shape``, about 1."""
    return np.exp(strength * smooth_field(rng, shape, order=3))


def add_rician_noise(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    """Return the magnitude of ``image`` with complex Gaussian noise of standard deviation ``sigma`` per channel.

    Gudbjartsson & Patz, *The Rician distribution of noisy MRI data*, Magn Reson Med 1995.
    """
    real, imaginary = rng.normal(0.0, sigma, size=(2, *image.shape)).astype(np.float32)
    return np.hypot(image + real, imaginary)
