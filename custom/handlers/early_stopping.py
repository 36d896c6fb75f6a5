"""Early stopping as a handler of the trainer."""

from __future__ import annotations

from ignite.engine import Engine, Events

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Stop the trainer when the evaluator's key metric has not improved for ``patience`` epochs.

    It belongs after ``ValidationHandler`` in the list. In contrast to :py:class:`monai.handlers.EarlyStopHandler` it needs no
    reference to the trainer, hence no circular reference in the configuration, and has no state of its own to resume.

    Args:
        evaluator: engine that computes the key metric.
        patience: number of epochs without improvement; zero never stops.
    """

    def __init__(self, evaluator: Engine, patience: int) -> None:
        self.evaluator, self.patience = evaluator, patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        best = self.evaluator.state
        waited = engine.state.epoch - max(best.best_metric_epoch, 0)
        if 0 < self.patience <= waited:
            engine.logger.info(f"Early stopping: no improvement over {best.best_metric:.4f} for {waited} epochs.")
            engine.terminate()
