from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from scipy.ndimage import gaussian_filter
from torch import nn

from custom.diffusion.anomaly import AnomalyScorer, calibrate, detect, label_margin, score_function
from custom.diffusion.calibrate_anomaly import ResidualSummary, summarised
from custom.networks.noise_level import NoiseLevels

GRID, FRAMES = (7, 6, 1), 4
VOXELS = 42


class Exact(nn.Module):
    """The denoiser of frames from N(0, Σ); a class adds its number to the estimate."""

    def __init__(self, covariance: torch.Tensor, prediction_type: str = "v_prediction") -> None:
        super().__init__()
        schedule = DDPMScheduler(num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
        self.levels, self.covariance = NoiseLevels(schedule.alphas_cumprod, prediction_type), covariance
        self.asked: list[torch.Tensor] = []

    def forward(self, x, timesteps=None, class_labels=None):
        self.asked.append(class_labels)
        a, s = (float(v[0]) for v in self.levels.signal_and_noise(timesteps))
        gain = a * self.covariance @ torch.linalg.inv(a**2 * self.covariance + s**2 * torch.eye(len(self.covariance)))
        x0 = (x.flatten(2) @ gain.T).reshape(x.shape) + (class_labels.clamp(min=0)).reshape(-1, 1, 1, 1, 1)
        return self.levels.output_of(x0, x, timesteps)


@pytest.fixture(scope="module")
def covariance() -> torch.Tensor:
    place = np.argwhere(np.ones(GRID))
    distance = ((place[:, None] - place[None]) ** 2).sum(-1)
    return torch.tensor(np.exp(-distance / 4) + 0.2 * np.eye(VOXELS)).float()


@pytest.fixture(scope="module")
def network(covariance) -> Exact:
    return Exact(covariance).eval()


def draw(covariance: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    noise = torch.randn(n, FRAMES, VOXELS, generator=torch.Generator().manual_seed(seed))
    return (noise @ torch.linalg.cholesky(covariance).T).reshape(n, FRAMES, *GRID)


def masks(n: int) -> torch.Tensor:
    return torch.ones(n, *GRID, dtype=torch.bool)


@pytest.fixture(scope="module")
def scorer(network, covariance) -> AnomalyScorer:
    windows = draw(covariance, 60, 1)
    return AnomalyScorer(network.levels).fit(network, [(part, masks(len(part))) for part in windows.split(25)])


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_residual_of_a_gaussian_is_its_closed_form_whatever_the_noise(covariance, prediction_type):
    network, windows = Exact(covariance, prediction_type).eval(), draw(covariance, 3, 0)
    for seed in (0, 1):
        found = AnomalyScorer(network.levels, log_snrs=(-2.0, 1.0), seed=seed).residuals(network, windows)
        for level, residual in zip((-2.0, 1.0), found, strict=True):
            a2 = 1 / (1 + np.exp(-level))
            inverse = np.linalg.inv(a2 * covariance.numpy() + (1 - a2) * np.eye(VOXELS))
            expected = (1 - a2) * windows.flatten(2).numpy() @ inverse
            np.testing.assert_allclose(residual.flatten(2), expected, atol=2e-3)


def test_squared_residual_has_the_expected_value(covariance, network):
    windows, level = draw(covariance, 400, 2), 1.0
    a2 = 1 / (1 + np.exp(-level))
    inverse = np.linalg.inv(a2 * covariance.numpy() + (1 - a2) * np.eye(VOXELS))
    expected = (1 - a2) ** 2 * np.diag(inverse @ covariance.numpy() @ inverse)
    found = (AnomalyScorer(network.levels, (level,)).residuals(network, windows)[0] ** 2).mean((0, 1)).flatten()
    np.testing.assert_allclose(found, expected, rtol=0.15)  # 1600 frames: SD of a variance 3.5 %


def test_windows_are_denoised_as_no_class_unless_one_is_given(network, covariance):
    windows, scorer = draw(covariance, 2, 0), AnomalyScorer(network.levels)
    network.asked.clear()
    plain = scorer.residuals(network, windows)
    assert all((labels == -1).all() for labels in network.asked)
    given = scorer.residuals(network, windows, torch.tensor([2, 3]))
    shift = (plain - given).mean((0, 2, 3, 4, 5))
    np.testing.assert_allclose(shift, [2, 3], atol=1e-3)


def test_scores_do_not_depend_on_the_batch(scorer, network, covariance):
    windows = draw(covariance, 5, 3)
    whole = scorer.score(network, windows)
    for i in range(5):
        alone = scorer.score(network, windows[i : i + 1])
        torch.testing.assert_close(alone.window[0], whole.window[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.map[0], whole.map[i], atol=1e-3, rtol=1e-3)


def test_validation_windows_are_flagged_at_the_stated_rate(network, covariance):
    windows = draw(covariance, 60, 1)
    summary = ResidualSummary(false_alarm_rate=0.1)
    scorer = AnomalyScorer(network.levels, summary=summary).fit(network, [(windows, masks(60))])
    flagged = scorer.score(network, windows).window > scorer.summary.threshold
    assert flagged.float().mean() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("kind", ["added", "missing"])
def test_what_is_planted_is_found_and_located(scorer, network, covariance, kind):
    windows = draw(covariance, 12, 4)
    odd = windows.clone()
    odd[:, :, 2:5, 1:4] = odd[:, :, 2:5, 1:4] + 3 if kind == "added" else 0
    before, after = scorer.score(network, windows), scorer.score(network, odd)
    assert (after.window > before.window).float().mean() > 0.9
    inside, outside = after.map[:, :, 3, 2].mean(), after.map[:, :, 6].mean()
    assert inside > outside + 1


def test_a_spike_shows_in_its_frame(scorer, network, covariance):
    windows = draw(covariance, 10, 5)
    windows[:, 2] *= 3
    assert (scorer.score(network, windows).frame.argmax(1) == 2).float().mean() > 0.9


def test_summary_is_that_of_numpy():
    """The window's figures, computed voxel by voxel with scipy, for residuals of known scale."""
    generator = np.random.default_rng(0)
    mask = np.ones((8, 9, 1), bool)
    mask[:2] = False
    residuals = (generator.normal(size=(1, 40, 5, 8, 9, 1)) * mask).astype(np.float32)
    inside = torch.from_numpy(np.broadcast_to(mask, (40, *mask.shape)).copy())
    summary = ResidualSummary(share=0.1).fit(lambda: [(torch.from_numpy(residuals), inside)])

    scale = residuals[0].std((0, 1))
    z = np.where(mask, (residuals[0] - residuals[0].mean((0, 1))) / np.where(mask, scale, 1), 0)
    near = gaussian_filter(mask.astype(float), 1, mode="constant")

    def local(x):
        return (gaussian_filter(x, (0, 0, 1, 1, 0), mode="constant") / near)[:, :, mask].reshape(len(x), -1)

    def top(x):
        return np.sort(x, 1)[:, -int(np.ceil(0.1 * x.shape[1])) :].mean(1)

    energy = local(z**2).reshape(40, 5, -1)
    figures = [
        top(np.cbrt(energy).reshape(40, -1)),
        top(np.cbrt(local(z.mean(1, keepdims=True)) ** 2)),
        top(-np.cbrt(energy.mean(1))),
        np.cbrt((z[:, :, mask] ** 2).mean(2)).max(1),
    ]
    standard = np.stack([(f - f.mean()) / f.std(ddof=1) for f in figures])
    expected = np.log(np.exp(standard).sum(0))
    found = summary.score(torch.from_numpy(residuals)).window
    np.testing.assert_allclose(found, expected, atol=0.05)  # MONAI's Gaussian is integrated over voxels, scipy's sampled


def test_outside_the_mask_nothing_counts(scorer, network, covariance):
    residuals, inside = scorer.residuals(network, draw(covariance, 2, 6)), masks(2)
    inside[:, :2] = False
    loud = residuals.clone()
    loud[:, :, :, :2] = 100
    quiet, noisy = scorer.summary.score(residuals, inside), scorer.summary.score(loud, inside)
    torch.testing.assert_close(quiet.window, noisy.window)
    assert not noisy.map[:, :, :2].any()


def test_calibration_is_saved_and_refused_by_another_recipe(scorer, network, covariance, tmp_path):
    torch.save(scorer.state_dict(), tmp_path / "anomaly.pt")
    state = torch.load(tmp_path / "anomaly.pt", weights_only=True)
    again = AnomalyScorer(network.levels)
    again.load_state_dict(state)
    windows = draw(covariance, 3, 7)
    torch.testing.assert_close(again.score(network, windows).window, scorer.score(network, windows).window)
    with pytest.raises(ValueError, match="calibrated with"):
        AnomalyScorer(network.levels, log_snrs=(0.0, 1.0)).load_state_dict(state)


def test_label_margin_is_the_best_other_minus_the_stated():
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.5]])
    torch.testing.assert_close(label_margin(logits, torch.tensor([0, 2])), torch.tensor([-2.0, 2.5]))
    with pytest.raises(ValueError, match="3 classes"):
        label_margin(logits, torch.tensor([0, -1]))


