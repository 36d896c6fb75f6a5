"""What a diffusion network computes at its bottleneck, as features of a window.

Baranchuk et al., *Label-Efficient Semantic Segmentation with Diffusion Models*, 2022; Xiang et al., *Denoising Diffusion
Autoencoders are Unified Self-supervised Learners*, 2023: middle layers at a moderate noise level separate classes linearly,
though the network is given no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..networks.noise_level import NoiseLevels
from ..transforms.temporal_window import map_bold, temporal_window

__all__ = ["BottleneckFeatures", "bottleneck_features", "frame_features"]


class BottleneckFeatures:
    """Features of every unit (block, run), the mean over its windows: what ``custom.metrics.Baseline(features=...)`` takes.

    Args:
        network: with ``features(x, timesteps, class_labels)``; it is set to evaluation mode.
        levels: of its schedule.
        timesteps: at which the features are taken, laid end to end.
        device: of the network.
        num_noises: pairs of opposite noise that are averaged.
        seed: of the noise.
        batch_size: windows at a time.
    """

    def __init__(
        self,
        network: nn.Module,
        levels: NoiseLevels,
        timesteps: Sequence[float] = (50,),
        device: torch.device | str = "cpu",
        num_noises: int = 1,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        self.network, self.levels, self.timesteps, self.device = network, levels, list(timesteps), device
        self.num_noises, self.seed, self.batch_size = num_noises, seed, batch_size

    def __call__(self, units: Mapping[str, list[dict]]) -> np.ndarray:
        """Return (n_units, n_features), float32, of {unit: rows} with ``image``, ``start`` and ``frames``.

        Raises:
            ValueError: windows differ in shape, or features are not finite.
        """
        found = self.of_frames([row for members in units.values() for row in members]).mean(1)
        ends = np.cumsum([len(members) for members in units.values()])
        return np.stack([of_unit.mean(0) for of_unit in np.split(found, ends[:-1])])

    def of_frames(self, rows: Sequence[dict]) -> np.ndarray:
        """Return the features of every frame of every row, (rows, F, n_features); errors as above."""
        size = self.batch_size
        return np.concatenate([self._of_rows(rows[first : first + size]) for first in range(0, len(rows), size)])

    @torch.no_grad()
    def _of_rows(self, rows: Sequence[dict]) -> np.ndarray:
        # frames beyond a run's end are zeros, as the data loader has them
        windows = [temporal_window(map_bold(row["image"]), row["frames"], row["start"])[0].as_tensor() for row in rows]
        for row, window in zip(rows, windows, strict=True):
            if window.shape != windows[0].shape:
                raise ValueError(
                    f"{row['image']}: a window of shape {tuple(window.shape)}, others have {tuple(windows[0].shape)}."
                )
        batch = torch.stack(windows).to(self.device)
        self.network.eval()
        found = frame_features(self.network, batch, self.levels, self.timesteps, self.num_noises, self.seed)
        for row, values in zip(rows, found, strict=True):
            if not values.isfinite().all():
                raise ValueError(f"{row['image']}: the features of frame {row['start']} on are not finite, prepare it again.")
        return found.cpu().numpy()


def bottleneck_features(
    network: nn.Module,
    windows: torch.Tensor,
    levels: NoiseLevels,
    timesteps: Sequence[float],
    num_noises: int = 1,
    seed: int = 0,
) -> torch.Tensor:
    """Return the mean over the frames of :func:`frame_features`, (B, n_features)."""
    return frame_features(network, windows, levels, timesteps, num_noises, seed).mean(1)


def frame_features(
    network: nn.Module,
    windows: torch.Tensor,
    levels: NoiseLevels,
    timesteps: Sequence[float],
    num_noises: int = 1,
    seed: int = 0,
) -> torch.Tensor:
    """Return the features of windows (B, F, X, Y, Z): (B, F, timesteps * C * x * y * z), float32.

    They are the mean over ``num_noises`` pairs of noise ±ε, in which the part that is linear in ε cancels. Every window meets
    the same noise. Positions stay apart, since a category is a pattern over the brain.

    Raises:
        ValueError: there is no timestep or no noise.
    """
    if not timesteps or num_noises < 1:
        raise ValueError("features are taken at one timestep and with one pair of noise at least.")
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for timestep in timesteps:
        t = torch.full((len(windows),), float(timestep), device=windows.device)
        noises = [torch.randn(windows.shape[1:], generator=generator).to(windows) for _ in range(num_noises)]
        noisy = [levels.noisy(windows, eps.expand_as(windows), t) for noise in noises for eps in (noise, -noise)]
        found = [network.features(x_t, timesteps=t).float().flatten(2) for x_t in noisy]  # type: ignore[operator]
        parts.append(torch.stack(found).mean(0))
    return torch.cat(parts, 2)
