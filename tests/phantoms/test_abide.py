from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from custom.data.abide import read_study
from custom.phantoms.abide import ASD, CONTROL, IN_NETWORK, N_REGIONS, draw_people, draw_sites, simulate_scan, write_study
from custom.phantoms.bold import brain_mask, parcels

CLASSES = {"control": [CONTROL], "ASD": [ASD]}
SHAPE = (10, 12, 6)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("abide"), n_sites=4, subjects_per_site=6, shape=SHAPE, n_frames=30)


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))}


def test_the_reader_takes_it_for_a_study_of_several_sites(raw: Path):
    study = read_study(str(raw), CLASSES)
    assert study.synthetic
    assert len(study.records) == 24
    assert {r.columns["site"] for r in study.records} == {"SITE01", "SITE02", "SITE03", "SITE04"}
    assert all(6 <= r.columns["age"] < 40 for r in study.records)


def test_the_same_seed_writes_the_same_bytes_another_seed_others(raw: Path, tmp_path: Path):
    sizes = {"n_sites": 4, "subjects_per_site": 6, "shape": SHAPE, "n_frames": 30}
    same, other = hashes(write_study(tmp_path / "a", **sizes)), hashes(write_study(tmp_path / "b", **sizes, seed=1))
    assert same == hashes(raw)
    assert not set(same.values()) & set(other.values()) - {same["Phenotypic_V1_0b_preprocessed1.csv"]}


def test_files_are_matlab_s_save_for_a_site_that_are_plain(raw: Path):
    for site, frames_first in (("SITE01", True), ("SITE03", False)):
        with h5py.File(next((raw / site).glob("*.mat"))) as file:
            scan, mask = file["fMRIdata/orig"].shape, file["fMRIdata/mask"].shape
            assert file["fMRIdata/dx"].shape == (1, 1)
            assert file.userblock_size == 512
        assert mask == (SHAPE[::-1] if frames_first else SHAPE)
        assert (scan[1:] if frames_first else scan[:-1]) == mask


def test_one_site_has_one_class_and_the_last_is_reversed():
    people = list(draw_people(draw_sites(8, 80), 12))
    share = {s: np.mean([p.dx == ASD for p in people if p.site.name == f"SITE{s:02d}"]) for s in range(1, 9)}
    assert share[2] == 0
    assert share[8] == 0.25
    assert all(0.6 < share[s] < 0.7 for s in (1, 3, 4, 5, 6, 7))


def test_age_goes_with_the_site_and_not_with_the_diagnosis():
    people = [p for p in draw_people(draw_sites(8, 80), 40) if p.site.name != "SITE02"]
    table = pd.DataFrame({"age": [p.age for p in people], "site": [p.site.name for p in people], "dx": [p.dx for p in people]})
    assert table.groupby("site")["age"].mean().std() > table.groupby("site")["age"].std().mean()
    within = table["age"] - table.groupby("site")["age"].transform("mean")
    assert abs(np.corrcoef(within, table["dx"])[0, 1]) < 0.15


@pytest.mark.parametrize(("effect", "low", "high"), [(1.0, 0.25, 0.6), (0.0, -0.06, 0.06)])
def test_effect_is_the_coupling_of_the_network_and_nothing_else(effect: float, low: float, high: float):
    """Mean correlation between the network's regions, controls minus ASD; the other regions tell nothing."""
    mask = brain_mask(SHAPE)
    regions = parcels(mask, N_REGIONS)
    site = draw_sites(4, 200)[0]
    inside, outside = [], []
    for person in draw_people([site], 24, effect):
        scan = simulate_scan(person, mask, regions)
        series = np.stack([np.nanmean(scan[:, regions == r], axis=1) for r in range(N_REGIONS)])
        r = np.corrcoef(series)
        upper = np.triu_indices(IN_NETWORK, 1)
        inside.append(r[:IN_NETWORK, :IN_NETWORK][upper].mean())
        outside.append(r[IN_NETWORK:, IN_NETWORK:][upper].mean())
    asd = np.array([p.dx == ASD for p in draw_people([site], 24, effect)])
    assert low < np.mean(np.array(inside)[~asd]) - np.mean(np.array(inside)[asd]) < high
    assert abs(np.mean(np.array(outside)[~asd]) - np.mean(np.array(outside)[asd])) < 0.06


def test_noise_is_like_that_of_real_runs():
    mask = brain_mask(SHAPE)
    regions = parcels(mask, N_REGIONS)
    for site in draw_sites(6, 150):
        person = next(draw_people([site], 1))
        scan = simulate_scan(person, mask, regions)[:, mask]
        scan = scan[:, np.isfinite(scan).all(0)] - site.offset
        tsnr = np.median(scan.mean(0) / scan.std(0))
        z = (scan - scan.mean(0)) / scan.std(0)
        assert 40 < tsnr < 150
        assert 0.1 < np.median((z[1:] * z[:-1]).mean(0)) < 0.65


def test_every_third_person_has_holes_below_five_per_cent(raw: Path):
    fractions = []
    for path in raw.glob("*/*.mat"):
        with h5py.File(path) as file:
            fractions.append(np.isnan(file["fMRIdata/orig"][:]).mean())
    assert sum(f > 0 for f in fractions) in (7, 8)
    assert max(fractions) < 0.05


def test_real_data_are_not_overwritten(tmp_path: Path):
    (tmp_path / "NYU").mkdir()
    with pytest.raises(FileExistsError, match="may be real scans"):
        write_study(tmp_path)


def test_fewer_than_three_sites_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="2 sites"):
        write_study(tmp_path, n_sites=2)
