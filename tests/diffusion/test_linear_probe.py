"""Linear probe: features of a network that computes known ones, the analysis against its full matrices, and what is stored."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from custom.diffusion.features import BottleneckFeatures, bottleneck_features, frame_features
from custom.diffusion.linear_probe import LinearProbeInferer, ShrinkageLDA, fit_probe
from custom.metrics.baselines import Baseline
from custom.networks.noise_level import NoiseLevels

from .gaussian_problem import SCHEDULE

NAMES = ["face", "house", "shoe"]
LEVELS = NoiseLevels(DDPMScheduler(**SCHEDULE).alphas_cumprod)
GRID = (3, 2, 1)
T = 200


class TwiceAndSquare(nn.Module):
    """Features: twice the noisy window and its square, (B, F, 2, X, Y, Z)."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.modes: list[bool] = []

    def features(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert timesteps is not None
        assert timesteps.shape == x.shape[:1]
        assert class_labels is None
        self.modes.append(self.training)
        return torch.stack([self.factor * x, x**2], 2)


@pytest.fixture
def network() -> TwiceAndSquare:
    return TwiceAndSquare()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Two runs of 36 frames whose blocks of 4 frames show a pattern of their class, and rest at the end."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    patterns, found = rng.normal(size=(len(NAMES), *GRID)), []
    for run in ("1", "2"):
        voxels = rng.normal(size=(*GRID, 36)) * 0.8
        path = str(folder / f"run{run}.nii")
        for block in range(8):
            label = int(rng.integers(3)) if block > 2 else block
            voxels[..., 4 * block : 4 * block + 4] += patterns[label][..., None]
            facts = {"label": label, "block": f"{run}-{block}", "subject": "1"}
            found.append({"image": path, "start": 4 * block, "frames": 4, **facts})
        found.append({"image": path, "start": 32, "frames": 4, "label": -1, "block": f"{run}-rest", "subject": "1"})
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), path)
    return found


def window_of(row: dict) -> np.ndarray:
    voxels = nib.load(row["image"]).get_fdata()[..., row["start"] : row["start"] + row["frames"]]
    return np.moveaxis(voxels, -1, 0)


def test_features_are_means_over_frames_and_opposite_noise(network: TwiceAndSquare) -> None:
    """E of ±ε: 2 a x, and (a x)² + (s ε)², with ε as the seed gives it."""
    x = torch.randn(2, 4, *GRID, generator=torch.Generator().manual_seed(1))
    found = bottleneck_features(network, x, LEVELS, [T], num_noises=1, seed=7)
    noise = torch.randn(4, *GRID, generator=torch.Generator().manual_seed(7))
    squared = float(DDPMScheduler(**SCHEDULE).alphas_cumprod[T])
    twice = 2 * squared**0.5 * x.mean(1)
    square = (squared * x**2 + (1 - squared) * noise**2).mean(1)
    torch.testing.assert_close(found, torch.stack([twice, square], 1).flatten(1))


def test_features_of_several_timesteps_lie_end_to_end(network: TwiceAndSquare) -> None:
    x = torch.ones(1, 3, *GRID)
    found = bottleneck_features(network, x, LEVELS, [50, 400])
    signal = DDPMScheduler(**SCHEDULE).alphas_cumprod[[50, 400]].sqrt()
    assert found.shape == (1, 2 * 2 * 6)
    torch.testing.assert_close(found[0, [0, 12]], 2 * signal)


def test_more_noises_bring_the_square_nearer_to_its_mean(network: TwiceAndSquare) -> None:
    x = torch.zeros(1, 2, *GRID)
    variance = 1 - float(DDPMScheduler(**SCHEDULE).alphas_cumprod[T])
    few, many = (bottleneck_features(network, x, LEVELS, [T], num_noises=n)[0, 6:] - variance for n in (1, 200))
    assert many.abs().max() < 0.25 * few.abs().max()


@pytest.mark.parametrize("change", [{"timesteps": []}, {"timesteps": [5], "num_noises": 0}])
def test_features_need_a_timestep_and_a_noise(network: TwiceAndSquare, change: dict) -> None:
    with pytest.raises(ValueError, match="at least"):
        bottleneck_features(network, torch.ones(1, 2, *GRID), LEVELS, **change)


