"""What ``preprocess.json`` of the ABIDE bundle makes of a study in which one thing is broken.

A bad scan is listed with its reason and the others are prepared; a bad table stops the run and says what to correct.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bundle_cases import CASES, Paths, raises_beneath, run_workflow

from custom.data import PARTS, read_datalist
from custom.phantoms.abide import PHENOTYPES, write_study

CASE = next(c for c in CASES if c.name.startswith("abide"))
SITE, SUBJECT = "SITE01", "0050002"  # in MATLAB's order of axes, and without NaN before anything is broken
SMALL = CASE.preprocess | {"num_workers": 1, "split::stratify": "label"}


class Prepared(NamedTuple):
    """What a run left: the datalist's rows by subject, the reasons of rejection by file, the reasons of dropping."""

    rows: dict[str, dict]
    rejected: dict[str, str]
    dropped: dict[str, int]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Three sites of six, whole and prepared."""
    paths = Paths(tmp_path_factory.mktemp("phantom"))
    write_study(paths.raw, n_sites=3, subjects_per_site=6, shape=(10, 12, 6), n_frames=40)
    preprocess(paths)
    return paths


@pytest.fixture
def paths(phantom: Paths, tmp_path: Path) -> Paths:
    """A copy of the raw phantom, to be broken."""
    shutil.copytree(phantom.raw, tmp_path / "raw")
    return Paths(tmp_path)


def preprocess(paths: Paths) -> Prepared:
    run_workflow(CASE, "preprocess", **paths.preprocess, **SMALL)
    content = read_datalist(f"{paths.data}/datalist.json")
    rejected = pd.read_csv(f"{paths.data}/rejected.csv", dtype=str)
    rows = {row["subject"]: row for part in PARTS for row in content[part]}
    return Prepared(rows, dict(zip(rejected["file"], rejected["reason"], strict=True)), content["dropped"])


def scan(paths: Paths, site: str = SITE, subject: str = SUBJECT) -> Path:
    return Path(paths.raw) / site / f"{subject}.mat"


def voxels(row: dict) -> np.ndarray:
    return np.asarray(nib.load(row["image"]).dataobj)


def replace(path: Path, name: str, array: np.ndarray, **storage: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[f"fMRIdata/{name}"]
        file["fMRIdata"].create_dataset(name, data=array, **storage)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return orig (T, Z, Y, X) and mask (Z, Y, X)."""
    with h5py.File(path) as file:
        return file["fMRIdata/orig"][()], file["fMRIdata/mask"][()] > 0


def punch(path: Path, fraction: float) -> int:
    """Make a fraction of the brain's voxels × frames NaN, at random, and return how many these are."""
    orig, mask = read(path)
    inside = orig[:, mask]
    number = int(fraction * inside.size)
    inside.flat[np.random.default_rng(0).choice(inside.size, number, replace=False)] = np.nan
    orig[:, mask] = inside
    replace(path, "orig", orig)
    return number


# ---- a bad scan is listed, with its file and the reason, and the others are prepared


def drop_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move("fMRIdata", "data")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def no_scan(path: Path) -> None:
    path.write_bytes(b"")


def other_mask(path: Path) -> None:
    replace(path, "mask", read(path)[1][:, :, 1:].astype(np.uint8))


def empty_mask(path: Path) -> None:
    replace(path, "mask", np.zeros(read(path)[1].shape, np.uint8))


def nan_volume(path: Path) -> None:
    orig, _ = read(path)
    orig[7] = np.nan
    replace(path, "orig", orig)


def nothing_but_nan(path: Path) -> None:
    replace(path, "orig", np.full_like(read(path)[0], np.nan))


def one_frame(path: Path) -> None:
    replace(path, "orig", read(path)[0][:1])


def frozen(path: Path) -> None:
    orig, _ = read(path)
    replace(path, "orig", np.broadcast_to(orig[:1], orig.shape))


def flip_a_bit(path: Path) -> None:
    """In a compressed chunk, which is how MATLAB saves; plain voxels have no checksum that could tell."""
    orig, _ = read(path)
    replace(path, "orig", orig, compression="gzip", shuffle=True, chunks=(10, *orig.shape[1:]))
    with h5py.File(path) as file:
        chunk = file["fMRIdata/orig"].id.read_direct_chunk((10, 0, 0, 0))[1]
    content = bytearray(path.read_bytes())
    content[bytes(content).index(chunk) + len(chunk) // 2] ^= 1
    path.write_bytes(content)


REJECTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "mask of another shape": (other_mask, r"mask \(6, 12, 9\) is on another grid than orig \(\d+, 6, 12, 10\)"),
    "empty mask": (empty_mask, "mask .* is empty"),
    "5.1 % NaN in the brain": (lambda path: punch(path, 0.051), r"5\.\d+ % of the brain's voxels are NaN .* at most 5 %"),
    "a volume of NaN": (nan_volume, "frame 7 of 0-.* has no finite voxel in the brain"),
    "nothing but NaN": (nothing_but_nan, "frame 0 of 0-.* has no finite voxel in the brain"),
    "one frame": (one_frame, r"at least 2 frames is wanted, this one has \(T, X, Y, Z\) = \(1, 10, 12, 6\)"),
    "no change over time": (frozen, "no voxel of the brain changes over time"),
    "a flipped bit": (flip_a_bit, "damaged, or not saved with -v7.3 .*: copy or save it again"),
}


