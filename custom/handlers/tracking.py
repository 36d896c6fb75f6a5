"""A training run in Weights & Biases, through Ignite's logger. MLflow needs nothing here: ``--tracking mlflow`` is MONAI's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers.wandb_logger import WandBLogger
from monai.engines import Trainer
from monai.handlers import from_engine
from monai.utils import optional_import

__all__ = ["WandB"]


class WandB:
    """Log the loss of every iteration and the metrics of every validation to one run of Weights & Biases.

    One object is a handler of both trainer and evaluator. Only the first process logs. The run begins with the trainer and ends
    with it.

    Args:
        project: the run belongs to.
        folder: where its files are kept, ``<folder>/wandb``.
        mode: ``offline`` sends nothing: ``wandb sync`` uploads the folder later. ``online`` sends as it goes.
        config: settings to show with the run.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """

    def __init__(self, project: str, folder: str, mode: str = "offline", config: Mapping[str, Any] | None = None) -> None:
        if not optional_import("wandb")[1]:
            raise ModuleNotFoundError(
                "Weights & Biases is not installed, it is no requirement of this package: pip install wandb==0.31.0, or leave "
                "its overlay out."
            )
        self.folder = Path(folder)
        self.options = {"project": project, "dir": str(folder), "mode": mode, "config": dict(config or {})}

    @cached_property
    def run(self) -> WandBLogger:
        """The run, begun when it is first asked for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        run = WandBLogger(**self.options)
        # a step of W&B's own only goes up, and the epochs of a validation are behind the iterations of the training
        run.define_metric("train/*", step_metric="iteration")
        run.define_metric("validate/*", step_metric="epoch")
        return run

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        if isinstance(engine, Trainer):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.log_loss)
            engine.add_event_handler(Events.COMPLETED, self.close)
        else:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.log_metrics)

    def log_loss(self, engine: Engine) -> None:
        loss = from_engine(["loss"], first=True)(engine.state.output)
        self.run.log({"train/loss": float(loss), "iteration": engine.state.iteration})

    def log_metrics(self, engine: Engine) -> None:
        metrics = {f"validate/{name}": float(value) for name, value in engine.state.metrics.items()}
        self.run.log({**metrics, "epoch": engine.state.epoch})

    def close(self) -> None:
        self.run.close()
