"""Synthetic studies of classification learning: a folder of BIDS datasets named and laid out like ds000002 and ds000052.

Poldrack et al., *Interactive memory systems in the human brain*, Nature 2001: early in learning the medial temporal lobe
responds to a trial, late the striatum. Here both do so by ``effect`` per cent, each in one of a subject's two runs of a task,
and a visual region responds equally in both. Nothing else depends on the stage but the level at which the drift of the
scanner stands, which differs between a first and a second run in every subject, and which detrending removes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from .folder import MARKER, make_room
from .task_bold import TR, draw_brain, focus, response, simulate_run, write_dataset, write_map, write_run

__all__ = ["REGIONS", "TASKS", "Person", "draw_people", "draw_trials", "simulate_person", "write_study"]

# task and run of every second dataset, as the real ones are named
TASKS = (("probabilisticclassification", "{:02d}"), ("weatherprediction", "{:d}"))
WORDS = {"probabilisticclassification": "probabilistic classification", "weatherprediction": "Weather prediction"}
EARLY, LATE = 0, 1  # a subject's two runs
REGIONS = {  # centres on the right, from -1 to 1 in RAS; the left has their twins
    "mtl": (0.5, -0.1, -0.45),
    "striatum": (0.3, 0.3, 0.1),
    "visual": (0.2, -0.65, 0.0),
}
WIDTH = 0.18
VISUAL = 1.5  # per cent, in both runs and at any effect
SPREAD = 0.15  # standard deviation of a subject's amplitudes about 1
FIRST = (1.0, 3.0)  # seconds to the first trial
INTERVAL = (6.5, 16.0)  # seconds from trial to trial
WINDOW = 16.0  # seconds after the last trial that are still recorded
TRIAL = 2.0  # seconds


@dataclass(frozen=True)
class Person:
    """One subject of a dataset; ``shift`` of the regions in voxels and ``amplitude`` are the simulated truth."""

    dataset: int
    number: int
    male: bool
    age: int
    amplitude: float
    shift: tuple[float, float, float]

    @property
    def subject(self) -> str:
        """As BIDS names it."""
        return f"sub-{self.number:02d}"

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Return the generator of one random stream of this subject, whatever the size of the study."""
        return np.random.default_rng([seed, self.dataset, self.number, stream])


def write_study(
    raw_dir: str | Path,
    n_subjects: int = 12,
    n_datasets: int = 2,
    effect: float = 2.0,
    shape: tuple[int, int, int] = (12, 14, 10),
    n_frames: int = 150,
    seed: int = 0,
    events_dir: str | Path | None = None,
) -> Path:
    """Write synthetic datasets ``synthA``, ``synthB``, …; a subject depends on ``(seed, dataset, number)`` and the sizes alone.

    Beside them there are ``SYNTHETIC``, which marks the study, and ``truth.csv`` and ``truth/``, the maps of the regions, which
    only tests read.

    Args:
        raw_dir: folder to write to; an earlier synthetic study in it is replaced.
        n_subjects: subjects of each dataset, with two runs each.
        n_datasets: number of datasets.
        effect: of the stage, in per cent of a voxel's mean from trough to peak; 0 makes runs that say nothing about it.
        shape: voxels of a scan.
        n_frames: length of a run, at a TR of 2 s.
        seed: of the study.
        events_dir: a real dataset, ds000002 or ds000052, whose events are replayed as far as the runs last.

    Returns:
        ``raw_dir``.

    Raises:
        FileExistsError: ``raw_dir`` holds something that is not a synthetic study.
        FileNotFoundError: ``events_dir`` holds no events of two runs of either task.
        ValueError: runs that are too short for one trial.
    """
    root = Path(raw_dir)
    if n_frames * TR <= WINDOW + FIRST[1]:
        raise ValueError(
            f"{n_frames} frames of {TR:g} s are too few for a trial: n_frames must be above {(WINDOW + FIRST[1]) / TR:g}"
        )
    designs = _read_designs(Path(events_dir)) if events_dir else []
    make_room(root, "*")
    (root / MARKER).write_text(
        "Synthetic study, made by custom.phantoms.learning_stage: no scan and no person is real.\n"
        f"{n_datasets} datasets, {n_subjects} subjects each, effect {effect} %, seed {seed}\n"
    )
    people = list(draw_people(n_datasets, n_subjects, seed))
    for person in tqdm(people, desc="phantom", unit="subject", disable=None):
        task, number = TASKS[person.dataset % len(TASKS)]
        folder = root / _name(person.dataset) / person.subject / "func"
        for run, (scan, events) in enumerate(simulate_person(person, effect, shape, n_frames, seed, designs)):
            stem = f"{person.subject}_task-{task}_run-{number.format(run + 1)}"
            write_run(folder / f"{stem}_bold.nii.gz", scan, events)
    for dataset in range(n_datasets):
        task = TASKS[dataset % len(TASKS)][0]
        rows = [_participant(p) for p in people if p.dataset == dataset]
        write_dataset(root / _name(dataset), f"Synthetic {WORDS[task]}", {task: WORDS[task]}, rows)
    _write_truth(root, people, shape)
    return root