@pytest.mark.parametrize(("fault", "reason"), REJECTED.values(), ids=REJECTED.keys())
def test_a_bad_scan_is_rejected(paths: Paths, phantom: Paths, fault: Callable[[Path], object], reason: str) -> None:
    fault(scan(paths))
    prepared = preprocess(paths)
    assert list(prepared.rejected) == [str(scan(paths))]
    assert str(scan(paths)) in prepared.rejected[str(scan(paths))]
    assert pd.Series(prepared.rejected).str.contains(reason).all(), prepared.rejected
    assert prepared.dropped == {}
    assert_others_prepared(prepared, phantom)


# where not even the diagnosis can be read, there is no record to reject
DROPPED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no group": (drop_group, r"has no group 'fMRIdata', only \['data'\]: save the struct as fMRIdata"),
    "cut off": (cut_off, "damaged, or not saved with -v7.3 .*: copy or save it again"),
    "empty file": (no_scan, "damaged, or not saved with -v7.3 .*: copy or save it again"),
}


@pytest.mark.parametrize(("fault", "reason"), DROPPED.values(), ids=DROPPED.keys())
def test_a_scan_without_diagnosis_is_dropped(
    paths: Paths, phantom: Paths, fault: Callable[[Path], object], reason: str
) -> None:
    fault(scan(paths))
    prepared = preprocess(paths)
    assert prepared.rejected == {}
    assert list(prepared.dropped.values()) == [1], "one scan is missing, and is counted once"
    assert str(scan(paths)) in next(iter(prepared.dropped))
    assert pd.Series(list(prepared.dropped)).str.contains(reason).all(), prepared.dropped
    assert_others_prepared(prepared, phantom)


def assert_others_prepared(prepared: Prepared, phantom: Paths) -> None:
    whole = {row["subject"] for part in PARTS for row in read_datalist(f"{phantom.data}/datalist.json")[part]}
    assert len(whole) == 18
    assert set(prepared.rows) == whole - {SUBJECT}
    images = Path(next(iter(prepared.rows.values()))["image"]).parent
    assert not list(images.glob(f"*{SUBJECT}*")), "something was written of the bad scan"


# ---- NaN that is no reason to reject


def test_nan_in_the_air_changes_nothing(paths: Paths, phantom: Paths) -> None:
    orig, mask = read(scan(paths))
    orig[:, ~mask] = np.nan
    replace(scan(paths), "orig", orig)
    row = preprocess(paths).rows[SUBJECT]
    assert (row["nan_fraction"], row["inpainted_voxels"]) == (0, 0)
    whole = read_datalist(f"{phantom.data}/datalist.json")
    before = next(r for part in PARTS for r in whole[part] if r["subject"] == SUBJECT)
    np.testing.assert_array_equal(voxels(row), voxels(before))
    assert voxels(row).any()


def test_nan_below_the_limit_is_filled_and_counted(paths: Paths) -> None:
    number = punch(scan(paths), 0.049)
    orig, mask = read(scan(paths))
    row = preprocess(paths).rows[SUBJECT]
    assert row["inpainted_voxels"] == number > 0
    assert row["nan_fraction"] == pytest.approx(number / (len(orig) * mask.sum()))
    assert np.isfinite(voxels(row)).all()
    assert voxels(row).any()


def test_the_limit_is_configured(paths: Paths) -> None:
    punch(scan(paths), 0.049)
    run_workflow(CASE, "preprocess", **paths.preprocess, **SMALL, max_nan_fraction=0.04)
    assert "at most 4 %" in (Path(paths.data) / "rejected.csv").read_text()


# ---- a bad table, or a study that contradicts itself, stops the run before anything is written


def assert_nothing_written(paths: Paths) -> None:
    assert not Path(paths.data).exists()


def test_an_unknown_diagnosis_stops_the_run(paths: Paths) -> None:
    replace(scan(paths), "dx", np.array([[3.0]]))
    table = pd.read_csv(Path(paths.raw) / PHENOTYPES, dtype=str)
    table.loc[table["SUB_ID"] == SUBJECT, "DX_GROUP"] = "3"
    table.to_csv(Path(paths.raw) / PHENOTYPES, index=False)
    with raises_beneath(ValueError, rf"{SITE}/{SUBJECT}\.mat: .*subject {SUBJECT} is coded 3, .*correct the data, or the cl"):
        preprocess(paths)
    assert_nothing_written(paths)


