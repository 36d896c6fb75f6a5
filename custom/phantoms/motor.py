"""A synthetic study of movements: one BIDS dataset named and laid out like ds004044.

Ma et al., *An fMRI dataset for whole-body somatotopic mapping in humans*, Sci Data 2022, is the study it imitates; no voxel of
it is in here. Each of its twelve codes has a focus on a strip of cortex that runs, on both sides, from the midline over the
convexity: code 3, the left leg, on the right side near the midline and code 4, the right leg, on the left, so that a scan
flipped from left to right shows the other leg; codes 5, the forearm, and 6, the upper arm, side by side and overlapping. What
the other codes move is not known for certain, so their places are made up. Nothing but the response depends on the movement.
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

__all__ = ["CODES", "Person", "activation", "draw_design", "draw_people", "region", "simulate_person", "write_study"]

# place of each code: degrees from the midline along the strip, and its side; 0 is both
STRIP = {1: (6, 0), 2: (16, 0), 3: (26, 1), 4: (26, -1), 6: (43, 0), 5: (54, 0)}
STRIP |= {7: (66, 0), 8: (74, 0), 9: (82, 0), 10: (90, 0), 11: (98, 0), 12: (106, 0)}
CODES = tuple(sorted(STRIP))
REST = 0
RADIUS = 0.7  # of the strip, where 1 is the edge of the field of view
WIDTH = 0.16
SPREAD = 0.15  # standard deviation of a subject's amplitudes about 1
SHIFT = 0.5  # voxels by which a subject's foci lie elsewhere, at most
BLOCK = 16.0  # seconds
IN_A_ROW = 6  # blocks between two of rest


@dataclass(frozen=True)
class Person:
    """One subject; ``shift`` of the foci in voxels and ``amplitude`` are the simulated truth."""

    number: int
    male: bool
    age: int
    amplitude: float
    shift: tuple[float, float, float]

    @property
    def subject(self) -> str:
        """As BIDS names it."""
        return f"sub-{self.number:02d}"


def write_study(
    raw_dir: str | Path,
    n_subjects: int = 6,
    n_runs: int = 6,
    effect: float = 3.0,
    shape: tuple[int, int, int] = (18, 20, 14),
    seed: int = 0,
    conditions: Sequence[int] = CODES,
    events_dir: str | Path | None = None,
) -> Path:
    """Write a synthetic dataset; a subject depends on ``(seed, number)`` and the study's sizes alone.

    Beside the subjects there are ``SYNTHETIC``, which marks the study, and ``truth.csv`` and ``truth/``, the maps of the foci,
    which only tests read.

    Args:
        raw_dir: folder to write to; an earlier synthetic study in it is replaced.
        n_subjects: number of subjects.
        n_runs: runs of each.
        effect: at the focus of a movement, in per cent of a voxel's mean from trough to peak; 0 makes runs that say nothing.
        shape: voxels of a scan.
        seed: of the study.
        conditions: codes of the movements; all twelve make the real 29 blocks of 16 s, fewer make shorter runs.
        events_dir: ds004044 itself, whose events are replayed in place of ``conditions``.

    Returns:
        ``raw_dir``.

    Raises:
        FileExistsError: ``raw_dir`` holds something that is not a synthetic study.
        FileNotFoundError: ``events_dir`` holds no events.
        ValueError: a condition that is none of the twelve codes, or none at all.
    """
    root = Path(raw_dir)
    if not conditions or not set(conditions) <= set(CODES):
        raise ValueError(f"conditions {tuple(conditions)} must be some of the codes {CODES}")
    designs = _read_designs(Path(events_dir)) if events_dir else []
    make_room(root, "*")
    (root / MARKER).write_text(
        "Synthetic study, made by custom.phantoms.motor: no scan and no person is real.\n"
        f"{n_subjects} subjects, {n_runs} runs each, effect {effect} %, seed {seed}\n"
    )
    people = list(draw_people(n_subjects, seed))
    for person in tqdm(people, desc="phantom", unit="subject", disable=None):
        runs = simulate_person(person, n_runs, effect, shape, seed, conditions, designs)
        for run, (scan, events) in enumerate(runs):
            stem = f"{person.subject}_ses-1_task-motor_run-{run + 1:02d}"
            write_run(root / person.subject / "ses-1" / "func" / f"{stem}_bold.nii.gz", scan, events)
    write_dataset(root, "Synthetic somatotopy", {"motor": "Motor tasks"}, [_participant(p) for p in people])
    _write_truth(root, people, shape)
    return root


def draw_people(n_subjects: int, seed: int = 0) -> Iterator[Person]:
    """Draw the subjects."""
    for number in range(1, n_subjects + 1):
        rng = np.random.default_rng([seed, number, 0])
        amplitude = float(np.clip(rng.normal(1, SPREAD), 0.5, 1.5))
        x, y, z = rng.uniform(-SHIFT, SHIFT, 3)
        yield Person(number, bool(rng.random() < 0.5), int(rng.integers(18, 30)), amplitude, (x, y, z))


def region(code: int, shape: Sequence[int], shift: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """Return where a movement acts, float32 of ``shape``: 1 at the focus, falling off as a Gaussian."""
    degrees, side = STRIP[code]
    angle = np.deg2rad(degrees)
    x, z = RADIUS * np.sin(angle), RADIUS * np.cos(angle)
    y = -0.2 + 0.4 * degrees / 100  # the central sulcus runs forwards on its way down
    return focus(shape, [(side * x if side else x, y, z)], WIDTH, shift, mirrored=side == 0)


def draw_design(conditions: Sequence[int], rng: np.random.Generator) -> pd.DataFrame:
    """Draw the blocks of a run as ds004044 has them: onset and duration in seconds, trial_type 0 (rest) or a code.

    The codes are shuffled, up to six in a row, then rest; more than six make two groups, of the odd and of the even ones. The
    second half of a run is the first one backwards.
    """
    if len(conditions) > IN_A_ROW:
        groups = [[c for c in conditions if c % 2 == odd] for odd in rng.permutation(2)]
    else:
        groups = [list(conditions)]
    half = [REST]
    for group in groups:
        half += [*rng.permutation(group).tolist(), REST]
    codes = half + half[-2::-1]
    return pd.DataFrame({"onset": BLOCK * np.arange(len(codes)), "duration": BLOCK, "trial_type": codes}).astype(int)


def simulate_person(
    person: Person,
    n_runs: int,
    effect: float,
    shape: tuple[int, int, int],
    seed: int = 0,
    conditions: Sequence[int] = CODES,
    designs: Sequence[Sequence[pd.DataFrame]] = (),
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Yield the subject's runs, float32 (T, X, Y, Z) in scanner units, with their events.

    ``designs`` has the real events of every run of each real subject; without them they are drawn.
    """
    brain = draw_brain(np.random.default_rng([seed, person.number, 1]), shape)
    for run in range(n_runs):
        rng = np.random.default_rng([seed, person.number, 2 + run])
        if designs:
            real = designs[(person.number - 1) % len(designs)]
            events = real[run % len(real)]
        else:
            events = draw_design(conditions, rng)
        yield simulate_run(rng, brain, effect * person.amplitude * activation(events, shape, person.shift), run), events


