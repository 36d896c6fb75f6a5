from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.networks.schedulers import DDPMScheduler

from custom.errors import BadScan
from custom.handlers.fit_denoiser import FitDenoiser
from custom.handlers.training_state import TrainingState
from custom.networks.gaussian_denoiser import GaussianDenoiser
from custom.networks.noise_level import NoiseLevels
from custom.networks.residual_denoiser import ResidualDenoiser
from custom.networks.signal_scale import SignalScale
from custom.networks.spatiotemporal_unet import SpatioTemporalDiffusionUNet
from custom.transforms.window_rows import read_windows

GRID, FRAMES, RUN_FRAMES, CLASSES, TR = (4, 3, 1), 3, 14, 2, 2.5
AFFINE = np.diag([-3.5, 3.75, 3.75, 1.0]) + np.outer([80, -100, -60, 0], [0, 0, 0, 1])
STARTS = (0, 4, 8, 11)


def write_run(path: Path, seed: int, affine: np.ndarray = AFFINE, tr: float = TR, grid: tuple[int, ...] = GRID) -> None:
    """A prepared run: z scores, 0 in the first row of the grid, and the scale beside it."""
    rng = np.random.default_rng(seed)
    scores, scale = rng.normal(size=(*grid, RUN_FRAMES)), rng.uniform(800, 900, (*grid, 2))
    scores[0], scale[0], scale[..., 1] = 0, 0, scale[..., 1] / 100
    image = nib.Nifti1Image(scores.astype(np.float32), affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    nib.save(image, path)
    nib.save(nib.Nifti1Image(scale.astype(np.float32), affine), path.with_name(f"{path.stem}_scale.nii"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Four windows of a run, the labels in turn."""
    return [
        {"image": str(path), "label": i % CLASSES, "block": f"{path.stem}_block-{i}", "start": start, "frames": FRAMES}
        for i, start in enumerate(STARTS)
    ]


@pytest.fixture
def study(tmp_path: Path) -> list[dict[str, Any]]:
    paths = [tmp_path / f"run-{i}.nii" for i in (1, 2)]
    for seed, path in enumerate(paths):
        write_run(path, seed)
    return [row for path in paths for row in rows_of(path)]


def build(gaussian: bool = True) -> ResidualDenoiser:
    torch.manual_seed(0)
    levels = NoiseLevels(DDPMScheduler(1000).alphas_cumprod)
    unet = SpatioTemporalDiffusionUNet(
        2, CLASSES, FRAMES, channels=(8,), attention_levels=(False,), num_heads=2, head_dim=4, norm_num_groups=4
    )
    closed = GaussianDenoiser(levels, CLASSES, GRID, FRAMES, rank=4) if gaussian else None
    return ResidualDenoiser(SignalScale(GRID), unet, closed)


def start(*handlers: Any) -> None:
    engine = Engine(lambda engine, batch: None)
    for handler in handlers:
        handler.attach(engine)
    engine.run([0])


def frames_of(row: dict[str, Any]) -> np.ndarray:
    """(F, X, Y, Z)."""
    window = nib.load(row["image"]).get_fdata()[..., row["start"] : row["start"] + row["frames"]]
    return np.moveaxis(window, -1, 0).astype(np.float32)


def test_windows_are_those_frames_of_their_runs(study: list[dict]):
    windows = read_windows(study)
    assert type(windows) is torch.Tensor
    np.testing.assert_array_equal(windows, np.stack([frames_of(row) for row in study]))


def test_the_scale_is_that_of_the_runs(study: list[dict]):
    network = build()
    start(FitDenoiser(network, study))
    files = [Path(row["image"]) for row in study[:: len(STARTS)]]
    scales = np.stack([nib.load(f.with_name(f"{f.stem}_scale.nii")).get_fdata() for f in files])
    np.testing.assert_allclose(network.scale.mean, scales[..., 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(network.scale.std, np.sqrt((scales[..., 1] ** 2).mean(0)), rtol=1e-6)
    np.testing.assert_allclose(network.scale.affine, AFFINE)
    assert float(network.scale.repetition_time) == TR


def test_a_run_counts_once_however_many_windows_it_has(study: list[dict]):
    all_of_one, network, other = study[:4] + study[4:5], build(gaussian=False), build(gaussian=False)
    start(FitDenoiser(network, all_of_one))
    start(FitDenoiser(other, study))
    assert torch.equal(network.scale.mean, other.scale.mean)


def test_the_closed_form_is_fitted_to_the_windows(study: list[dict]):
    network, expected = build(), build()
    start(FitDenoiser(network, study))
    windows = np.stack([frames_of(row) for row in study])
    expected.gaussian.fit(torch.from_numpy(windows), torch.tensor([0, 1] * 4))
    for name, value in expected.gaussian.state_dict().items():
        torch.testing.assert_close(network.gaussian.state_dict()[name], value, rtol=0, atol=0)
    assert network.gaussian.class_maps[0].any()
    np.testing.assert_array_equal(network.gaussian.mask.reshape(GRID)[0], np.zeros((3, 1)))


def test_windows_of_no_class_are_left_out(study: list[dict]):
    network, expected = build(), build()
    start(FitDenoiser(network, [*study, study[0] | {"label": -1, "start": 2}]))
    start(FitDenoiser(expected, study))
    torch.testing.assert_close(network.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_a_network_alone_gets_its_scale(study: list[dict]):
    network = build(gaussian=False)
    start(FitDenoiser(network, study))
    assert network.scale.mean.max() > 800


def test_a_resumed_training_keeps_what_was_fitted_then(study: list[dict], tmp_path: Path):
    engine = Engine(lambda engine, batch: None)
    engine.state.device = torch.device("cpu")
    engine.state.best_metric, engine.state.best_metric_epoch = 0.0, 0
    datalist, first, second = {"split": {"digest": {"training": "a"}}}, build(), build()
    start(FitDenoiser(first, study))
    TrainingState(str(tmp_path / "last.pt"), {"model": first}, engine, datalist).save(engine)
    FitDenoiser(second, study[:4]).attach(engine)
    TrainingState(str(tmp_path / "last.pt"), {"model": second}, engine, datalist, resume=True).attach(engine)
    engine.run([0])
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


# ---- what is refused


def test_a_run_without_a_scale(study: list[dict], tmp_path: Path):
    (tmp_path / "run-2_scale.nii").unlink()
    with pytest.raises(FileNotFoundError, match=r"run-2_scale\.nii does not exist: prepare the study with a scale_key"):
        start(FitDenoiser(build(), study))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"tr": 2.1}, "TR 2.1 s, or the affine, differ from those of .*run-1.nii, .*2.5 s"),
        ({"affine": AFFINE + np.outer([0.5, 0, 0, 0], [0, 0, 0, 1])}, "or the affine, differ"),
        ({"grid": (4, 4, 1)}, r"grid \(4, 4, 1\) .* \(4, 3, 1\) .* prepare one study on one grid"),
    ],
)
def test_runs_that_do_not_lie_on_one_grid(study: list[dict], tmp_path: Path, other: dict, message: str):
    write_run(tmp_path / "run-2.nii", 1, **other)
    with pytest.raises(BadScan, match=rf"run-2\.nii: .*{message}"):
        start(FitDenoiser(build(), study))


def test_a_window_that_reaches_beyond_its_run(study: list[dict]):
    late = study[-1] | {"start": RUN_FRAMES - 1, "block": "run-2_block-9"}
    with pytest.raises(ValueError, match=r"run-2\.nii: 1 of the 3 frames from .* windows of 3 whole frames"):
        start(FitDenoiser(build(), [*study, late]))


def test_windows_of_several_lengths(study: list[dict]):
    study[3] = study[3] | {"frames": 2}
    with pytest.raises(ValueError, match=r"run-1\.nii: 2 of the 2 frames .* were measured, windows of 3 .* --frames"):
        read_windows(study)


def test_a_class_with_one_window(study: list[dict]):
    with pytest.raises(ValueError, match=r"per class are \[2, 1\]"):
        start(FitDenoiser(build(), study[:3]))


def test_rows_without_a_class(study: list[dict]):
    with pytest.raises(ValueError, match="no training window has a class"):
        FitDenoiser(build(), [row | {"label": -1} for row in study])