def test_a_diagnosis_that_is_not_the_tables_stops_the_run(paths: Paths) -> None:
    replace(scan(paths), "dx", np.array([[3.0]]))
    with raises_beneath(ValueError, rf"{SUBJECT}\.mat: dx of subject {SUBJECT} is 3, but .* in .*{PHENOTYPES}: correct one"):
        preprocess(paths)
    assert_nothing_written(paths)


def test_a_missing_row_stops_the_run(paths: Paths) -> None:
    table = pd.read_csv(Path(paths.raw) / PHENOTYPES, dtype=str)
    table[table["SUB_ID"] != SUBJECT].to_csv(Path(paths.raw) / PHENOTYPES, index=False)
    with raises_beneath(
        ValueError, rf"{SITE}/{SUBJECT}\.mat: .*{PHENOTYPES} has no subject {SUBJECT}: complete it, or remove the scan"
    ):
        preprocess(paths)
    assert_nothing_written(paths)


def test_one_subject_at_two_sites_stops_the_run(paths: Paths) -> None:
    shutil.copy(scan(paths), scan(paths, "SITE02"))
    with raises_beneath(
        ValueError, rf"{SITE}/{SUBJECT}\.mat and .*SITE02/{SUBJECT}\.mat are both of subject {SUBJECT}: keep one of them"
    ):
        preprocess(paths)
    assert_nothing_written(paths)


TABLES: dict[str, tuple[Callable[[pd.DataFrame], str], str]] = {
    "empty": (lambda table: "", "is no table of comma-separated values"),
    "ragged": (lambda table: table.to_csv(index=False) + ",,,,,,,,9", "is no table of comma-separated values"),
    "semicolons": (lambda table: table.to_csv(index=False, sep=";"), "has no column SUB_ID or subject"),
    "listed twice": (lambda table: pd.concat([table, table[1:2]]).to_csv(index=False), f"lists subject {SUBJECT} twice"),
    "age 999": (
        lambda table: table.assign(AGE_AT_SCAN=table["AGE_AT_SCAN"].where(table["SUB_ID"] != SUBJECT, "999")).to_csv(),
        f"age of subject {SUBJECT} is 999 years; empty or -9999 is a missing one",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), TABLES.values(), ids=TABLES.keys())
def test_a_bad_table_stops_the_run(paths: Paths, spoil: Callable[[pd.DataFrame], str], message: str) -> None:
    table = Path(paths.raw) / PHENOTYPES
    table.write_text(spoil(pd.read_csv(table, dtype=str)))
    with raises_beneath(ValueError, rf"{PHENOTYPES}:? {message}"):
        preprocess(paths)
    assert_nothing_written(paths)


# ---- settings, and what is found later


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"voxel_size": -3}, "voxel_size is -3: sizes in mm are above 0"), ({"dtype": "uint8"}, "not one of float32, int16")],
)
def test_an_impossible_setting_stops_the_run(paths: Paths, setting: dict, message: str) -> None:
    with raises_beneath(ValueError, message):
        run_workflow(CASE, "preprocess", **paths.preprocess, **SMALL | setting)
    assert_nothing_written(paths)


def test_a_setting_that_suits_no_scan_is_not_only_in_the_table(paths: Paths) -> None:
    with raises_beneath(ValueError, r"none of the 18 scans .*rejected\.csv\. One reason: .*--low_pass 0\.4 is beyond them"):
        run_workflow(CASE, "preprocess", **paths.preprocess, **SMALL, low_pass=0.4, repetition_time=2)


def test_a_site_with_one_training_subject_stops_the_harmonization(phantom: Paths, tmp_path: Path) -> None:
    """The scans are good, so this is found where it matters: ComBat cannot take a variance from one subject."""
    content = json.loads(Path(phantom.data, "datalist.json").read_text())
    *surplus, _ = [row for row in content["training"] if row["site"] == "SITE01"]
    content["training"] = [row for row in content["training"] if row not in surplus]
    content["test"] += surplus
    datalist = Path(phantom.data) / "one_at_site_1.json"
    datalist.write_text(json.dumps(content))
    override = Paths(tmp_path).train | {"dataset_dir": phantom.data, "datalist_path": str(datalist)}
    with raises_beneath(ValueError, r"fewer than 3 subjects at site SITE01 \(1\): leave the site out"):
        run_workflow(CASE, "train", "strided_stem", **override, **CASE.train, epochs=1)
    assert not (tmp_path / "models/model.pt").exists()
