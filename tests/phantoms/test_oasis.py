from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from custom.phantoms.head import draw_anatomy, scan_head
from custom.phantoms.oasis import ANATOMY, COUNTS, draw_people, severity_of, write_study

VOXEL = 6.0
REAL_HEADER = "ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay"


def scan_file(raw_dir: Path, name: str, disc: int = 1) -> Path:
    folder = raw_dir / f"disc{disc}" / name / "PROCESSED" / "MPRAGE" / "T88_111"
    return folder / f"{name}_mpr_n4_anon_111_t88_masked_gfc.hdr"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("phantom") / "raw", n_subjects=14, voxel_size=VOXEL, seed=5)


@pytest.fixture(scope="module")
def table(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "oasis_cross-sectional.csv")


def test_every_row_has_its_analyze_pair(study: Path, table: pd.DataFrame):
    headers = sorted(study.rglob("*.hdr"))
    assert len(headers) == len(table) == 15
    assert {path.parents[3].name for path in headers} == set(table["ID"])
    assert all(path.with_suffix(".img").exists() for path in headers)
    assert scan_file(study, "OAS1_0013_MR1", disc=2).exists()
    assert scan_file(study, "OAS1_0003_MR2").exists()


def test_files_are_big_endian_int16_with_a_trailing_axis(study: Path):
    path = scan_file(study, "OAS1_0001_MR1")
    assert path.read_bytes()[:4] == (348).to_bytes(4, "big")
    assert path.with_suffix(".img").stat().st_size == 29 * 35 * 29 * 2
    image = nib.load(path)
    assert image.shape == (29, 35, 29, 1)
    assert image.header.endianness == ">"
    assert image.get_data_dtype() == np.dtype(">i2")
    assert image.header.get_zooms()[:3] == (VOXEL,) * 3
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")


def test_file_brought_to_ras_is_the_simulated_head(study: Path):
    person = next(draw_people(seed=5))
    anatomy = draw_anatomy(np.random.default_rng([5, 1, ANATOMY]), person.severity)
    expected = scan_head(np.random.default_rng([5, 1, 1]), anatomy, VOXEL)
    image = nib.as_closest_canonical(nib.squeeze_image(nib.load(scan_file(study, "OAS1_0001_MR1"))))
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.rint(expected.image))


def test_table_reads_like_the_real_one(study: Path, table: pd.DataFrame):
    lines = (study / "oasis_cross-sectional.csv").read_text().splitlines()
    assert lines[0] == REAL_HEADER
    assert all(line.endswith(",N/A") for line in lines[1:-1])
    assert lines[-1].startswith("OAS1_0003_MR2")
    assert set(table["CDR"].dropna()) <= {0, 0.5, 1, 2}
    assert table["nWBV"].between(0.55, 0.9).all()
    np.testing.assert_allclose(table["eTIV"] * table["ASF"], 1755, rtol=0.01)
    assert (table["MMSE"].isna() == table["CDR"].isna()).all()


def test_rescan_repeats_the_person(table: pd.DataFrame):
    rows = table[table["ID"].str.startswith("OAS1_0003")].drop(columns=["ID", "Delay", "nWBV"])
    assert len(rows.drop_duplicates()) == 1


def test_marker_states_the_effect(study: Path):
    text = (study / "SYNTHETIC").read_text()
    assert "ynthetic" in text
    assert "effect 1.0" in text
    assert "seed 5" in text


def test_truth_holds_the_severity(study: Path, table: pd.DataFrame):
    truth = pd.read_csv(study / "truth.csv")
    assert set(truth["ID"]) == set(table["ID"])
    assert truth["severity"].corr(truth["nWBV"]) < -0.85


def test_a_study_begins_with_the_smaller_one(study: Path, tmp_path: Path):
    smaller = write_study(tmp_path / "raw", n_subjects=4, voxel_size=VOXEL, seed=5)
    images = sorted(path.relative_to(smaller) for path in smaller.rglob("*.img"))
    assert len(images) == 5
    assert all((smaller / path).read_bytes() == (study / path).read_bytes() for path in images)
    rows = (smaller / "oasis_cross-sectional.csv").read_text().splitlines()
    assert set(rows) <= set((study / "oasis_cross-sectional.csv").read_text().splitlines())


def test_another_seed_is_another_study(study: Path, tmp_path: Path):
    other = write_study(tmp_path / "raw", n_subjects=1, voxel_size=VOXEL, seed=6)
    name = scan_file(other, "OAS1_0001_MR1").with_suffix(".img").relative_to(other)
    assert (other / name).read_bytes() != (study / name).read_bytes()


def test_a_smaller_study_leaves_nothing_of_the_larger(tmp_path: Path):
    for n_subjects in (2, 1):
        write_study(tmp_path / "raw", n_subjects=n_subjects, voxel_size=VOXEL)
    assert [path.parents[3].name for path in (tmp_path / "raw").rglob("*.hdr")] == ["OAS1_0001_MR1"]


def test_joint_distribution_is_the_real_one():
    people = list(islice(draw_people(seed=1), 416))
    assert {cdr: sum(decades.values()) for cdr, decades in COUNTS.items()} == {None: 181, 0: 135, 0.5: 70, 1: 28, 2: 2}
    ill = sum((Counter(COUNTS[cdr]) for cdr in (0.5, 1.0, 2.0)), Counter())
    assert ill == {60: 15, 70: 48, 80: 32, 90: 5}
    drawn = Counter((person.cdr, person.age // 10 * 10) for person in people)
    real = {(cdr, decade): n for cdr, decades in COUNTS.items() for decade, n in decades.items()}
    assert set(drawn) == set(real)
    assert max(abs(drawn[cell] - real[cell]) for cell in real) <= 2


def test_options_leave_out_the_young():
    assert all(person.cdr is not None for person in islice(draw_people(with_cdr_only=True), 100))
    assert all(person.age >= 60 and person.cdr is not None for person in islice(draw_people(age_min=60), 100))


def test_effect_zero_leaves_only_what_the_table_does_not_explain():
    null, full = (list(islice(draw_people(seed=2, effect=effect), 300)) for effect in (0.0, 1.0))
    assert [(p.age, p.cdr, p.male) for p in null] == [(p.age, p.cdr, p.male) for p in full]
    individual = [p.severity - severity_of(p.age, p.cdr) for p in full]
    np.testing.assert_allclose([p.severity for p in null], individual, atol=1e-12)
    ill = np.array([p.severity for p in null if p.cdr]), np.array([p.severity for p in null if not p.cdr])
    assert abs(ill[0].mean() - ill[1].mean()) < 0.05


def test_severity_rises_with_age_and_cdr():
    assert severity_of(20, None) == 0
    assert severity_of(80, 0.0) > severity_of(60, 0.0) > severity_of(40, 0.0)
    assert severity_of(80, 2.0) > severity_of(80, 1.0) > severity_of(80, 0.5) > severity_of(80, 0.0)
    assert severity_of(80, 0.0) == severity_of(80, None)
    assert severity_of(80, 2.0, effect=0.0) == 0


def test_real_scans_are_never_overwritten(tmp_path: Path):
    (tmp_path / "disc1").mkdir()
    with pytest.raises(FileExistsError, match="no SYNTHETIC marker"):
        write_study(tmp_path, n_subjects=1, voxel_size=VOXEL)


def test_empty_studies_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one subject"):
        write_study(tmp_path, n_subjects=0)
    with pytest.raises(ValueError, match="age_min 91"):
        next(draw_people(age_min=91))
