from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib.figure import Figure

from custom.diffusion.dpm_solver import DPMSolverScheduler
from custom.diffusion.generate import generate
from custom.handlers.generation_pictures import GenerationPictures
from custom.networks.gaussian_denoiser import GaussianDenoiser
from custom.networks.noise_level import NoiseLevels

GRID, FRAMES, NAMES, STEPS = (5, 4, 1), 3, ["face", "house"], 5
BRAIN = np.arange(20).reshape(GRID) % 7 != 0
METRICS = {"val_loss": 0.5, "val_loss_timestep_062": 0.9, "val_loss_timestep_500": 0.3, "other": 7.0}


class Board:
    """What a summary writer would have been given."""

    def __init__(self) -> None:
        self.figures: dict[tuple[str, int], Figure] = {}

    def add_figure(self, tag: str, figure: Figure, global_step: int) -> None:
        self.figures[tag, global_step] = figure

    def images(self, tag: str) -> list[np.ndarray]:
        """What the panels of a picture show, (X, Y) each, NaN outside the brain."""
        axes = self.figures[f"generation/{tag}", 2].axes
        return [ax.images[0].get_array().filled(np.nan).T for ax in axes if ax.images]


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Four windows of one run, 0 outside the brain."""
    voxels = np.random.default_rng(0).normal(size=(*GRID, 12)) * BRAIN[..., None]
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), tmp_path / "run.nii")
    return [
        {"image": str(tmp_path / "run.nii"), "label": i % 2, "start": 3 * i, "frames": FRAMES, "block": str(i)}
        for i in range(4)
    ]


def sampler() -> DPMSolverScheduler:
    return DPMSolverScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)


def network() -> GaussianDenoiser:
    torch.manual_seed(0)
    known = GaussianDenoiser(NoiseLevels(sampler().alphas_cumprod), len(NAMES), GRID, FRAMES, rank=4)
    known.fit(torch.randn(8, FRAMES, *GRID) * torch.from_numpy(BRAIN), torch.arange(8) % 2)
    return known


def validate(rows: list[dict], epoch: int = 2, **options: Any) -> Board:
    """An epoch of validation as MONAI's ValidationHandler runs it."""
    board, engine = Board(), Engine(lambda engine, batch: None)
    engine.state.device, engine.state.metrics = torch.device("cpu"), dict(METRICS)
    GenerationPictures(network(), sampler(), STEPS, rows, NAMES, board, interval=2, film=4, **options).attach(engine)
    engine.state.epoch = epoch - 1
    engine.run([0], max_epochs=epoch)
    return board


def test_every_other_epoch_gets_three_pictures(rows: list[dict]):
    assert validate(rows, epoch=1).figures == {}
    names = [("generation/film", 2), ("generation/class_maps", 2), ("generation/loss_by_noise_level", 2)]
    assert list(validate(rows).figures) == names
    assert ("generation/film", 4) in validate(rows, epoch=4).figures


def test_class_maps_are_means_of_windows_real_above_generated(rows: list[dict]):
    found = validate(rows, per_class=3).images("class_maps")
    run = nib.load(rows[0]["image"]).get_fdata()
    real = [np.concatenate([run[..., 3 * i : 3 * i + 3] for i in (label, label + 2)], -1).mean(-1) for label in (0, 1)]
    scheduler = sampler()
    scheduler.set_timesteps(STEPS)
    samples = generate(network(), scheduler, (FRAMES, *GRID), [0, 0, 0, 1, 1, 1], range(6)).numpy()
    generated = [samples[3 * label : 3 * label + 3].mean((0, 1)) for label in (0, 1)]
    for panel, expected in zip(found, real + generated, strict=True):
        np.testing.assert_allclose(panel, np.where(BRAIN, expected, np.nan)[..., 0], rtol=1e-4, atol=1e-5)


def test_a_class_that_was_not_validated_has_an_empty_map(rows: list[dict]):
    found = validate([row for row in rows if row["label"] == 0]).images("class_maps")
    assert not found[1][BRAIN[..., 0]].any()
    assert all(np.isfinite(panel[BRAIN[..., 0]]).all() for panel in found)


def test_the_film_of_a_class_ends_in_its_first_sample(rows: list[dict]):
    found = validate(rows).images("film")
    assert len(found) == 2 * 4
    scheduler = sampler()
    scheduler.set_timesteps(STEPS)
    samples = generate(network(), scheduler, (FRAMES, *GRID), [0, 1], [0, 2]).numpy()  # two seeds per class
    for row, sample in enumerate(samples):
        np.testing.assert_allclose(
            found[4 * row + 3], np.where(BRAIN, sample[FRAMES // 2], np.nan)[..., 0], rtol=1e-4, atol=1e-5
        )


def test_the_curve_has_the_loss_of_every_level(rows: list[dict]):
    (line,) = validate(rows).figures["generation/loss_by_noise_level", 2].axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [[62, 0.9], [500, 0.3]])


def test_pictures_are_the_same_every_time_and_leave_the_random_state(rows: list[dict]):
    pictures = []
    for seed in (1, 2):
        known, board, engine = network(), Board(), Engine(lambda engine, batch: None)
        engine.state.device, engine.state.metrics, engine.state.epoch = torch.device("cpu"), dict(METRICS), 2
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        GenerationPictures(known, sampler(), STEPS, rows, NAMES, board, interval=2, film=4)(engine)
        assert torch.equal(torch.get_rng_state(), state)
        assert known.training
        pictures.append(np.stack(board.images("film")))
    np.testing.assert_array_equal(*pictures)
