"""What a denoiser knows of the training runs without gradients: fitted once, before the first epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events

from ..data.prepare_record import scale_path
from ..errors import BadScan
from ..networks.residual_denoiser import ResidualDenoiser
from ..transforms.window_rows import read_windows

__all__ = ["FitDenoiser"]


class FitDenoiser:
    """Fit a network's closed-form part and its scale to the training part.

    Of a training that is resumed :py:class:`.TrainingState`, which comes after it, restores what was fitted then.

    Args:
        network: whose ``scale`` and, where it has one, ``gaussian`` are fitted.
        rows: of the training part, one per window.

    Raises:
        ValueError: if no row has a class.
    """

    def __init__(self, network: ResidualDenoiser, rows: Sequence[Mapping[str, Any]]) -> None:
        self.network, self.rows = network, [row for row in rows if row["label"] >= 0]
        if not self.rows:
            raise ValueError("no training window has a class, which the closed form is fitted by: prepare runs with labels.")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Fit.

        Raises:
            BadScan: if the runs differ in grid, affine or TR.
            FileNotFoundError: if a run has no scale beside it.
            ValueError: if a window is longer than its run, or a class has fewer than two windows.
        """
        scales, affine, repetition_time = _scales(list(dict.fromkeys(row["image"] for row in self.rows)))
        self.network.scale.fit(scales, affine, repetition_time)
        if self.network.gaussian is not None:
            labels = torch.tensor([row["label"] for row in self.rows])
            self.network.gaussian.fit(read_windows(self.rows), labels)


def _scales(images: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the scales (R, 2, X, Y, Z) of prepared runs, their one affine and their one TR."""
    first, scales = nib.load(images[0]), []
    for path in images:
        run, scale = nib.load(path), scale_path(path)
        if not scale.is_file():
            raise FileNotFoundError(f"{scale} does not exist: prepare the study with a scale_key in TemporalZScored.")
        times = [image.header.get_zooms()[3] for image in (run, first)]
        if run.shape[:3] != first.shape[:3] or not np.allclose(run.affine, first.affine, atol=1e-3) or not np.isclose(*times):
            raise BadScan(
                f"{path}: grid {run.shape[:3]} and TR {times[0]:g} s, or the affine, differ from those of {images[0]}, "
                f"{first.shape[:3]} and {times[1]:g} s: prepare one study on one grid (--spacing, --spatial_size)."
            )
        scales.append(np.moveaxis(nib.load(scale).get_fdata(dtype=np.float32), -1, 0))
    return torch.from_numpy(np.stack(scales)), torch.from_numpy(first.affine), float(first.header.get_zooms()[3])