def draw_people(n_datasets: int, n_subjects: int, seed: int = 0) -> Iterator[Person]:
    """Draw the subjects, dataset by dataset."""
    for dataset in range(n_datasets):
        for number in range(1, n_subjects + 1):
            rng = np.random.default_rng([seed, dataset, number, 0])
            amplitude = float(np.clip(rng.normal(1, SPREAD), 0.5, 1.5))
            x, y, z = rng.uniform(-1, 1, 3)
            yield Person(dataset, number, bool(rng.random() < 0.5), int(rng.integers(18, 41)), amplitude, (x, y, z))


def simulate_person(
    person: Person,
    effect: float,
    shape: tuple[int, int, int],
    n_frames: int,
    seed: int = 0,
    designs: Sequence[Sequence[pd.DataFrame]] = (),
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Yield the subject's early and late run, float32 (T, X, Y, Z) in scanner units, with their events.

    ``designs`` has the real events of two runs per real subject. Which of them becomes the early run is drawn: in a real study
    all subjects may have one order of trials first, and then the order tells the run.
    """
    brain = draw_brain(person.generator(seed, 1), shape, gain=(1.0, 1.4)[person.dataset % 2])
    maps = {name: focus(shape, [centre], WIDTH, person.shift, mirrored=True) for name, centre in REGIONS.items()}
    design = _draw_design(person, n_frames, seed, designs)
    for run, stage in enumerate(("mtl", "striatum")):
        trials = design[run]
        course = response(trials[trials["duration"].notna()], n_frames)
        percent = np.multiply.outer(course, person.amplitude * (effect * maps[stage] + VISUAL * maps["visual"]))
        yield simulate_run(person.generator(seed, 3 + run), brain, percent, run), trials


def _draw_design(person: Person, n_frames: int, seed: int, designs: Sequence[Sequence[pd.DataFrame]]) -> list[pd.DataFrame]:
    rng = person.generator(seed, 2)
    if not designs:
        return [draw_trials(rng, n_frames, run, TASKS[person.dataset % len(TASKS)][0]) for run in (EARLY, LATE)]
    both = designs[(person.number - 1) % len(designs)]
    order = rng.permutation(2)
    recorded = n_frames * TR - WINDOW
    return [both[i][both[i]["onset"] < recorded] for i in order]


def draw_trials(rng: np.random.Generator, n_frames: int, run: int, task: str) -> pd.DataFrame:
    """Draw the trials of a run: onset and duration in seconds, trial_type, Correct (more and more often 1; -1 = no answer)."""
    onset = rng.uniform(*FIRST) + np.concatenate([[0], rng.uniform(*INTERVAL, size=n_frames)]).cumsum()
    onset = onset[onset < n_frames * TR - WINDOW]
    learnt = 0.5 + 0.35 * (run + np.linspace(0, 1, len(onset))) / 2
    correct = np.where(rng.random(len(onset)) < 0.03, -1, rng.random(len(onset)) < learnt)
    sign = np.where(correct == 1, "positive", "negative")
    kind = sign if task == "weatherprediction" else np.full(len(onset), "feedback")
    return pd.DataFrame({"onset": onset.round(3), "duration": TRIAL, "trial_type": kind, "Correct": correct.astype(int)})


def _read_designs(folder: Path) -> list[list[pd.DataFrame]]:
    """Return the events of both runs of every real subject of one of the tasks."""
    for task, _ in TASKS:
        name = f"*_task-{task}_run-*_events.tsv"
        files = [sorted(func.glob(name))[:2] for func in sorted(folder.glob("sub-*/func"))]
        designs = [[pd.read_csv(f, sep="\t") for f in both] for both in files if len(both) == 2]
        if designs:
            return designs
    raise FileNotFoundError(
        f"no two sub-*/func/*_events.tsv of a subject of the tasks {', '.join(task for task, _ in TASKS)} in {folder}: "
        "give --events_dir the folder of ds000002 or ds000052"
    )


def _name(dataset: int) -> str:
    return f"synth{chr(ord('A') + dataset)}"


def _participant(person: Person) -> dict[str, str | int]:
    return {"participant_id": person.subject, "sex": "M" if person.male else "F", "age": person.age}


def _truth(person: Person) -> dict[str, str | float]:
    name = {"dataset": _name(person.dataset), "subject": person.subject}
    return {**name, "amplitude": person.amplitude, **dict(zip(("x", "y", "z"), person.shift, strict=True))}


def _write_truth(root: Path, people: list[Person], shape: tuple[int, int, int]) -> None:
    """Write each subject's amplitude and shift, and the regions before any shift."""
    pd.DataFrame([_truth(p) for p in people]).to_csv(root / "truth.csv", index=False)
    for name, centre in REGIONS.items():
        write_map(root / "truth" / f"{name}.nii.gz", focus(shape, [centre], WIDTH, mirrored=True))
