from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from custom.metrics.anomaly import Mahalanobis, MeanSquare, PCAResidual, _auc, evaluate_anomalies
from custom.phantoms.anomalies import KINDS, SIZES, plant

GRID, FRAMES = (8, 9, 2), 6


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, list[dict]]:
    """A run per part, 36 frames of few components and noise; four windows of two classes each."""
    folder, generator = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    mixing = generator.normal(size=(4, 6, 9, 2))
    parts: dict[str, list[dict]] = {}
    for part in ("training", "validation", "test"):
        frames = np.zeros((36, *GRID), np.float32)
        frames[:, 1:7] = np.einsum("tk,kxyz->txyz", generator.normal(size=(36, 4)), mixing)
        frames[:, 1:7] += 0.5 * generator.normal(size=(36, 6, 9, 2))
        path = folder / f"{part}.nii"
        nib.save(nib.Nifti1Image(np.moveaxis(frames, 0, -1), np.eye(4)), path)
        known = {"image": str(path), "subject": "sub-1", "scan": part, "frames": FRAMES}
        parts[part] = [{**known, "label": k % 2, "start": 9 * k, "block": f"{part}{k}"} for k in range(4)]
    return parts


def read(rows: list[dict]) -> torch.Tensor:
    run = np.moveaxis(nib.load(rows[0]["image"]).get_fdata(dtype=np.float32), -1, 0)
    return torch.from_numpy(np.stack([run[row["start"] : row["start"] + FRAMES] for row in rows]))


@pytest.fixture(scope="module")
def masks(rows) -> torch.Tensor:
    return (read(rows["test"]) != 0).any(1).any(0).expand(4, -1, -1, -1)


def test_pca_residual_is_what_numpy_leaves(rows, masks):
    windows, labels = read(rows["test"]), torch.zeros(4)
    run = np.moveaxis(nib.load(rows["training"][0]["image"]).get_fdata(), -1, 0)[:, 1:7].reshape(36, -1)
    mean = run.mean(0)
    _, values, axes = np.linalg.svd(run - mean, full_matrices=False)
    keep = np.searchsorted((values**2).cumsum() / (values**2).sum(), 0.9) + 1
    frames = windows[:, :, 1:7].numpy().reshape(24, -1) - mean
    left = frames - frames @ axes[:keep].T @ axes[:keep]
    scores, maps = PCAResidual(rows["training"])(windows, labels, masks)
    np.testing.assert_allclose(scores, (left**2).reshape(4, -1).mean(1), rtol=1e-4)
    np.testing.assert_allclose(maps[:, :, 1:7].reshape(24, -1), left**2, rtol=1e-3, atol=1e-5)
    assert not maps[:, :, 0].any()


def test_mahalanobis_is_the_likelihood_of_probabilistic_pca(rows, masks):
    components = PCAResidual(rows["training"])
    windows = read(rows["test"])
    scores, _ = Mahalanobis(components)(windows, torch.zeros(4), masks)
    pca: PCA = components.pca
    frames = windows[:, :, 1:7].reshape(24, -1).numpy() - pca.mean_
    expected = np.einsum("nv,vw,nw->n", frames, np.linalg.inv(pca.get_covariance()), frames)
    # scikit-learn's components have the variance that the data have along them, and so has the distance
    np.testing.assert_allclose(scores, expected.reshape(4, -1).mean(1), rtol=1e-3)


def test_mean_square_is_over_the_mask(rows, masks):
    windows = read(rows["test"])
    scores, _ = MeanSquare()(windows, torch.zeros(4), masks)
    np.testing.assert_allclose(scores, (windows[:, :, 1:7] ** 2).mean((1, 2, 3, 4)), rtol=1e-5)


def oracle(rows):
    """A score that knows the test windows: distance to the nearest of them, with the squared difference as its map."""
    known = read(rows["test"])

    def score(windows, labels, masks):
        difference = ((windows[:, None] - known[None]) ** 2).flatten(2).sum(2)
        nearest = known[difference.argmin(1)]
        return difference.amin(1).numpy(), ((windows - nearest) ** 2).numpy()

    return score


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="module")
def results(rows, folder) -> dict:
    scorers = {"oracle": oracle(rows), "nothing": lambda w, y, m: (np.zeros(len(w)), None)}
    return evaluate_anomalies(
        scorers, rows["training"], rows["validation"], rows["test"], folder, FRAMES, copies=2, n_bootstrap=50
    )


