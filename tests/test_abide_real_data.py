"""The ABIDE bundle on real BOLD scans and the real phenotypic tables, which lie beside the repository."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_cases import CASES, Paths, raises_beneath, run_workflow

from custom.data import PARTS, HoldOut, read_datalist
from custom.data.abide import PHENOTYPES, read_study
from custom.harmonization import HarmonizedClassifier, UnseenSite
from custom.metrics import read_predictions
from custom.networks import SliceCNNLSTM
from custom.transforms.load_bold import load_nifti

CASE = next(c for c in CASES if c.name.startswith("abide"))
CLASSES = {"control": [2], "ASD": [1]}
PITT, FSL, NIPY = "abide/PITT_0050048_sagittal_bold.nii.gz", "bold/fsl_av_fmri.nii.gz", "bold/nipy_functional.nii.gz"
NATIVE = {PITT: [2, 2, 2], FSL: [4, 4, 6], NIPY: [4, 4, 8]}  # voxel sizes in mm
DEPTHS = range(1, 9)
HALVES = {"num_workers": 1, "split::test": 0.5, "split::validation": 0.5, "split::stratify": "site"}
GRID = {"spacing": 8, "spatial_size": [32, 32, 24]}
SITES = ("PITT", "OXFORD")


def write_table(paths: Paths, subjects: list[str], site: str) -> None:
    """Write a phenotypic table in which every other subject has the diagnosis 1; the scans themselves say none."""
    rows = [
        {"SUB_ID": s, "SITE_ID": site, "FILE_ID": s, "DX_GROUP": 1 + i % 2, "AGE_AT_SCAN": 20 + i, "SEX": 1}
        for i, s in enumerate(subjects)
    ]
    pd.DataFrame(rows).to_csv(Path(paths.raw) / PHENOTYPES, index=False)


def save(path: Path, voxels: np.ndarray, like: nib.Nifti1Image, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, like.affine if affine is None else affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], *like.header.get_zooms()[3:])[: voxels.ndim])
    image.header.set_xyzt_units(*like.header.get_xyzt_units())
    nib.save(image, path)


def voxels_of(row: dict) -> np.ndarray:
    return np.asarray(nib.load(row["image"]).dataobj)


def preprocess(paths: Paths, **override: object) -> dict[str, dict]:
    """Return the datalist's rows by subject; no scan may be rejected."""
    run_workflow(CASE, "preprocess", **paths.preprocess, layout="nifti", **HALVES, **override)
    assert len(pd.read_csv(f"{paths.data}/rejected.csv")) == 0, (Path(paths.data) / "rejected.csv").read_text()
    content = read_datalist(f"{paths.data}/datalist.json")
    return {row["subject"]: row for part in PARTS for row in content[part]}


# ---- raw scans → prepared → predictions


