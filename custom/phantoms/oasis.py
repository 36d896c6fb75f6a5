"""A synthetic OASIS-1 study on disc: its folders, its big-endian Analyze pairs and its table.

Marcus et al., *Open Access Series of Imaging Studies (OASIS): cross-sectional MRI data in young, middle aged,
nondemented, and demented older adults*, J Cogn Neurosci 2007.

Ages and CDR follow the real table's joint distribution (416 subjects), so those without a CDR are young here too.
A brain's severity of atrophy is ``effect * (ageing(age) + stage(CDR)) + individual``: at effect 0 nothing in the
image depends on the table, neither on CDR nor on the age that goes with it. The column ``Age`` itself still tells the
CDR 0 below sixty from the rest, as in the real study; ``age_min=60`` asks the question without that shortcut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm import tqdm

from .folder import MARKER, make_room
from .head import Scan, draw_anatomy, scan_head, simulate_head

__all__ = ["COLUMNS", "Person", "draw_people", "severity_of", "simulate_head", "write_study"]

COLUMNS = ("ID", "M/F", "Hand", "Age", "Educ", "SES", "MMSE", "CDR", "eTIV", "nWBV", "ASF", "Delay")
# Subjects of the real table per CDR (None = not assessed) and decade of age.
COUNTS: dict[float | None, dict[int, int]] = {
    None: {10: 19, 20: 119, 30: 14, 40: 18, 50: 11},
    0.0: {30: 2, 40: 13, 50: 22, 60: 25, 70: 35, 80: 30, 90: 8},
    0.5: {60: 12, 70: 32, 80: 22, 90: 4},
    1.0: {60: 3, 70: 15, 80: 9, 90: 1},
    2.0: {70: 1, 80: 1},
}
YEARS = {10: (18, 19), 30: (33, 39), 90: (90, 96)}  # where the real table does not fill the decade
MALE = {None: 0.44, 0.0: 0.28, 0.5: 0.44, 1.0: 0.32, 2.0: 0.5}
MMSE = {0.0: (29.1, 1.1), 0.5: (25.6, 3.5), 1.0: (21.7, 3.7), 2.0: (15.0, 0.5)}  # mean and standard deviation
STAGE = {None: 0.0, 0.0: 0.0, 0.5: 0.30, 1.0: 0.48, 2.0: 0.60}  # severity that a CDR adds
INDIVIDUAL = 0.15  # standard deviation of the severity that nothing in the table explains
PERSON, ANATOMY, TABLE = 0, 100, 200  # random streams of a subject; 1 and 2 are its sessions
GOLDEN = (5**0.5 - 1) / 2
PER_DISC = 12


@dataclass(frozen=True)
class Person:
    """One subject before any scan: ``cdr`` is None where it was not assessed, ``severity`` is the simulated truth."""

    number: int
    male: bool
    age: int
    cdr: float | None
    severity: float

    @property
    def subject(self) -> str:
        """OASIS id without the session, ``OAS1_0001``."""
        return f"OAS1_{self.number:04d}"

    @property
    def sessions(self) -> tuple[int, ...]:
        """Sessions scanned: about one subject in twenty came back, as in the real study."""
        return (1, 2) if self.number % 20 == 3 else (1,)


def write_study(
    raw_dir: str | Path,
    n_subjects: int = 60,
    effect: float = 1.0,
    voxel_size: float = 2.0,
    seed: int = 0,
    with_cdr_only: bool = False,
    age_min: int = 0,
) -> Path:
    """Write a synthetic study in OASIS-1's raw layout; a study of 60 begins with the study of 20 of the same seed.

    Beside discs and table there are ``SYNTHETIC``, which marks the study, and ``truth.csv``, which only tests read.

    Args:
        raw_dir: folder to write to; an earlier synthetic study in it is replaced.
        n_subjects: subjects, of whom 45 % have no CDR unless ``with_cdr_only`` or ``age_min`` leaves these out.
        effect: scale of what age and CDR do to the brain; 0 makes images that say nothing about the table.
        voxel_size: edge of the voxels in mm; 1 gives the real 176 x 208 x 176.
        seed: seed of the study; subject i depends on ``(seed, i)`` alone.
        with_cdr_only: leave out those whose CDR was not assessed.
        age_min: leave out the decades that begin below this age.

    Returns:
        ``raw_dir``.

    Raises:
        FileExistsError: ``raw_dir`` holds something that is not a synthetic study.
        ValueError: no subject is asked for, or ``age_min`` leaves none.
    """
    if n_subjects < 1:
        raise ValueError(f"n_subjects is {n_subjects}: a study needs at least one subject")
    raw_dir = Path(raw_dir)
    make_room(raw_dir, "disc*")
    people = list(islice(draw_people(seed, effect, with_cdr_only, age_min), n_subjects))
    (raw_dir / MARKER).write_text(
        f"Synthetic study, made by custom.phantoms.oasis: no scan and no person is real.\n"
        f"subjects {n_subjects}, effect {effect}, voxel size {voxel_size} mm, seed {seed}\n"
    )
    rows, truth = [], []
    for person in tqdm(people, desc="phantom", unit="subject", disable=None):
        for session, scan in _scan_person(person, seed, voxel_size):
            name = f"{person.subject}_MR{session}"
            folder = raw_dir / f"disc{1 + (person.number - 1) // PER_DISC}" / name / "PROCESSED" / "MPRAGE" / "T88_111"
            _write_analyze(folder / f"{name}_mpr_n4_anon_111_t88_masked_gfc.hdr", scan.image, voxel_size)
            rows.append({"ID": name} | _table_row(person, session, scan.nwbv, seed))
            truth.append({"ID": name, "severity": person.severity, "nWBV": scan.nwbv})
    rows.sort(key=lambda row: (row["Delay"] != "N/A", row["ID"]))  # the real table lists the rescans last
    pd.DataFrame(truth).to_csv(raw_dir / "truth.csv", index=False)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(raw_dir / "oasis_cross-sectional.csv", index=False)
    return raw_dir


def draw_people(seed: int = 0, effect: float = 1.0, with_cdr_only: bool = False, age_min: int = 0) -> Iterator[Person]:
    """Draw subjects without end; ages and CDR keep close to the real proportions in every first n of them.

    Cells of (CDR, decade) are visited by the golden-ratio sequence instead of independent draws, so that even a small
    study has its share of every stage.
    """
    cells = [
        (cdr, decade, count)
        for cdr, decades in COUNTS.items()
        for decade, count in decades.items()
        if decade >= age_min and not (with_cdr_only and cdr is None)
    ]
    if not cells:
        raise ValueError(f"age_min {age_min} leaves nobody: the real table's oldest decade is the nineties, use <= 90")
    upper = np.cumsum([count for *_, count in cells]) / sum(count for *_, count in cells)
    start = np.random.default_rng(seed).random()
    number = 0
    while True:
        cdr, decade, _ = cells[int(np.searchsorted(upper, (start + number * GOLDEN) % 1.0, side="right"))]
        number += 1
        rng = _generator(seed, number, PERSON)
        age = int(rng.integers(*YEARS.get(decade, (decade, decade + 9)), endpoint=True))
        severity = severity_of(age, cdr, effect) + rng.normal(0.0, INDIVIDUAL)
        yield Person(number, bool(rng.random() < MALE[cdr]), age, cdr, float(severity))


def severity_of(age: float, cdr: float | None, effect: float = 1.0) -> float:
    """Expected severity of atrophy: 0 at twenty, 0.5 at a healthy eighty, more with CDR."""
    ageing = 0.5 * (max(age - 20, 0) / 60) ** 1.6
    return effect * (ageing + STAGE[cdr])


def _generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """Return the generator of one random stream of one subject, whatever the size of the study."""
    return np.random.default_rng([seed, number, stream])


def _scan_person(person: Person, seed: int, voxel_size: float) -> Iterator[tuple[int, Scan]]:
    anatomy = draw_anatomy(_generator(seed, person.number, ANATOMY), person.severity)
    for session in person.sessions:
        yield session, scan_head(_generator(seed, person.number, session), anatomy, voxel_size)


def _table_row(person: Person, session: int, nwbv: float, seed: int) -> dict[str, object]:
    """Return the row of the table without its ID; what does not change between sessions is drawn from the person."""
    rng = _generator(seed, person.number, TABLE)
    etiv = round(rng.normal(1592 if person.male else 1413, 132))
    row: dict[str, object] = {"M/F": "M" if person.male else "F", "Hand": "R", "Age": person.age}
    row |= dict.fromkeys(("Educ", "SES", "MMSE", "CDR"), "")
    if person.cdr is not None:
        education = int(rng.choice(5, p=[0.10, 0.27, 0.20, 0.21, 0.22])) + 1
        status = int(np.clip(round(5.2 - 0.9 * education + rng.normal(0, 0.8)), 1, 5))
        mmse = int(np.clip(round(rng.normal(*MMSE[person.cdr])), 15, 30))
        row |= {"Educ": education, "SES": "" if rng.random() < 0.08 else status}
        row |= {"MMSE": mmse, "CDR": f"{person.cdr:g}"}
    row |= {"eTIV": etiv, "nWBV": round(nwbv, 3), "ASF": round(1755.05 / etiv, 3)}
    return row | {"Delay": "N/A" if session == 1 else int(rng.integers(1, 90))}


def _write_analyze(path: Path, volume: np.ndarray, voxel_size: float) -> None:
    """Write a RAS volume (X, Y, Z) as OASIS stores it: big-endian int16 Analyze 7.5, (X, Y, Z, 1), x towards the left.

    Analyze has no orientation that can be trusted; by convention (and in nibabel) the first axis runs to the left.
    """
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(">i2")
    header["regular"], header["extents"] = b"r", 16384  # as every Analyze 7.5 writer sets them
    stored = np.rint(volume[::-1, :, :, None]).astype(np.int16)
    image = nib.AnalyzeImage(stored, None, header)
    image.header.set_zooms((voxel_size,) * 3 + (1.0,))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