def test_oracle_finds_everything_and_nothing_finds_nothing(results):
    for kind in KINDS:
        for size in SIZES[kind]:
            whole = kind == "wrong_category" and size == "large"  # a good window of another class is none but its label
            assert results["auc"]["oracle"][kind][size]["value"] == (0.5 if whole else 1.0)
            assert results["auc"]["nothing"][kind][size]["value"] == 0.5
    assert results["localisation_auc"]["oracle"]["blob"]["large"]["value"] > 0.99
    assert "nothing" not in results["localisation_auc"]
    assert results["pooled_auc"]["oracle"]["tuning kinds"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert results["difference"]["nothing"]["tuning kinds"]["value"] == 0.5


def test_auc_is_that_of_all_pairs_of_different_windows(rows, masks, results):
    windows = read(rows["test"])
    number = [(k, s) for k in KINDS for s in SIZES[k]].index(("spike", "large"))
    planted = []
    for copy in range(2):
        for i, window in enumerate(windows):
            rng = np.random.default_rng([0, number, copy, i])
            planted.append((i, plant(window.numpy(), "spike", "large", rng, masks[i].numpy())[0]))
    normal = [(w[:, 1:7] ** 2).mean() for w in windows.numpy()]
    expected = np.mean([(w[:, 1:7] ** 2).mean() > normal[k] for i, w in planted for k in range(4) if k != i])
    found = results["auc"]["mean square"]["spike"]["large"]
    assert found["value"] == pytest.approx(expected)
    assert found["low"] <= found["value"] <= found["high"]


def test_the_interval_of_few_windows_holds_its_figure():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=8)
    planted = normal + 0.01 + 0.1 * rng.normal(size=(3, 8))
    weights = np.vstack([np.ones(8), rng.multinomial(8, np.full(8, 1 / 8), 2000)])
    found = _auc(normal, planted, weights)
    assert abs(np.nanmean(found[1:]) - found[0]) < 0.02  # with a window's own copies it is off by some 0.05


def test_files_are_json_and_arrays(results, folder):
    assert json.loads((folder / "anomalies.json").read_text())["windows"] == 4
    with np.load(folder / "anomaly_examples.npz") as arrays:
        assert {"blob/window", "blob/truth", "blob/map/oracle", "drop_out/map/PCA residual"} <= set(arrays.files)
        assert arrays["blob/map/oracle"].shape == (FRAMES, *GRID)


def test_thresholds_come_from_validation(rows, results):
    scores = (read(rows["validation"])[:, :, 1:7] ** 2).mean((1, 2, 3, 4)).numpy()
    normal = (read(rows["test"])[:, :, 1:7] ** 2).mean((1, 2, 3, 4)).numpy()
    assert results["false_alarms"]["mean square"] == (normal > np.quantile(scores, 0.95)).mean()
    assert results["detected"]["nothing"]["blob"]["large"] == 0


def test_of_one_cluster_there_is_no_interval(rows, tmp_path):
    found = evaluate_anomalies(
        {}, rows["training"], rows["validation"], rows["test"], tmp_path, FRAMES, copies=1, clusters="scan", n_bootstrap=5
    )
    assert found["auc"]["PCA residual"]["blob"]["small"]["low"] is None


def test_bad_scores_and_lonely_windows_are_refused(rows, tmp_path):
    parts = (rows["training"], rows["validation"])
    with pytest.raises(ValueError, match="'broken' is NaN"):
        evaluate_anomalies({"broken": lambda w, y, m: (np.full(len(w), np.nan), None)}, *parts, rows["test"], tmp_path, FRAMES)
    one_class = [{**row, "label": 1} for row in rows["test"]]
    with pytest.raises(ValueError, match="one class only"):
        evaluate_anomalies({}, *parts, one_class, tmp_path, FRAMES, copies=1, n_bootstrap=5)


def test_a_brain_no_larger_than_an_anomaly_is_refused(rows, tmp_path):
    frames = np.zeros((4, 4, 4, 36), np.float32)
    frames[:2, :2, :2] = np.random.default_rng(0).normal(size=(2, 2, 2, 36))
    nib.save(nib.Nifti1Image(frames, np.eye(4)), tmp_path / "tiny.nii")
    tiny = [{**row, "image": str(tmp_path / "tiny.nii")} for row in rows["test"]]
    with pytest.raises(ValueError, match="a brain of 8 voxels"):
        evaluate_anomalies({}, tiny, tiny, tiny, tmp_path, FRAMES, copies=1, n_bootstrap=5)