@pytest.fixture(scope="module")
def study(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The scans as they are, named as the PCP and as BIDS do, one of them with its mask; and a network that nobody trained."""
    paths = Paths(tmp_path_factory.mktemp("real"))
    names = {
        "Pitt_0050048_func_preproc": PITT,
        "sub-0059001/func/sub-0059001_task-av_bold": FSL,
        "sub-0059002/func/sub-0059002_task-av_bold": "bold/fsl_av_fmri_filtered_func_data.nii.gz",
        "sub-0059003/func/sub-0059003_task-av_desc-preproc_bold": NIPY,
        "sub-0059002/func/sub-0059002_task-av_desc-brain_mask": "bold/fsl_av_fmri_mask.nii.gz",
    }
    for name, source in names.items():
        target = Path(paths.raw) / f"{name}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(real_data / source)
    write_table(paths, ["0050048", "0059001", "0059002", "0059003"], "PITT")
    torch.manual_seed(0)
    network = HarmonizedClassifier(SliceCNNLSTM(strides=(2, 2, 1)), sites=SITES)
    network.harmonizer.scale.uniform_(0.5, 2)
    network.harmonizer.shift.uniform_(-1, 1)
    network.harmonizer.count.fill_(20)
    paths.models.mkdir()
    torch.save(network.state_dict(), paths.models / "model.pt")
    return paths


@pytest.fixture(scope="module")
def rows(study: Paths) -> dict[str, dict]:
    return preprocess(study, **GRID)


def test_real_scans_are_prepared(rows: dict[str, dict]) -> None:
    shapes = {subject: voxels_of(row).shape for subject, row in rows.items()}
    frames = {"0050048": 193, "0059001": 45, "0059002": 45, "0059003": 20}
    assert shapes == {subject: (32, 32, 24, t) for subject, t in frames.items()}
    assert {subject: row.get("mask_estimated", 0) for subject, row in rows.items()} == {
        "0050048": 1, "0059001": 1, "0059002": 0, "0059003": 1
    }  # fmt: skip
    for row in rows.values():
        series = voxels_of(row)
        brain = series.std(-1) > 0
        assert 0.005 < brain.mean() < 0.5
        np.testing.assert_allclose(series[brain].mean(-1), 0, atol=1e-4)
        np.testing.assert_allclose(series[brain].std(-1), 1, atol=1e-4)
        assert (series[~brain] == 0).all()
    times = {subject: nib.load(row["image"]).header.get_zooms()[3] for subject, row in rows.items()}
    assert times == {"0050048": 1.5, "0059001": 1.0, "0059002": 3.0, "0059003": 2.0}


def infer(study: Paths, scans: str, output: Path, **override: object) -> pd.DataFrame:
    paths = study.inference | {"dataset_dir": scans, "output_dir": str(output)}
    run_workflow(CASE, "inference", "strided_stem", **paths, **GRID, **override)
    table = read_predictions(output / "inference" / "predictions.csv").set_index("subject")
    probabilities = table[["p_control", "p_ASD"]].to_numpy()
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    return table


def test_predictions_from_raw_scans_are_those_of_the_prepared(study: Paths, rows: dict[str, dict], tmp_path: Path) -> None:
    found = infer(study, study.raw, tmp_path, site="OXFORD")
    network = HarmonizedClassifier(SliceCNNLSTM(strides=(2, 2, 1)))
    network.load_state_dict(torch.load(study.models / "model.pt", weights_only=True))
    assert set(found.index) == set(rows)
    for subject, row in rows.items():
        image = torch.from_numpy(np.moveaxis(voxels_of(row), -1, 0).astype(np.float32))[None]
        with torch.no_grad():
            expected = network.eval()(image, network.harmonizer.index(["OXFORD"])).softmax(1)[0, 1].item()
        assert found.loc[subject, "p_ASD"] == pytest.approx(expected, abs=1e-5)


def test_the_site_decides_and_an_unknown_one_needs_a_policy(study: Paths, tmp_path: Path) -> None:
    scan = f"{study.raw}/sub-0059003/func/sub-0059003_task-av_desc-preproc_bold.nii.gz"
    with raises_beneath(UnseenSite, "'ELSEWHERE' is unknown.*PITT, OXFORD.*--unseen_site identity"):
        infer(study, scan, tmp_path / "refused", site="ELSEWHERE")
    assert not (tmp_path / "refused/inference/predictions.csv").exists()
    with raises_beneath(ValueError, "does not say where it was made: give --site"):
        infer(study, scan, tmp_path)
    known = {site: infer(study, scan, tmp_path / site, site=site)["p_ASD"].item() for site in SITES}
    known["identity"] = infer(study, scan, tmp_path / "i", site="ELSEWHERE", unseen_site="identity")["p_ASD"].item()
    assert len({round(p, 4) for p in known.values()}) == 3, known


# ---- holes


@pytest.mark.parametrize("source", NATIVE)
def test_holes_of_any_depth_are_filled_and_counted(real_data: Path, tmp_path: Path, source: str) -> None:
    """Nine copies of a real scan, one whole, eight with a hole of 1 to 8 voxels from its wall to its middle."""
    paths, raw = Paths(tmp_path), nib.load(real_data / source)
    image, mask = (np.moveaxis(t.numpy(), 0, -1) for t in load_nifti(str(real_data / source)))
    series, brain = image[..., :20], mask[..., 0] > 0
    middle = np.round(np.argwhere(brain).mean(0)).astype(int)
    far = np.abs(np.indices(brain.shape) - middle[:, None, None, None]).max(0)
    subjects = {depth: f"{59000 + depth:07d}" for depth in (0, *DEPTHS)}
    for depth, subject in subjects.items():
        name = Path(paths.raw) / f"X_{subject}_func_preproc.nii"
        save(name, np.where((far < depth)[..., None], np.nan, series), raw)
        save(name.with_name(f"X_{subject}_func_mask.nii"), brain.astype(np.uint8), raw)
    write_table(paths, list(subjects.values()), "PITT")
    spacing, pixdim = NATIVE[source][0], f"$[@spacing] * 2 + [{NATIVE[source][2]}]"
    override = {"spacing": spacing, "scan_transforms::5::pixdim": pixdim, "spatial_size": list(brain.shape)}
    rows = preprocess(paths, **override, max_nan_fraction=0.95)
    # the steps after the filling keep the grid, but for the direction of x
    brain, far = (x[::-1] if nib.aff2axcodes(raw.affine)[0] == "L" else x for x in (brain, far))
    whole = voxels_of(rows[subjects[0]])
    for depth in DEPTHS:
        row, hole = rows[subjects[depth]], brain & (far < depth)
        filled = voxels_of(row)
        assert row["inpainted_voxels"] == 20 * hole.sum() > 0
        assert np.isfinite(filled).all()
        assert (filled[hole].std(-1) > 0).all(), "a hole was filled with something that never changes, such as 0"
        np.testing.assert_array_equal(filled[~hole], whole[~hole])
        if depth != 4:  # where it depends on how many walls are near
            assert (row["inpainted_deep"] > 0) == (depth > 4)


# ---- place


ORIENTATIONS = {"as it is": ("LAS", 0.0), "turned": ("PIR", 0.0), "turned and tilted": ("SLP", 0.2)}


@pytest.mark.parametrize(("axcodes", "tilt"), ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_a_marked_voxel_keeps_its_place(real_data: Path, tmp_path: Path, axcodes: str, tilt: float) -> None:
    """A real scan, its axes permuted and tilted, with a course of its own in one voxel far from the middle."""
    paths, raw = Paths(tmp_path), nib.load(real_data / NIPY)
    voxel, marker = (3, 15, 2), np.where(np.arange(20) % 3, -1.0, 2.0) / np.sqrt(2)
    series = raw.get_fdata(dtype=np.float32)
    series[voxel] += 4000 * marker  # as strong as the scan, so that it shows in the neighbours it is interpolated into
    tilted = nib.affines.from_matvec(nib.eulerangles.euler2mat(tilt, tilt, tilt)) @ raw.affine
    to = nib.orientations.ornt_transform(nib.io_orientation(tilted), nib.orientations.axcodes2ornt(axcodes))
    turned = nib.Nifti1Image(series, tilted).as_reoriented(to)
    assert "".join(nib.aff2axcodes(turned.affine)) == axcodes
    for subject in ("0059001", "0059002", "0059003", "0059004"):
        save(Path(paths.raw) / f"X_{subject}_func_preproc.nii", turned.get_fdata(dtype=np.float32), raw, turned.affine)
        save(Path(paths.raw) / f"X_{subject}_func_mask.nii", np.ones(turned.shape[:3], np.uint8), raw, turned.affine)
    write_table(paths, ["0059001", "0059002", "0059003", "0059004"], "PITT")
    row = preprocess(paths, spacing=3, spatial_size=[32, 36, 24])["0059001"]
    prepared = nib.load(row["image"])
    assert nib.aff2axcodes(prepared.affine) == ("R", "A", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(prepared.affine), 3, atol=1e-5)
    likeness = voxels_of(row) @ ((marker - marker.mean()) / marker.std()) / 20
    found = np.argwhere(likeness > 0.9 * likeness.max()).mean(0)
    place = nib.affines.apply_affine(np.linalg.inv(tilted) @ prepared.affine, found)
    assert likeness.max() > 0.9
    np.testing.assert_allclose(place, voxel, atol=0.75)


# ---- tables


def test_abide_one_as_the_pcp_has_it(real_data: Path, tmp_path: Path) -> None:
    """All 1035 scans of the PCP, as empty files: 505 ASD and 530 controls of 20 sites, as published."""
    table = real_data / "abide" / PHENOTYPES
    ids = pd.read_csv(table)["FILE_ID"]
    for name in ids[ids != "no_filename"]:
        (tmp_path / f"{name}_func_preproc.nii.gz").touch()
        (tmp_path / f"{name}_func_mask.nii.gz").touch()
    records = read_study(str(tmp_path), CLASSES, "nifti", str(table)).records
    assert Counter(r.label for r in records) == {1: 505, 0: 530}
    assert len({r.columns["site"] for r in records}) == 20
    assert all(r.inputs["mask"] == r.image.replace("preproc", "mask") for r in records)
    parts = HoldOut(stratify=["site", "label"]).parts(records)
    training = Counter(r.columns["site"] for r, part in zip(records, parts, strict=True) if part == "training")
    assert len(training) == 20
    assert min(training.values()) >= 3, "a site is too small for ComBat"
    assert not any(r.columns["age"] is None or r.columns["sex"] is None for r in records)


def test_abide_two_in_bids(real_data: Path, tmp_path: Path) -> None:
    """Every subject of the table, as an empty file: 521 ASD and 593 controls of 19 sites, as published."""
    table = real_data / "abide" / "abide2_phenotypic.csv"
    for subject in pd.read_csv(table, encoding="latin-1")["SUB_ID"]:
        scan = tmp_path / f"sub-{subject}" / "ses-1" / "func" / f"sub-{subject}_ses-1_task-rest_run-1_bold.nii.gz"
        scan.parent.mkdir(parents=True)
        scan.touch()
    study = read_study(str(tmp_path), CLASSES, "nifti", str(table))
    assert Counter(r.label for r in study.records) == {1: 521, 0: 593}
    assert len({r.columns["site"] for r in study.records}) == 19
    assert study.dropped == {}
    ages = [r.columns["age"] for r in study.records]
    assert min(ages) == pytest.approx(5.128)
    assert max(ages) == 64