def test_misuse_is_refused(scorer, network, covariance):
    windows = draw(covariance, 2, 0)
    with pytest.raises(RuntimeError, match="not calibrated"):
        AnomalyScorer(network.levels).score(network, windows)
    with pytest.raises(ValueError, match="calibrate again"):
        scorer.score(network, windows[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        scorer.score(network, windows * torch.nan)
    with pytest.raises(ValueError, match="labels and logits"):
        scorer.score(network, windows, labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="20 are needed"):
        AnomalyScorer(network.levels).fit(network, [(draw(covariance, 5, 0), masks(5))])
    still = draw(covariance, 20, 0)
    still[:, :, 0] = 1
    with pytest.raises(ValueError, match="6 voxels inside the mask"):
        ResidualSummary().fit(lambda: [(still[None], masks(20))])
    with pytest.raises(RuntimeError, match="training mode"):
        scorer.score(Exact(covariance), windows)


@pytest.fixture
def rows(covariance, tmp_path) -> list[dict]:
    """Two runs of 50 frames whose last voxels are outside the brain, with three windows each, the last over the end."""
    found = []
    for run in (1, 2):
        frames = draw(covariance, 15, run).flatten(0, 1)[:50].clone()
        frames[:, -1] = 0
        image = nib.Nifti1Image(np.moveaxis(frames.numpy(), 0, -1), np.diag([3.0, 4.0, 5.0, 1.0]))
        image.header.set_zooms((3, 4, 5, 2.5))
        path = tmp_path / f"run{run}.nii"
        nib.save(image, path)
        known = {"image": str(path), "subject": "sub-1", "scan": f"sub-1 run/{run}", "run": run}
        found += [{**known, "block": f"{run}-{s}", "start": s, "frames": 4, "onset": 2.5 * s, "label": 0} for s in (0, 20, 48)]
    return found


def first_class(windows: torch.Tensor, network: nn.Module) -> torch.Tensor:
    return torch.stack([windows[:, 0, 0, 0, 0], torch.zeros(len(windows))], 1)


def test_detect_writes_a_line_per_window_and_a_map_per_run(network, rows, tmp_path):
    scorer = AnomalyScorer(network.levels, summary=ResidualSummary(false_alarm_rate=0.2))
    calibrate(network, scorer, rows, tmp_path / "anomaly.pt", 4, first_class)
    other = AnomalyScorer(network.levels)
    other.load_state_dict(torch.load(tmp_path / "anomaly.pt", weights_only=True))
    found = detect(network, other, rows, tmp_path / "out", batch_size=2, classifier=first_class)
    table = pd.read_csv(tmp_path / "out" / "anomalies.csv")
    assert list(table["block"]) == [row["block"] for row in rows]
    assert list(table["start"]) == [0, 20, 46] * 2
    np.testing.assert_allclose(table["score"], found["score"])
    assert (table["flagged"] == (table["score"] > float(scorer.summary.threshold))).all()
    assert {"frame_0", "frame_3", "label_score", "label_flagged"} <= set(table)

    image = nib.load(tmp_path / "out" / "sub-1-run-1_anomaly.nii.gz")
    assert image.shape == (*GRID, 50)
    np.testing.assert_array_equal(image.affine, np.diag([3.0, 4.0, 5.0, 1.0]))
    np.testing.assert_allclose(image.header.get_zooms(), (3, 4, 5, 2.5))
    volume = image.get_fdata()
    covered = [*range(4), *range(20, 24), *range(46, 50)]
    assert sorted(set(np.nonzero(volume.any((0, 1, 2)))[0])) == covered
    assert not volume[-1].any()
    window = torch.from_numpy(np.moveaxis(nib.load(rows[1]["image"]).get_fdata(dtype=np.float32)[..., 20:24], -1, 0).copy())
    alone = scorer.score(network, window[None])
    np.testing.assert_allclose(volume[..., 20:24], np.moveaxis(alone.map[0].numpy(), 0, -1), atol=1e-3)
    assert found["score"][1] == pytest.approx(float(alone.window[0]), abs=1e-3)


def test_detect_refuses_an_uncalibrated_scorer_and_runs_of_one_name(scorer, network, rows, tmp_path):
    with pytest.raises(RuntimeError, match="not calibrated"):
        detect(network, AnomalyScorer(network.levels), rows, tmp_path)
    with pytest.raises(ValueError, match="several images"):
        detect(network, scorer, [{**row, "scan": "one"} for row in rows], tmp_path)


def test_score_functions_for_the_evaluation(scorer, network, covariance, rows):
    windows, labels = draw(covariance, 5, 8), torch.zeros(5, dtype=torch.long)
    scores, maps = score_function(network, scorer, batch_size=2)(windows, labels, masks(5))
    np.testing.assert_allclose(scores, scorer.score(network, windows).window, atol=1e-4)
    assert maps.shape == windows.shape
    margins, none = score_function(network, scorer, first_class, batch_size=2)(windows, labels, masks(5))
    np.testing.assert_allclose(margins, -windows[:, 0, 0, 0, 0], atol=1e-6)
    assert none is None
    plain, _ = summarised(lambda w: w, rows, 4)(torch.cat([windows, 4 * windows]), labels, masks(10))
    assert (plain[5:] > plain[:5]).all()
