"""What a diffusion generates, in TensorBoard while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.networks.schedulers import Scheduler
from torch.utils.tensorboard import SummaryWriter

from ..diffusion.generate import generate
from ..networks.residual_denoiser import ResidualDenoiser
from ..transforms.window_rows import read_windows
from ..visualize.displays import COLOURS, new_figure
from ..visualize.generation import class_map_figure, film_figure

__all__ = ["GenerationPictures"]


class GenerationPictures:
    """After some epochs of validation: a denoising film, class mean maps beside the real ones, and the loss by noise level.

    Args:
        network: that generates.
        scheduler: which samples.
        num_steps: evaluations per sample.
        rows: of the validation part, whose class mean maps stand beside the generated ones.
        class_names: in the order of the labels.
        summary_writer: gets the pictures.
        metric: name of the :py:class:`.NoiseLevelLoss` in the engine's metrics.
        interval: epochs from one picture to the next.
        per_class: samples of a class, from the same seeds every time.
        film: pictures of a film.
    """

    def __init__(
        self,
        network: ResidualDenoiser,
        scheduler: Scheduler,
        num_steps: int,
        rows: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        summary_writer: SummaryWriter,
        metric: str = "val_loss",
        interval: int = 10,
        per_class: int = 2,
        film: int = 6,
    ) -> None:
        self.network, self.scheduler, self.num_steps, self.rows = network, scheduler, num_steps, list(rows)
        self.class_names, self.summary_writer, self.metric = list(class_names), summary_writer, metric
        self.interval, self.per_class, self.film = interval, per_class, film

    def attach(self, engine: Engine) -> None:
        # metrics are complete at this event, and the epoch is the trainer's
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch % self.interval:
            return
        real = read_windows(self.rows)
        labels = torch.tensor([row["label"] for row in self.rows])
        wanted = [c for c in range(len(self.class_names)) for _ in range(self.per_class)]
        self.scheduler.set_timesteps(self.num_steps)
        samples, films = generate(
            self.network,
            self.scheduler,
            real.shape[1:],
            wanted,
            list(range(len(wanted))),
            device=engine.state.device,
            film=self.film,
        )
        inside = (real != 0).any(1).any(0)
        real_maps = _class_maps(real * inside, labels, len(self.class_names))
        fake_maps = _class_maps(samples * inside, torch.as_tensor(wanted), len(self.class_names))
        first = (films[:: self.per_class] * inside).numpy()
        for name, figure in (
            ("film", film_figure(first, self.class_names)),
            ("class_maps", class_map_figure(real_maps, fake_maps, self.class_names)),
            ("loss_by_noise_level", self._loss_figure(engine.state.metrics)),
        ):
            self.summary_writer.add_figure(f"generation/{name}", figure, epoch)

    def _loss_figure(self, metrics: Mapping[str, float]) -> Figure:
        prefix = f"{self.metric}_timestep_"
        errors = {int(name.removeprefix(prefix)): value for name, value in metrics.items() if name.startswith(prefix)}
        figure, (ax,) = new_figure(width=5, height=3)
        ax.plot(list(errors), list(errors.values()), color=COLOURS[0], marker="o")
        ax.set(xlabel="timestep", ylabel="mean squared error", title="Validation loss by noise level")
        return figure


def _class_maps(windows: torch.Tensor, labels: torch.Tensor, num_classes: int) -> np.ndarray:
    """Return mean maps (C, X, Y, Z); 0 of a class without windows."""
    frames = windows.mean(1)
    return torch.stack(
        [frames[labels == c].mean(0) if (labels == c).any() else 0 * frames[0] for c in range(num_classes)]
    ).numpy()
