"""A synthetic multi-site resting-state study on disc, in the MATLAB v7.3 layout ``<SITE>/<subject>.mat`` with a table.

Di Martino et al., *The autism brain imaging data exchange*, Mol Psychiatry 2014, is the study it imitates; no voxel of it is
in here. The brain is an ellipsoid of compact regions, half of which form a network. In controls the network's regions share
most of their signal; in autism they share less, by ``effect``: nothing else depends on the diagnosis.

What depends on the site: gain, offset, the noise's level, autocorrelation and smoothness, TR, length of the run, age, and the
share of ASD. One site has controls only, and in the last one the share of ASD is reversed: what is learnt from the site's name
elsewhere misleads there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from ..data.abide import PHENOTYPES
from .bold import Noise, ar1, bold_noise, brain_mask, parcels
from .folder import MARKER, make_room

__all__ = ["Person", "Site", "draw_people", "draw_sites", "simulate_scan", "write_study"]

ASD, CONTROL = 1, 2  # DX_GROUP of ABIDE
N_REGIONS, IN_NETWORK = 16, 8
COUPLING = {CONTROL: 0.7, ASD: 0.15}  # share of the variance that the network's regions have in common, at effect 1
INDIVIDUAL = 0.08  # its standard deviation between people
SIGNAL = 0.35  # share of the temporal variance that comes from the regions
TIME_CONSTANT = 5.0  # seconds; what neighbouring frames have in common follows from it and the TR
HOLES = 0.01  # share of the brain's voxels that are NaN in the scans that have any


@dataclass(frozen=True)
class Site:
    """A scanner and the people it sees. TR in seconds, age in years; ``asd`` is the share of ASD."""

    name: str
    tr: float
    n_frames: int
    gain: float
    offset: float
    noise: Noise
    age: float
    asd: float
    plain_order: bool


@dataclass(frozen=True)
class Person:
    """One subject; ``coupling`` is the simulated truth."""

    number: int
    site: Site
    dx: int
    age: float
    male: bool
    coupling: float

    @property
    def subject(self) -> str:
        """Seven digits, as ABIDE numbers its subjects."""
        return f"{self.number:07d}"


def write_study(
    raw_dir: str | Path,
    n_sites: int = 8,
    subjects_per_site: int = 12,
    effect: float = 1.0,
    shape: tuple[int, int, int] = (12, 14, 8),
    n_frames: int = 80,
    seed: int = 0,
) -> Path:
    """Write a synthetic study; subject i depends on ``(seed, i)`` and the study's sizes alone.

    Beside the sites' folders there are the table ``Phenotypic_V1_0b_preprocessed1.csv``, ``SYNTHETIC``, which marks the study,
    and ``truth.csv``, which only tests read.

    Args:
        raw_dir: folder to write to; an earlier synthetic study in it is replaced.
        n_sites: number of sites, at least 3.
        subjects_per_site: subjects of each.
        effect: scale of the diagnosis' effect on the coupling; 0 makes scans that say nothing about it.
        shape: voxels of a scan.
        n_frames: length of a run, give or take a quarter by site.
        seed: of the study.

    Returns:
        ``raw_dir``.

    Raises:
        FileExistsError: ``raw_dir`` holds something that is not a synthetic study.
    """
    root = Path(raw_dir)
    make_room(root, "*")
    sites = draw_sites(n_sites, n_frames, seed)
    people = list(draw_people(sites, subjects_per_site, effect, seed))
    mask = brain_mask(shape)
    regions = parcels(mask, N_REGIONS)
    for person in tqdm(people, desc="phantom", unit="subject", disable=None):
        scan = simulate_scan(person, mask, regions, seed)
        _write_mat(root / person.site.name / f"{person.subject}.mat", scan, mask, person)
    pd.DataFrame([_table_row(p) for p in people]).to_csv(root / PHENOTYPES, index=False)
    pd.DataFrame([{"subject": p.subject, "coupling": p.coupling} for p in people]).to_csv(root / "truth.csv", index=False)
    (root / MARKER).write_text(
        "Synthetic study, made by custom.phantoms.abide: no scan and no person is real.\n"
        f"{n_sites} sites, {subjects_per_site} subjects each, effect {effect}, seed {seed}\n"
    )
    return root


def draw_sites(n_sites: int, n_frames: int, seed: int = 0) -> list[Site]:
    """Draw the scanners. The second site has controls only; in the last the share of ASD is reversed."""
    if n_sites < 3:
        raise ValueError(f"{n_sites} sites: one has controls only and one is reversed, so at least 3 are needed")
    sites = []
    for i in range(n_sites):
        rng = np.random.default_rng([seed, i, 1])
        # spread evenly, by a sequence of low discrepancy, so that a few sites differ as well as many
        phase, frequency = (i * 0.755 + 0.3) % 1, (i * 0.570 + 0.6) % 1
        smoothness = (1.5 * phase, 1.5 * frequency, 0.3)  # the two directions of a slice are blurred by different things
        noise = Noise(
            rng.uniform(45, 140), rng.uniform(0.1, 0.45), smoothness, rng.uniform(0.13, 0.29), rng.uniform(0.05, 0.15)
        )
        sites.append(
            Site(
                name=f"SITE{i + 1:02d}",
                tr=rng.choice([1.5, 2.0, 2.5, 3.0]),
                n_frames=int(n_frames * rng.uniform(0.8, 1.25)),
                gain=float(np.exp(rng.normal(0, 0.5))),
                offset=rng.uniform(0, 200),
                noise=noise,
                age=10 + 15 * rng.random(),
                asd=0.0 if i == 1 else 0.25 if i == n_sites - 1 else 0.65,
                plain_order=i == 2,
            )
        )
    return sites


def draw_people(sites: list[Site], subjects_per_site: int, effect: float = 1.0, seed: int = 0) -> Iterator[Person]:
    """Draw the subjects, site by site; the share of ASD is met to the nearest subject."""
    for s, site in enumerate(sites):
        for k in range(subjects_per_site):
            number = 50001 + s * subjects_per_site + k
            rng = np.random.default_rng([seed, number, 2])
            dx = ASD if round((k + 1) * site.asd) > round(k * site.asd) else CONTROL
            mean = COUPLING[CONTROL] + effect * (COUPLING[dx] - COUPLING[CONTROL])
            coupling = float(np.clip(rng.normal(mean, INDIVIDUAL), 0, 1))
            yield Person(number, site, dx, max(rng.normal(site.age, 2), 6), bool(rng.random() < 0.8), coupling)


def simulate_scan(person: Person, mask: np.ndarray, regions: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the scan of one person, float32 (T, X, Y, Z) in scanner units, with NaN holes in every third person."""
    site, rng = person.site, np.random.default_rng([seed, person.number, 3])
    memory = float(np.exp(-site.tr / TIME_CONSTANT))
    series = ar1(rng, site.n_frames, (N_REGIONS,), memory)
    shared = ar1(rng, site.n_frames, (1,), memory)
    series[:, :IN_NETWORK] *= np.sqrt(1 - person.coupling)
    series[:, :IN_NETWORK] += np.sqrt(person.coupling) * shared
    noise = bold_noise(rng, site.n_frames, mask.shape, site.noise)
    fluctuation = np.sqrt(SIGNAL) * series[:, regions] + np.sqrt(1 - SIGNAL) * noise
    baseline = 1000 * site.gain * (0.8 + 0.4 * rng.random(mask.shape))
    scan = site.offset + baseline * (1 + fluctuation / site.noise.tsnr)
    scan = np.where(mask, scan, site.offset + 5 * rng.random(mask.shape)).astype(np.float32)
    if person.number % 3 == 0:
        scan[:, mask & (rng.random(mask.shape) < HOLES)] = np.nan
    return scan


def _table_row(person: Person) -> dict[str, str | int | float]:
    name = {"SUB_ID": person.subject, "SITE_ID": person.site.name, "FILE_ID": f"{person.site.name}_{person.subject}"}
    return {**name, "DX_GROUP": person.dx, "AGE_AT_SCAN": round(person.age, 2), "SEX": 1 if person.male else 2}


def _write_mat(path: Path, scan: np.ndarray, mask: np.ndarray, person: Person) -> None:
    """Write what MATLAB's ``save -v7.3`` makes of (X, Y, Z, T): HDF5 sees its axes reversed. Some sites wrote plain HDF5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = (1, 2, 3, 0) if person.site.plain_order else (0, 3, 2, 1)
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("fMRIdata")
        group["orig"] = scan.transpose(order)
        group["mask"] = (mask if person.site.plain_order else mask.T).astype(np.uint8)
        group["dx"] = np.array([[float(person.dx)]])
