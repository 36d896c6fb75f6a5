from __future__ import annotations

from collections.abc import Sequence

import pytest
from ignite.engine import Engine, Events

from custom.handlers import EarlyStopping


def epochs_run(scores: Sequence[float], patience: int, validate_every: int = 1, start: dict | None = None) -> int:
    """Return how many epochs a trainer runs whose validations score so; ``start`` is a state to resume from."""
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    vars(evaluator.state).update(best_metric=-1, best_metric_epoch=-1)

    @trainer.on(Events.STARTED)
    def resume() -> None:
        if start:
            trainer.state.epoch = trainer.state.iteration = start["epoch"]
            vars(evaluator.state).update({k: v for k, v in start.items() if k != "epoch"})

    @trainer.on(Events.EPOCH_COMPLETED(every=validate_every))
    def validate() -> None:
        score = scores[trainer.state.epoch - 1]
        if score > evaluator.state.best_metric:
            vars(evaluator.state).update(best_metric=score, best_metric_epoch=trainer.state.epoch)

    EarlyStopping(evaluator, patience).attach(trainer)
    trainer.run([0], max_epochs=len(scores))
    return trainer.state.epoch


FALLING = [0.5, 0.7, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2]


@pytest.mark.parametrize(("patience", "expected"), [(1, 3), (2, 4), (4, 6), (6, 8), (7, 8)])
def test_training_stops_so_many_epochs_after_its_best(patience: int, expected: int):
    assert epochs_run(FALLING, patience) == expected


def test_an_improvement_starts_the_count_anew():
    assert epochs_run([0.5, 0.4, 0.6, 0.5, 0.7, 0.1, 0.1, 0.1], patience=2) == 7


def test_zero_never_stops():
    assert epochs_run(FALLING, patience=0) == 8


def test_rising_scores_never_stop():
    assert epochs_run([0.1, 0.2, 0.3, 0.4], patience=1) == 4


def test_epochs_are_counted_also_where_validation_is_rare():
    assert epochs_run(FALLING, patience=3, validate_every=2) == 5


def test_the_count_goes_on_after_a_resume():
    state = {"epoch": 3, "best_metric": 0.7, "best_metric_epoch": 2}
    assert epochs_run(FALLING, patience=2, start=state) == epochs_run(FALLING, patience=2) == 4


def test_before_any_validation_the_epochs_count_from_the_start():
    assert epochs_run(FALLING, patience=2, validate_every=100) == 2