def activation(events: pd.DataFrame, shape: Sequence[int], shift: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """Return the response to a run's blocks, 1 at the peak of a focus, to the end of the last block; float32 (T, X, Y, Z)."""
    n_frames = round((events["onset"] + events["duration"]).max() / TR)
    codes = sorted(set(events["trial_type"]) - {REST})
    courses = np.stack([response(events[events["trial_type"] == code], n_frames) for code in codes], 1)
    return np.tensordot(courses, np.stack([region(code, shape, shift) for code in codes]), 1)


def _read_designs(folder: Path) -> list[list[pd.DataFrame]]:
    """Return the events of every run of every real subject."""
    subjects = sorted({p.parent for p in folder.glob("sub-*/ses-1/func/*_task-motor_run-*_events.tsv")})
    if not subjects:
        raise FileNotFoundError(f"no sub-*/ses-1/func/*_task-motor_run-*_events.tsv in {folder}: give --events_dir ds004044")
    return [[pd.read_csv(f, sep="\t") for f in sorted(func.glob("*_events.tsv"))] for func in subjects]


def _participant(person: Person) -> dict[str, str | int]:
    return {"participant_id": person.subject, "age": person.age, "sex": "M" if person.male else "F", "group": "control"}


def _write_truth(root: Path, people: list[Person], shape: tuple[int, int, int]) -> None:
    """Write each subject's amplitude and shift, and the foci before any shift."""
    shift = ("x", "y", "z")
    rows = [{"subject": p.subject, "amplitude": p.amplitude, **dict(zip(shift, p.shift, strict=True))} for p in people]
    pd.DataFrame(rows).to_csv(root / "truth.csv", index=False)
    for code in CODES:
        write_map(root / "truth" / f"code{code:02d}.nii.gz", region(code, shape))
