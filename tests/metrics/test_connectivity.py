from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from custom.data.roi_series import read_roi_series
from custom.metrics import Baseline, Unavailable
from custom.metrics.connectivity import Connectivity, block_series, fisher_z

SERIES = np.random.default_rng(0).normal(size=(4000, 4)) @ np.random.default_rng(1).normal(size=(4, 4))


def image(path: Path, voxels: np.ndarray) -> dict:
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), path)
    return {"image": str(path), "subject": path.stem}


def scan(seed: int, shape: tuple[int, ...] = (8, 8, 8, 30)) -> np.ndarray:
    """Return noise in a ball, exactly 0 outside: the corner blocks are empty."""
    ball = np.linalg.norm(np.indices(shape[:3]) - (np.array(shape[:3]) - 1).reshape(3, 1, 1, 1) / 2, axis=0) < 4
    return np.random.default_rng(seed).normal(size=shape) * ball[..., None]


# fisher_z


def test_many_frames_give_the_plain_correlation():
    expected = np.arctanh(np.corrcoef(SERIES.T)[np.tril_indices(4, -1)])
    np.testing.assert_allclose(fisher_z(SERIES), expected, rtol=2e-2, atol=1e-2)


def test_scale_and_baseline_of_a_region_do_not_matter():
    np.testing.assert_allclose(fisher_z(SERIES * [1, 10, 100, 1e4] + 1000), fisher_z(SERIES), rtol=1e-4, atol=1e-5)


def test_a_constant_region_correlates_with_nothing_and_changes_nothing_else():
    constant = np.insert(SERIES, 2, 1e4 / 3, axis=1).astype(np.float32)
    z = fisher_z(constant)
    rows, columns = np.tril_indices(5, -1)
    touching = (rows == 2) | (columns == 2)
    assert (z[touching] == 0).all()
    np.testing.assert_allclose(z[~touching], fisher_z(SERIES), rtol=1e-4)


def test_equal_regions_have_a_finite_z():
    """Ledoit and Wolf see nothing to shrink in a square wave."""
    wave = np.resize([1.0, -1.0], (40, 1))
    limit = np.arctanh(1 - 1e-6)
    np.testing.assert_allclose(fisher_z(wave * [1, 1, -1]), [limit, -limit, -limit], rtol=1e-6)


def test_no_region_varies():
    assert fisher_z(np.ones((5, 3))).tolist() == [0, 0, 0]


# block_series


def test_block_means_are_over_brain_voxels():
    voxels = np.random.default_rng(0).normal(size=(5, 4, 3, 6)).astype(np.float32)
    voxels[0, 0, 0] = 0
    series = block_series(voxels, 2)
    assert series.shape == (6, 8)
    np.testing.assert_allclose(series[:, 0], voxels[:2, :2, :1].reshape(4, 6)[1:].mean(0), rtol=1e-5)
    np.testing.assert_allclose(series[:, 7], voxels[2:, 2:, 1:].reshape(-1, 6).mean(0), rtol=1e-5)


def test_a_single_slice_has_one_block_across():
    assert block_series(np.ones((1, 9, 9, 5)), 3).shape == (5, 9)
    with pytest.raises(ValueError, match="a scan"):
        block_series(np.ones((9, 9, 5)), 3)


# Connectivity


def test_features_of_a_unit_do_not_depend_on_the_others(tmp_path: Path):
    units = {f"s{i}": [image(tmp_path / f"s{i}.nii", scan(i))] for i in range(3)}
    table = Connectivity(blocks=2)(units)
    assert table.shape == (3, 28)
    np.testing.assert_array_equal(Connectivity(blocks=2)({"s1": units["s1"]}), table[1:2])
    np.testing.assert_array_equal(table[0], fisher_z(block_series(scan(0).astype(np.float32), 2)))


def test_empty_corners_are_zero_edges(tmp_path: Path):
    table = Connectivity(blocks=4)({"a": [image(tmp_path / "a.nii", scan(0))]})
    assert np.isfinite(table).all()
    empty = 64 - (block_series(scan(0), 4) != 0).any(0).sum()
    assert empty >= 8
    assert (table == 0).sum() == 64 * 63 / 2 - (64 - empty) * (63 - empty) / 2


def test_scans_of_a_unit_are_averaged(tmp_path: Path):
    rows = [image(tmp_path / f"{i}.nii", scan(i)) for i in range(2)]
    both, first, second = Connectivity(2)({"both": rows, "first": rows[:1], "second": rows[1:]})
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-6)


def test_other_grids_and_nan_are_named(tmp_path: Path):
    a, b = image(tmp_path / "a.nii", scan(0)), image(tmp_path / "b.nii", scan(1, (1, 8, 8, 30)))
    with pytest.raises(ValueError, match="^b: other regions than a, 6 edges for 28"):
        Connectivity(2)({"a": [a], "b": [b]})
    with pytest.raises(ValueError, match=r"n.nii: NaN"):
        Connectivity(2)({"n": [image(tmp_path / "n.nii", scan(0) * np.nan)]})


def test_real_series_with_their_constant_columns(real_data: Path):
    paths = sorted((real_data / "abide" / "roi_ts_aal116").glob("PITT*.npz"))
    units = {p.stem: [{"roi_series": str(p)}] for p in paths}
    table = Connectivity(series="roi_series")(units)
    assert table.shape == (30, 6670)
    assert np.isfinite(table).all()
    constant = [(read_roi_series(p).std(0) == 0).sum() for p in paths]
    assert max(constant) == 11
    assert [(row == 0).sum() for row in table] == [c * (115 + 116 - c) / 2 for c in constant]


def test_a_missing_series(real_data: Path):
    path = str(next((real_data / "abide" / "roi_ts_aal116").glob("*.npz")))
    with pytest.raises(Unavailable, match="roi_series"):
        Connectivity(series="roi_series")({"a": [{}], "b": [{"roi_series": None}]})
    with pytest.raises(ValueError, match="no 'roi_series' for b"):
        Connectivity(series="roi_series")({"a": [{"roi_series": path}], "b": [{"roi_series": None}]})


def test_as_a_baseline_it_finds_planted_coupling_and_nothing_in_permuted_labels(tmp_path: Path):
    rows = []
    for i in range(80):
        label, rng = i % 2, np.random.default_rng(i)
        voxels = rng.normal(size=(4, 4, 4, 60))
        voxels[:2] += (1.0 if label else 0.3) * rng.normal(size=60)
        rows.append({**image(tmp_path / f"s{i:02d}.nii", voxels), "label": label})
    estimator = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=1000)

    def accuracy(train: list[dict]) -> float:
        model = Baseline(features=Connectivity(2), estimator=estimator).fit(train, ["control", "ASD"])
        table = model.predict_proba(rows[40:])
        return float((table["predicted"] == table["label"]).mean())

    assert accuracy(rows[:40]) > 0.9
    shuffled = np.random.default_rng(0).permutation([r["label"] for r in rows[:40]])
    assert accuracy([{**r, "label": int(x)} for r, x in zip(rows[:40], shuffled, strict=True)]) < 0.75
