"""Label schemes of task runs: which code every trial of every run gets; the configuration maps codes to classes.

``trial_type``
    The trial's own type, as the events file names it.
``early_late``
    "early" in run 1 and "late" in run 2 of one learning task of one subject and session. A run without the other one is left
    out, so that the task, the subject and the dataset tell nothing of the label: chance is 0.5 by construction.
``task_run``
    Four stages by task and run, :py:data:`TASK_RUN`. The dataset alone tells much of this label.
``learning_curve``
    "low", "middle" or "high" by what the subject got right in that third of the run, see :py:func:`learning_curve`. Here the
    label is that of a trial, not of a run.

Names of tasks are compared without regard to case. Schemes read names and tables only.

References: Poldrack et al., Interactive memory systems in the human brain, Nature 414 (2001) 546-550 (ds000052); Aron et al.,
NeuroImage 29 (2006) 1000-1006 (ds000002); Foerde et al., PNAS 103 (2006) 11778-11783 (ds000011).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .bids_tables import MISSING, code_of

__all__ = ["LEARNING_TASKS", "SCHEMES", "TASK_RUN", "NoStage", "Run", "stage_of", "unit_of"]

# learnt by feedback over runs 1 and 2, the dual task too; probes without feedback and tasks with nothing to learn are none
LEARNING_TASKS = (
    "deterministicclassification",
    "probabilisticclassification",
    "weatherprediction",
    "reversalweatherprediction",
    "singletaskweatherprediction",
    "dualtaskweatherprediction",
)
PHASES = {"1": "early", "2": "late"}
OF_RUNS = ("early_late", "task_run")  # the schemes that give all trials of a run one code

_LEARNT = {"1": "acquisition", "2": "consolidation"}
# task → stage, of every run or by run. It gives the published counts of ds000002, ds000011, ds000017 and ds000052 (298 runs,
# 109/92/71/26) only with run 1 of the mixed probe and runs 1 and 2 of the stop-signal task as they stand here. The
# classification probe of ds000011 has no stage.
TASK_RUN: Mapping[str, str | Mapping[str, str]] = {
    "deterministicclassification": _LEARNT,
    "probabilisticclassification": _LEARNT,
    "weatherprediction": _LEARNT,
    "singletaskweatherprediction": _LEARNT,
    "mixedeventrelatedprobe": {"1": "acquisition", "2": "transfer"},
    "selectivestopsignaltask": {**_LEARNT, "3": "transfer"},
    "dualtaskweatherprediction": "transfer",
    "tonecounting": "transfer",
    "reversalweatherprediction": "reversal",
}

CORRECT = "Correct"  # column of the events: 1, 0, or -1 for no answer
LOW, HIGH = 0.6, 0.8  # fractions correct; 0.5 is guessing in a choice of two, probabilistic feedback allows about 0.85


@dataclass(frozen=True)
class Run:
    """A task run.

    Args:
        subject: unique over datasets.
        session: as BIDS names it, ``None`` without.
        task: likewise.
        run: its number, "1" for ``run-01``, ``None`` without.
        file: of the events, for messages.
        events: the trials, see :py:func:`~custom.data.bids_tables.read_events`.
    """

    subject: str
    session: str | None
    task: str
    run: str | None
    file: str
    events: pd.DataFrame


@dataclass(frozen=True)
class NoStage:
    """Why a scheme has no labels for a run."""

    reason: str


Scheme = Callable[[Sequence[Run]], list[list[str] | NoStage]]


def stage_of(task: str, run: str | None) -> str | None:
    """Return the stage of the scheme ``task_run``, ``None`` where it has none."""
    stages = TASK_RUN.get(task.casefold(), {})
    return stages if isinstance(stages, str) else stages.get(run or "")


def trial_type(runs: Sequence[Run]) -> list[list[str] | NoStage]:
    """Return every trial's own type."""
    return [list(run.events["trial_type"]) for run in runs]


def task_run(runs: Sequence[Run]) -> list[list[str] | NoStage]:
    """Return the stage of the run's task and number for each of its trials."""
    return [_throughout(run, stage_of(run.task, run.run), _told(run)) for run in runs]


def early_late(runs: Sequence[Run]) -> list[list[str] | NoStage]:
    """Return "early" for the trials of run 1 and "late" for those of run 2, of learning tasks that have both."""
    present = {(run.subject, run.session, run.task.casefold(), run.run) for run in runs if len(run.events)}
    labels = []
    for run in runs:
        learnt = run.task.casefold() in LEARNING_TASKS and run.run in PHASES
        other = next(number for number in PHASES if number != run.run)
        paired = (run.subject, run.session, run.task.casefold(), other) in present
        reason = f"{_told(run)} without run {other}" if learnt else _told(run)
        labels.append(_throughout(run, PHASES.get(run.run or "") if learnt and paired else None, reason))
    return labels


def learning_curve(runs: Sequence[Run]) -> list[list[str] | NoStage]:
    """Return per trial what the subject got right in its third of the run: "low", "middle" or "high".

    The trials in order of onset are cut into thirds. A third's code is "low" if less than 0.6 of the answers in it are correct,
    "high" from 0.8, else "middle"; trials without an answer are no answers, and get the code of their third.

    Raises:
        ValueError: naming the file, for a value of ``Correct`` other than 1, 0, -1 or ``n/a``.
    """
    return [_by_thirds(run) if CORRECT in run.events else NoStage(f"events without a column {CORRECT}") for run in runs]


def _by_thirds(run: Run) -> list[str] | NoStage:
    values = run.events[CORRECT].map(code_of)
    unknown = values[~values.isin(["1", "0", "-1", MISSING])]
    if len(unknown):
        raise ValueError(
            f"{run.file}: {CORRECT} is {unknown.iloc[0]!r}; 1 is correct, 0 is wrong, -1 is no answer: correct it."
        )
    codes: list[str] = []
    for third in np.array_split(values.to_numpy(), 3):
        answers = third[np.isin(third, ["1", "0"])]
        if not len(answers):
            return NoStage("a third of the run without an answer")
        correct = (answers == "1").mean()
        codes += ["low" if correct < LOW else "high" if correct >= HIGH else "middle"] * len(third)
    return codes


def _throughout(run: Run, code: str | None, reason: str) -> list[str] | NoStage:
    return NoStage(reason) if code is None else [code] * len(run.events)


def _told(run: Run) -> str:
    return f"task {run.task}{f', run {run.run}' if run.run else ''}"


SCHEMES: Mapping[str, Scheme] = {
    "trial_type": trial_type,
    "early_late": early_late,
    "task_run": task_run,
    "learning_curve": learning_curve,
}


def unit_of(scheme: str) -> str:
    """Return the column of the datalist that names what a label belongs to: the whole run (``scan``), or the trial (``block``).

    Raises:
        ValueError: for a scheme that is none.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme '{scheme}' is not one of {', '.join(SCHEMES)}.")
    return "scan" if scheme in OF_RUNS else "block"