def test_unit_has_the_mean_of_its_windows(network: TwiceAndSquare, rows: list[dict]) -> None:
    units = {"b": rows[:1], "a": rows[1:4]}
    network.train()
    found = BottleneckFeatures(network, LEVELS, [T], batch_size=3)(units)
    a = float(DDPMScheduler(**SCHEDULE).alphas_cumprod[T]) ** 0.5
    means = [np.mean([window_of(row).mean(0).ravel() for row in members], axis=0) for members in units.values()]
    np.testing.assert_allclose(found[:, :6], 2 * a * np.stack(means), rtol=1e-4, atol=1e-5)
    assert set(network.modes) == {False}


def test_features_do_not_depend_on_the_batch(network: TwiceAndSquare, rows: list[dict]) -> None:
    units = {row["block"]: [row] for row in rows}
    few, all_ = (BottleneckFeatures(network, LEVELS, [T], batch_size=size)(units) for size in (1, 64))
    np.testing.assert_allclose(few, all_, rtol=1e-5, atol=1e-6)


def test_baseline_takes_the_features(network: TwiceAndSquare, rows: list[dict]) -> None:
    known = [row for row in rows if row["label"] >= 0]
    train, test = known[:8], known[8:]
    baseline = Baseline(features=BottleneckFeatures(network, LEVELS, [T]), estimator=ShrinkageLDA())
    table = baseline.fit(train, NAMES, unit="block").predict_proba(test)
    assert (table["predicted"] == table["label"]).mean() >= 0.75  # chance 1/3


def test_windows_of_two_lengths_are_named(network: TwiceAndSquare, rows: list[dict]) -> None:
    odd = {**rows[1], "frames": 3}
    with pytest.raises(ValueError, match=r"run1\.nii.*\(3, 3, 2, 1\)"):
        BottleneckFeatures(network, LEVELS, [T])({"a": [rows[0], odd]})


def test_nan_is_named(network: TwiceAndSquare, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((*GRID, 4), np.nan, np.float32), np.eye(4)), tmp_path / "bad.nii")
    row = {"image": str(tmp_path / "bad.nii"), "start": 0, "frames": 4}
    with pytest.raises(ValueError, match=r"bad\.nii.*finite"):
        BottleneckFeatures(network, LEVELS, [T])({"a": [row]})


@pytest.mark.parametrize("features", [5, 60])  # fewer and more than samples
def test_analysis_is_that_of_the_full_matrices(features: int) -> None:
    """The positive part of 1 - (C - 3) / Σ z² for each feature's means, written out, and scikit-learn's covariance."""
    rng = np.random.default_rng(2)
    names, y = [0, 2, 3, 5, 7], np.repeat([2, 0, 5, 3, 7], [7, 9, 4, 5, 6])
    X = rng.normal(size=(31, features)) @ rng.normal(size=(features, features)) + 0.15 * y[:, None]
    means = np.stack([X[y == c].mean(0) for c in names])
    residuals = X - means[np.searchsorted(names, y)]
    errors = [(residuals**2).sum(0) / (31 - 5) / (y == c).sum() for c in names]
    away = means - means.mean(0)
    share = np.maximum(0, 1 - (5 - 3) / (away**2 / errors).sum(0))
    assert share.min() < 0.6 < share.max()
    shrunken = means.mean(0) + away * share
    covariance, weight = ledoit_wolf(residuals, assume_centered=True)
    assert 0.01 < weight < 0.99
    new = rng.normal(size=(6, features)) * 3 + 1
    distance = new[:, None] - shrunken
    exact = -0.5 * np.einsum("ncd,de,nce->nc", distance, np.linalg.inv(covariance), distance)
    model = ShrinkageLDA().fit(X, y)
    found = model.decision_function(new)
    np.testing.assert_allclose(found - found[:, :1], exact - exact[:, :1], rtol=1e-5, atol=1e-5)
    assert np.array_equal(model.predict(new), np.array(names)[exact.argmax(1)])
    odds = model.predict_proba(new)
    np.testing.assert_allclose(np.log(odds[:, 1]) - np.log(odds[:, 0]), exact[:, 1] - exact[:, 0], rtol=1e-4, atol=1e-4)


def test_analysis_needs_samples_that_differ() -> None:
    with pytest.raises(ValueError, match="several windows"):
        ShrinkageLDA().fit(np.eye(3), [0, 1, 2])


