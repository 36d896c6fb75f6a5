"""Save and resume a training run, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.data import set_rnd
from monai.utils import set_determinism

from ..folder_lock import FolderLock
from ..own_files import load_tensors
from ..paths import on_disc, written_whole

__all__ = ["EpochSeed", "TrainingState"]

START_AGAIN = "put a copy in its place, or train from the start, without --resume."


class TrainingState:
    """Write everything needed to resume after every epoch, and read it back when the engine starts.

    The trainer itself is saved too, without being named in the configuration, where ``@train::trainer`` inside
    ``train::handlers`` would be a circular reference. Put this handler last, so that it saves what the other handlers did at
    the end of the epoch. The file holds tensors and plain Python values only.

    Args:
        path: file to write after every epoch.
        objects: named objects with ``state_dict`` and ``load_state_dict``.
        evaluator: engine whose best key metric is kept.
        datalist: what is trained on; the digest of its split is saved, and must agree when training resumes.
        resume: whether to read ``path`` when the engine starts. A run that was killed in its first epoch has no state
            yet and begins again, which is said in the log. Without it, the state of an earlier training is deleted.
    """

    def __init__(
        self, path: str, objects: Mapping[str, Any], evaluator: Engine, datalist: Mapping[str, Any], resume: bool = False
    ) -> None:
        self.path, self.objects, self.evaluator, self.resume = path, dict(objects), evaluator, resume
        self.digest = dict(datalist["split"]["digest"])
        if datalist.get("permuted") is not None:
            self.digest["permuted"] = str(datalist["permuted"])

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.lock)
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.unlock)

    def lock(self, engine: Engine) -> None:
        """Take the folder: of two trainings into it one is refused. After an error it is free once this object is gone."""
        if idist.get_rank() == 0:
            self.folder = FolderLock(os.path.dirname(self.path) or ".")

    def unlock(self, engine: Engine) -> None:
        """Let go of the folder."""
        if idist.get_rank() == 0:
            self.folder.release()

    def load(self, engine: Engine) -> None:
        """Restore the state, or delete that of an earlier training: resumed, this one would go on with that one's weights.

        Raises:
            ValueError: if the state is damaged, another network's, or was trained on another split.
        """
        if not self.resume:
            if engine.state.epoch == 0 and idist.get_rank() == 0:  # a site of a federation starts its engine every round
                self._delete()
            return
        if not os.path.isfile(self.path):
            engine.logger.warning(f"Nothing to resume: {self.path} does not exist, training starts from the first epoch.")
            return
        state = load_tensors(self.path, START_AGAIN, engine.state.device)
        if not {"digest", "trainer", "evaluator"} <= state.keys():
            raise ValueError(f"{self.path} is no state of a training, it holds {sorted(map(str, state))[:5]}: {START_AGAIN}")
        if state["digest"] != self.digest:
            raise ValueError(
                f"{self.path} was trained on another split, or other labels: give its datalist, or train without --resume."
            )
        for name, obj in self.objects.items():
            try:
                obj.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise ValueError(f"{self.path} does not fit this configuration's {name}: {error}") from error
        vars(engine.state).update(state["trainer"])
        vars(self.evaluator.state).update(state["evaluator"])
        engine.logger.info(f"Resumed from {self.path} after epoch {engine.state.epoch}.")

    def _delete(self) -> None:
        if os.path.isfile(self.path):
            os.unlink(self.path)
            on_disc(Path(self.path).parent)

    def save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        best = self.evaluator.state
        state = {name: obj.state_dict() for name, obj in self.objects.items()}
        state["digest"] = self.digest
        state["trainer"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        state["evaluator"] = {"best_metric": float(best.best_metric), "best_metric_epoch": best.best_metric_epoch}
        with written_whole(self.path) as temporary:
            torch.save(state, temporary)


class EpochSeed:
    """Seed every epoch by its number, so that a resumed run repeats exactly what an uninterrupted one does.

    Args:
        seed: of the run.
        dataset: whose random transforms are seeded.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed, self.dataset = seed, dataset

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed * 1_000_003 + engine.state.epoch) * 1_009
        set_determinism(seed + idist.get_rank())  # ranks must differ in what they drop out
        set_rnd(self.dataset, seed)