@pytest.mark.parametrize("estimator", [None, LogisticRegression(C=0.1)])
def test_stored_probe_is_the_fitted_classifier(
    network: TwiceAndSquare, rows: list[dict], tmp_path: Path, estimator: LogisticRegression | None
) -> None:
    """Refitted here by hand on the same features, a frame a sample; rest has no part in it."""
    fit_probe(network, rows, NAMES, tmp_path / "probe.pt", LEVELS, [T, 300], estimator, num_noises=2, seed=3)
    windows = torch.from_numpy(np.stack([window_of(row) for row in rows])).float()
    labels = np.array([row["label"] for row in rows])
    X = frame_features(network, windows, LEVELS, [T, 300], num_noises=2, seed=3).detach().numpy().astype(np.float64)
    known = X[labels >= 0].reshape(-1, 24)
    mean, scale = known.mean(0), known.std(0)
    model = (estimator or ShrinkageLDA()).fit((known - mean) / scale, np.repeat(labels[labels >= 0], 4))
    logits = LinearProbeInferer(tmp_path / "probe.pt", LEVELS, NAMES, temperature=2)(windows, network)
    np.testing.assert_allclose(logits.numpy(), model.decision_function((X.mean(1) - mean) / scale) / 2, rtol=1e-3, atol=1e-3)


def test_probe_is_of_plain_tensors(network: TwiceAndSquare, rows: list[dict], tmp_path: Path) -> None:
    fit_probe(network, rows, NAMES, tmp_path / "probe.pt", LEVELS, [T])
    probe = torch.load(tmp_path / "probe.pt", weights_only=True)
    shapes = {name: tuple(value.shape) for name, value in probe.items() if isinstance(value, torch.Tensor)}
    assert shapes == {"weight": (3, 12), "bias": (3,), "mean": (12,), "scale": (12,)}
    assert (probe["timesteps"], probe["class_names"]) == ([T], NAMES)


def test_probe_of_other_weights_is_refused(network: TwiceAndSquare, rows: list[dict], tmp_path: Path) -> None:
    fit_probe(network, rows, NAMES, tmp_path / "probe.pt", LEVELS, [T])
    with torch.no_grad():
        network.factor.add_(1e-3)
    with pytest.raises(ValueError, match="other weights"):
        LinearProbeInferer(tmp_path / "probe.pt", LEVELS)(torch.ones(1, 4, *GRID), network)


def test_probe_of_other_classes_or_grid_is_refused(network: TwiceAndSquare, rows: list[dict], tmp_path: Path) -> None:
    fit_probe(network, rows, NAMES, tmp_path / "probe.pt", LEVELS, [T])
    with pytest.raises(ValueError, match="fitted for the classes"):
        LinearProbeInferer(tmp_path / "probe.pt", LEVELS, NAMES[::-1])(torch.ones(1, 4, *GRID), network)
    with pytest.raises(ValueError, match="12 features"):
        LinearProbeInferer(tmp_path / "probe.pt", LEVELS, NAMES)(torch.ones(1, 4, 3, 3, 1), network)


def test_absent_and_broken_probes_are_named(network: TwiceAndSquare, tmp_path: Path) -> None:
    window = torch.ones(1, 4, *GRID)
    with pytest.raises(FileNotFoundError, match=r"probe\.pt"):
        LinearProbeInferer(tmp_path / "probe.pt", LEVELS)(window, network)
    (tmp_path / "text.pt").write_text("no probe")
    torch.save({"weight": torch.ones(2)}, tmp_path / "else.pt")
    for name in ("text.pt", "else.pt"):
        with pytest.raises(ValueError, match=name):
            LinearProbeInferer(tmp_path / name, LEVELS)(window, network)


def test_every_class_needs_rows(network: TwiceAndSquare, rows: list[dict], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training rows"):
        fit_probe(network, rows, [*NAMES, "cat"], tmp_path / "probe.pt", LEVELS, [T])


def test_an_estimator_has_a_line_per_class(network: TwiceAndSquare, rows: list[dict], tmp_path: Path) -> None:
    two = [row for row in rows if row["label"] != 2]
    with pytest.raises(ValueError, match="1 lines for 2 classes"):
        fit_probe(network, two, NAMES[:2], tmp_path / "probe.pt", LEVELS, [T], SVC(kernel="linear"))
    assert not (tmp_path / "probe.pt").exists()


def test_temperature_is_above_0(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LinearProbeInferer(tmp_path / "probe.pt", LEVELS, temperature=0)
